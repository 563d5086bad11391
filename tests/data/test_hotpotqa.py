"""HotpotQA's records as long documents."""

import collections
import json
import re

import damage
import hypothesis
import official_files
import pytest

from gru_mem_jax.data.hotpotqa import HotpotQASource, read_hotpotqa
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError


def record(number, **changes):
    """Three paragraphs of two sentences; the second of A and the first of B count."""
    record = {
        "_id": f"id{number}",
        "question": f"Which {number}?",
        "answer": f"answer {number}",
        "supporting_facts": [[f"A{number}", 1], [f"B{number}", 0]],
        "context": [
            [f"{title}{number}", [f"{title}{number} is one.", f" {title}{number} two."]]
            for title in "CAB"
        ],
        "type": "bridge",
        "level": "hard",
    }
    record |= changes
    return {k: v for k, v in record.items() if v is not None}


def source(tmp_path, records, **fields):
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return HotpotQASource(path=str(path), **{"paragraphs": 6} | fields)


def shown(example):
    return [example.document[a:b] for a, b in example.evidence]


def test_a_document_of_own_and_other_paragraphs(tmp_path):
    item = source(tmp_path, [record(i) for i in range(5)])
    for position in range(10):
        example = item.example(position)
        number = example.id.removeprefix("id")
        assert example.question == f"Which {number}?"
        assert example.answers == (f"answer {number}",)
        assert (example.task, example.scoring) == ("hotpotqa", "equivalent")
        assert sorted(shown(example)) == [f"A{number} two.", f"B{number} is one."]
        parts = example.document.split("\n\n")
        heads = [part.split("\n")[:2] for part in parts]
        assert [head[0] for head in heads] == [f"Document {i}:" for i in range(1, 7)]
        titles = [head[1] for head in heads]
        assert len(set(titles)) == 6
        own = {f"{title}{number}" for title in "ABC"}
        assert own < set(titles)


def test_plain_form_without_others(tmp_path):
    item = source(tmp_path, [record(1)], paragraphs=3, form="plain")
    example = item.example(0)
    paragraphs = {f"{t}1\n{t}1 is one. {t}1 two." for t in "ABC"}
    assert set(example.document.split("\n\n")) == paragraphs


def test_fewer_paragraphs_than_a_record_has(tmp_path):
    item = source(tmp_path, [record(1), record(2)], paragraphs=2)
    for position in range(4):
        example = item.example(position)
        assert "C" not in example.document
        assert len(example.evidence) == 2
    with pytest.raises(InputError, match="paragraphs is 1, but the evidence of record"):
        source(tmp_path, [record(1), record(2)], paragraphs=1).example(0)


def test_equal_positions_are_equal_and_epochs_differ(tmp_path):
    records = [record(i) for i in range(7)]
    first, second = (source(tmp_path, records) for _ in range(2))
    examples = [first.example(i) for i in range(14)]
    assert [second.example(i) for i in reversed(range(14))] == examples[::-1]
    for epoch in (examples[:7], examples[7:]):
        assert len({example.id for example in epoch}) == 7
    documents = collections.defaultdict(set)
    for example in examples:
        documents[example.id].add(example.document)
    assert all(len(each) == 2 for each in documents.values())
    other = source(tmp_path, records, seed=1)
    assert [other.example(i).id for i in range(7)] != [e.id for e in examples[:7]]
    assert first == second
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The second sentence is blank, the fact beyond the last.
        ({"context": [["A1", ["One.", " "]], ["B1", ["Two."]]]}, ["One.", "Two."]),
        (
            {"supporting_facts": [["A1", 9], ["B1", 1]]},
            ["A1 is one. A1 two.", "B1 two."],
        ),
        ({"supporting_facts": [["A1", 0], ["A1", 9]]}, ["A1 is one."]),
        (  # a title twice: the first counts
            {
                "context": [["A1", ["x", " y"]], ["A1", ["z"]], ["B1", ["w"]]],
                "supporting_facts": [["A1", 1], ["B1", 0]],
            },
            ["w", "y"],
        ),
    ],
)
def test_what_official_files_hold_too(changes, expected, tmp_path):
    item = source(tmp_path, [record(1, **changes), record(2)], paragraphs=4)
    found = {item.example(i).id: item.example(i) for i in range(2)}
    assert sorted(shown(found["id1"])) == expected


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ([], "record 1 must be an object, got list"),
        (record(1, answer=None), "record 1 has no field 'answer'"),
        (record(1, answer=" "), "record 1.answer is empty"),
        (record(1, question=3), "record 1.question must be text, got 3"),
        (record(1, question="\ud800"), "record 1.question: character 0 is the lone"),
        (record(1, context={}), "record 1.context must be a list"),
        (record(1, context=[["A1"]]), "record 1.context: expected pairs"),
        (record(1, context=[["A1", "x"]]), "the second of a pair must be a list"),
        (record(1, context=[["A1", [1]]]), "context: a sentence must be text"),
        (record(1, context=[["A1", ["\udfff"]]]), "a sentence: character 0"),
        (record(1, supporting_facts=[["A1", "0"]]), "must be a whole number, got '0'"),
        (record(1, supporting_facts=[["A1", True]]), "must be a whole number"),
        (record(1, supporting_facts=[["Z", 0]]), "'Z' is not in its context; take"),
        (record(1, supporting_facts=[]), "record 1: has no supporting fact"),
        (record(0), "record 1: has the id '.* of record 0"),
        (record(1, answer=":}"), r"record 1: no answer can match answers .*'id1'"),
    ],
)
def test_records_that_are_none(bad, expected, tmp_path):
    item = source(tmp_path, [record(0), bad])
    with pytest.raises(InputError, match=expected) as caught:
        item.example(0)
    assert "hotpot.json: record 1" in str(caught.value)


def test_files_and_settings_that_are_none(tmp_path):
    for value, expected in (
        ({}, "must be a list"),
        ([], "holds no record"),
        (
            [record(0)],
            "has 3 paragraphs of different titles, too few for documents of 6",
        ),
    ):
        with pytest.raises(InputError, match=expected):
            source(tmp_path, value).example(0)
    (tmp_path / "hotpot.json").write_text('[{"a": ')
    with pytest.raises(InputError, match=r"hotpot.json: is not JSON"):
        HotpotQASource(path=str(tmp_path / "hotpot.json")).example(0)
    for fields in ({"paragraphs": 0}, {"form": "x"}, {"scoring": "x"}, {"seed": "1"}):
        with pytest.raises(InputError, match="must be"):
            HotpotQASource(path="x", **fields)


BRIDGE = {
    "question": "When did the sister ship of the Alpha sink?",
    "answer": "1912",
    "supporting_facts": [["Alpha (ship)", 0], ["Beta (ship)", 0]],
    "context": [
        ["Other", ["Nothing."]],
        ["Beta (ship)", ["She sank in 1912."]],
        ["Alpha (ship)", ["Her sister ship was the beta.", " She was red."]],
    ],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (-1, 1, 0)),
        ({"type": "comparison"}, (-1, 0, 0)),
        ({"type": None}, ()),
        # The first does not name the second, or not in its evidence.
        ({"context": [["Alpha (ship)", ["A."]], ["Beta (ship)", ["1912."]]]}, ()),
        ({"supporting_facts": [["Alpha (ship)", 1], ["Beta (ship)", 0]]}, ()),
        ({"context": [["Alpha (ship)", ["Betas."]], ["Beta (ship)", ["1912."]]]}, ()),
        # The question names the second; the answer is in the first too, or in none.
        ({"question": "When did the Beta sink?"}, ()),
        ({"answer": "beta"}, ()),
        ({"answer": "1913"}, ()),
        # Each names the other.
        (
            {
                "context": [
                    ["Beta (ship)", ["Sister of the Alpha, sank in 1912."]],
                    ["Alpha (ship)", ["Sister of the Beta."]],
                ]
            },
            (),
        ),
        # Of three one does not come first.
        (
            {
                "supporting_facts": [
                    ["Alpha (ship)", 0],
                    ["Beta (ship)", 0],
                    ["Other", 0],
                ]
            },
            (),
        ),
    ],
)
def test_the_order_of_evidence_as_far_as_the_text_tells(changes, expected, tmp_path):
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps([record(1, **BRIDGE | changes)]))
    file = read_hotpotqa(str(path), lambda item: None)
    assert not file.bad
    assert file.questions[0][1].steps == expected


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(record=damage.damaged(record(1, **BRIDGE)))
def test_damaged_records(record, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged_hotpot.json"
    path.write_text(json.dumps([official_files.hotpotqa(2), record]))
    file = read_hotpotqa(str(path), lambda item: None)
    assert file.questions[0][1].id == "h2"
    assert len(file.questions) + len(file.bad) == 2


def test_real_records(shared_dir):
    path = shared_dir / "data/hotpotqa/hotpot_train_subset.json"
    item = HotpotQASource(path=str(path))
    gold = {r["_id"]: r for r in json.loads(path.read_text(encoding="utf-8"))}
    tokens = []
    for position in range(0, 100, 7):
        example = item.example(position)
        own = gold[example.id]
        texts = dict(own["context"])
        facts = {(title, index) for title, index in own["supporting_facts"]}
        assert sorted(shown(example)) == sorted(texts[t][i].strip() for t, i in facts)
        titles = re.findall(r"^Document \d+:\n(.*)$", example.document, re.MULTILINE)
        assert len(set(titles)) == len(titles) == 200
        assert set(texts) <= set(titles)
        assert score(own["answer"], example.answers, example.scoring) == 1.0
        tokens.append(len(example.document) / 4.5)
    assert 24_000 < sum(tokens) / len(tokens) < 33_000  # about 28k in the paper


def test_documents_are_written_as_memagent_writes_them(shared_dir):
    """The same paragraphs in another order make the sample's text, but for numbers."""
    folder = shared_dir / "data"
    samples = json.loads(
        (folder / "memagent_form/eval_50_sample.json").read_text(encoding="utf-8")
    )
    path = folder / "hotpotqa/hotpot_dev_distractor_subset.json"
    item = HotpotQASource(path=str(path), paragraphs=50)
    count = len(json.loads(path.read_text(encoding="utf-8")))
    ours = {e.question: e for e in map(item.example, range(count))}
    shared = 0
    for sample in samples:
        example = ours.get(sample["input"])
        if example is None:
            continue
        texts = [
            {
                part.split("\n", 1)[1]
                for part in re.split(r"\n\n(?=Document \d+:\n)", text)
            }
            for text in (sample["context"], example.document)
        ]
        assert len(texts[0]) == len(texts[1]) == 50
        shared += len(texts[0] & texts[1]) >= 10  # the record's own
    assert shared >= 5
