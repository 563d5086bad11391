"""MemAgent's evaluation files."""

import json
import re

import official_files
import pytest

from gru_mem_jax.data import MemAgentSource
from gru_mem_jax.data.builders import Length, LongHotpotQA
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError


def shown(example):
    return [example.document[a:b] for a, b in example.evidence]


@pytest.fixture
def official(tmp_path):
    return official_files.write(
        tmp_path / "hotpot.json", official_files.hotpotqa, range(9)
    )


@pytest.fixture
def write(tmp_path, official):
    """Writes records in MemAgent's form, made of a set of ours."""
    recipe = LongHotpotQA(
        sources=(official,), lengths=(Length("documents", 12),), num_questions=5
    )
    texts = list(recipe.pool())
    made = [q.example(texts.__getitem__) for q in recipe.questions(recipe.lengths[0])]
    records = [
        {
            "context": example.document,
            "input": example.question,
            "answers": list(example.answers),
            "num_docs": 12,
            "index": number,
        }
        for number, example in enumerate(made)
    ]

    def write(**changes):
        path = tmp_path / "eval_12.json"
        path.write_text(json.dumps([records[0] | changes, *records[1:]]))
        return str(path), made

    return write


def test_records_with_the_evidence_of_the_official_file(write, official):
    path, made = write()
    source = MemAgentSource(path=path, hotpotqa=official)
    read = {example.id: example for example in map(source.example, range(5))}
    for number, expected in enumerate(made):
        example = read[str(number)]
        assert (example.question, example.answers, example.document) == (
            expected.question,
            expected.answers,
            expected.document,
        )
        assert example.evidence == expected.evidence != ()
        assert example.evidence_order == expected.evidence_order
        assert (example.task, example.scoring) == ("hotpotqa", "boxed")
    bare = MemAgentSource(path=path)
    assert not any(bare.example(i).evidence for i in range(5))
    assert bare.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"index": "0"}, "record 0.index must be a whole number, got '0'"),
        ({"index": 1}, "record 1: has the id '1' of record 0"),
        ({"context": [4, 2]}, "record 0.context is numbers of paragraphs, as MemAgent"),
        ({"context": ""}, "record 0.context is empty"),
        ({"input": None}, "record 0.input must be text"),
        ({"answers": "x"}, "record 0.answers must be a list"),
        ({"answers": [3]}, "record 0.answers: an entry must be text"),
        ({"answers": []}, "record 0: no answer can match"),
        ({"input": "Another?"}, "its question 'Another?' is not in "),
        ({"context": "Document 1:\nx\ny"}, "its context lacks the paragraph"),
    ],
)
def test_records_that_are_none(changes, expected, write, official):
    path, _ = write(**changes)
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        MemAgentSource(path=path, hotpotqa=official).example(0)
    assert "1 of 5 records is bad: " in str(caught.value)
    skipping = MemAgentSource(path=path, hotpotqa=official, on_bad_record="skip")
    assert len({skipping.example(i).id for i in range(8)}) == 4


def test_files_that_are_none(tmp_path):
    path = tmp_path / "eval.json"
    for text, expected in (
        ("{}", "must be a list"),
        ("[]", "holds no record"),
        ('[{"in', "is not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=expected):
            MemAgentSource(path=str(path)).example(0)
    with pytest.raises(InputError, match="scoring must be one of"):
        MemAgentSource(path=str(path), scoring="sub_em")


def test_a_real_file(shared_dir):
    """Eight records; the official subset has five of their questions."""
    path = str(shared_dir / "data/memagent_form/eval_50_sample.json")
    bare = MemAgentSource(path=path)
    examples = {example.id: example for example in map(bare.example, range(8))}
    assert sorted(examples) == [str(number) for number in range(8)]
    assert examples["4"].answers == ("9,984",)
    assert examples["4"].document.count("\n\nDocument ") == 49
    # As MemAgent scores: contained either way; but not where nothing is said.
    for said, value in (("about 9984 people", 1), ("9", 1), ("8,984", 0), ("the", 0)):
        assert score(said, examples["4"].answers, examples["4"].scoring) == value
    labelled = MemAgentSource(
        path=path,
        hotpotqa=str(shared_dir / "data/hotpotqa/hotpot_dev_distractor_subset.json"),
        on_bad_record="skip",
    )
    records = labelled.records()
    assert [bad.id for bad in records.bad] == ["0", "1", "4"]
    assert all("is not in " in bad.reason for bad in records.bad)
    found = dict(example for example in records.good)
    assert all(example.evidence for example in found.values())
    assert any("stage name Aladin" in text for text in shown(found["record 2"]))
