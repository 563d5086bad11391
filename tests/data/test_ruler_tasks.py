"""RULER's tasks without needles, built from a seed and from files."""

import collections
import json
import pathlib
import re

import pytest

from gru_mem_jax.agent.chunking import evidence_labels, iter_chunks
from gru_mem_jax.data.builders import Length, Ruler
from gru_mem_jax.data.builders.ruler import upstream_input
from gru_mem_jax.data.builders.ruler.wording import ANSWER_ROOM, NOISE
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing import ByteEncoder

pytest.importorskip("wonderwords")

ENCODER = ByteEncoder()


def tokens(*counts):
    return tuple(Length("tokens", count) for count in counts)


@pytest.fixture
def sources(tmp_path):
    """Files of SQuAD and HotpotQA, by task."""
    articles = []
    for a in range(12):
        paragraphs = []
        for p in range(4):
            text = f"Of {a} and {p}. The town has {100 * a + p} wells. It is old."
            answer = f"{100 * a + p}"
            start = text.index(f"{answer} wells")
            answers = [{"text": answer, "answer_start": start}] * 2
            asked = f"How many wells has town {a}.{p}?"
            record = {"id": f"s{a}.{p}", "question": asked, "answers": answers}
            paragraphs.append({"context": text, "qas": [record]})
        articles.append({"title": f"Town {a}", "paragraphs": paragraphs})
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": articles}))
    records = []
    for r in range(12):
        context = [[f"T{r}.{t}", [f"It is {t} of {r}.", " So."]] for t in range(5)]
        context[0][1][1] = f" T{r}.3 made it."
        context[3][1][1] = f" Its colour is shade{r}."
        records.append({
            "_id": f"h{r}",
            "question": f"What colour has the maker of T{r}.0?",
            "answer": f"shade{r}",
            "supporting_facts": [[f"T{r}.0", 1], [f"T{r}.3", 1]],
            "context": context,
            "type": "bridge",
        })  # fmt: skip
    hotpotqa = tmp_path / "hotpotqa.json"
    hotpotqa.write_text(json.dumps(records))
    return {"qa_1": (str(squad),), "qa_2": (str(hotpotqa),)}


@pytest.fixture
def recipe(sources):
    def make(task, lengths, **fields):
        fields = {"num_questions": 4, "encoder": ENCODER} | fields
        fields = {"sources": sources.get(task, ())} | fields
        return Ruler(task=task, lengths=lengths, **fields)

    return make


def examples(recipe, length=None):
    pool = list(recipe.pool())
    assert len(set(pool)) == len(pool)
    length = length or recipe.lengths[0]
    return [item.example(pool.__getitem__) for item in recipe.questions(length)]


def test_a_chain_is_evidence_in_its_order(recipe):
    for example in examples(recipe("vt", tokens(9000))):
        lines = example.document.split("\n")
        said = [line for line in lines if line != NOISE]
        value = re.search("value ([0-9]{5}) in the text above", example.question)[1]
        first, *names = example.answers
        assert said[0] == f"VAR {first} = {value}"
        assert len(example.answers) == len(set(example.answers)) == len(said) == 5
        for name, line in zip(names, said[1:]):
            assert line == f"VAR {name} = VAR {first} "
            first = name
        spans = [example.document[a:b] for a, b in example.evidence]
        assert spans == [line.rstrip() for line in said]
        assert example.evidence_order == (0, 1, 2, 3, 4)
        # One worked example, of other names in each question, outside of the document.
        assert example.metadata["instruction"].count("VAR ") == 9
        assert "VAR" not in example.question
    worked = {e.metadata["instruction"] for e in examples(recipe("vt", tokens(9000)))}
    assert len(worked) == 4


def test_common_words_occur_30_times_others_3_times(recipe):
    lengths = tokens(9000, 16000)
    made = recipe("cwe", lengths)
    short, long = (examples(made, length) for length in lengths)
    for a, b in zip(short, long):
        assert (a.answers, len(a.answers)) == (b.answers, 10)
        held = []
        for example in (a, b):
            words = [w for w in re.split(r" ?\d+\. ", example.document) if w]
            numbers = re.findall(r"(?:^| )(\d+)\. ", example.document)
            assert numbers == [str(i + 1) for i in range(len(words))]
            often = collections.Counter(words)
            assert [often[word] for word in example.answers] == [30] * 10
            assert {often[w] for w in often if w not in example.answers} == {3}
            held.append(words)
        assert len(held[0]) < len(held[1])
        left = iter(held[1])
        assert all(word in left for word in held[0])
    assert len({example.answers for example in long}) == 4


def test_a_short_list_of_words_has_rulers_smaller_numbers(recipe):
    for example in examples(recipe("cwe", tokens(3500))):
        words = [w for w in re.split(r" ?\d+\. ", example.document) if w]
        often = collections.Counter(words)
        assert [often[word] for word in example.answers] == [6] * 10
        assert {often[w] for w in often if w not in example.answers} == {1}


def test_more_words_than_wonderwords_has(recipe, tmp_path):
    with pytest.raises(InputError, match="english_words"):
        examples(recipe("cwe", tokens(900_000)))
    path = tmp_path / "words.json"
    path.write_text(json.dumps({str(i): f"word{i:06}" for i in range(60_000)}))
    made = recipe("cwe", tokens(900_000), words=str(path), num_questions=1)
    (example,) = examples(made)
    assert set(re.findall("[a-z]+", example.document)) == {"word"}
    assert len(made.settings()["words_sha256"]) == 64
    path.write_text('["a", 1]')
    with pytest.raises(InputError, match="word 1 must be text"):
        examples(recipe("cwe", tokens(900_000), words=str(path)))


def test_coded_words_follow_zipfs_law(recipe):
    lengths = tokens(3000, 12000)
    made = recipe("fwe", lengths)
    short, long = (examples(made, length) for length in lengths)
    for a, b in zip(short, long):
        for example in (a, b):
            often = collections.Counter(example.document.split(" ")).most_common()
            assert often[0][0] == "..."
            assert tuple(word for word, _ in often[1:4]) == example.answers
            for rank, (_, count) in enumerate(often, 1):
                # Words of one key come one after the other: one may lack its last.
                assert 0 <= often[0][1] // rank**2 - count <= 1
        assert a.answers == b.answers
        left = iter(b.document.split(" "))
        assert all(word in left for word in a.document.split(" "))
    assert len({example.answers for example in long}) == 4


@pytest.mark.parametrize("task", ["cwe", "fwe"])
def test_every_chunk_is_evidence_where_all_text_is(task, recipe):
    for example in examples(recipe(task, tokens(9000))):
        chunks = list(iter_chunks(example.document, ENCODER, 700))
        labels, last = evidence_labels(
            [(c.start, c.end) for c in chunks], example.evidence
        )
        assert all(labels[:-1])
        assert last >= len(chunks) - 2


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_questions_stand_among_documents(task, recipe):
    lengths = (Length("documents", 9), Length("documents", 40))
    made = recipe(task, lengths, encoder=None)
    short, long = (examples(made, length) for length in lengths)
    held = {"qa_1": 1, "qa_2": 2}[task]
    for number, (a, b) in enumerate(zip(short, long)):
        for length, example in zip(lengths, (a, b)):
            parts = re.split(r"(?:^|\n\n)Document \d+:\n", example.document)[1:]
            assert len(parts) == len(set(parts)) == length.count
            spans = [example.document[x:y] for x, y in example.evidence]
            assert len(spans) == held
            assert example.answers[0] in " ".join(spans)
            if task == "qa_1":
                assert spans == [f"The town has {number} wells."]
                assert example.evidence_order == (0,)
                # The article's other paragraphs are there first.
                assert sum(f"Of 0 and {p}." in example.document for p in range(4)) == 4
            else:
                first, last = f"T{number}.3 made it.", f"Its colour is shade{number}."
                assert set(spans) == {first, last}
                steps = dict(zip(spans, example.evidence_order))
                assert steps == {first: 0, last: 1}
                assert all(f"T{number}.{t}\n" in example.document for t in range(5))
            assert (example.task, example.scoring) == (task, "any")
        left = iter(b.document.split("\n"))
        lines = [line for line in a.document.split("\n") if "Document" not in line]
        assert all(line in left for line in lines)
    assert len({b.evidence for b in long}) > 1  # not at one place in all


def test_documents_come_again_if_there_are_too_few(recipe):
    made = recipe("qa_1", (Length("documents", 100),), encoder=None)
    for example in examples(made):
        assert example.document.count("Of 5 and 1.") >= 2
        start, end = example.evidence[0]
        assert example.document.count(example.document[start:end]) == 1


@pytest.mark.parametrize("task", ["vt", "cwe", "fwe", "qa_1", "qa_2"])
def test_a_length_in_tokens_is_that_of_the_whole_input(task, recipe):
    for example in examples(recipe(task, tokens(9000))):
        whole = upstream_input(example) + example.metadata["answer_prefix"]
        length = len(ENCODER.encode(whole)) + ANSWER_ROOM[task]
        assert 9000 - 200 < length <= 9000 or task.startswith("qa_")
        assert 3000 < length <= 9000


@pytest.mark.parametrize("task", ["vt", "qa_1", "qa_2"])
@pytest.mark.parametrize(
    ("rule", "low", "high"), [("first_20", 0, 0.25), ("last_20", 0.75, 1)]
)
def test_evidence_can_stand_at_one_end(task, rule, low, high, recipe):
    lengths = tokens(20000) if task == "vt" else (Length("documents", 40),)
    for example in examples(recipe(task, lengths, evidence_position=rule)):
        for start, _ in example.evidence:
            assert low <= start / len(example.document) <= high


@pytest.mark.parametrize("task", ["vt", "cwe", "fwe", "qa_1", "qa_2"])
def test_equal_recipes_give_equal_sets(task, recipe):
    one, same, other = (recipe(task, tokens(9000), seed=seed) for seed in (1, 1, 2))
    assert examples(one) == examples(same) != examples(other)
    assert one.settings() == same.settings() != other.settings()
    assert json.loads(json.dumps(one.settings())) == one.settings()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "vt", "lengths": tokens(700)}, "of which vt needs 5 lines"),
        ({"task": "vt", "haystack": "noise"}, "a setting of needle tasks"),
        ({"task": "cwe", "num_keys": 2}, "a setting of needle tasks"),
        ({"task": "fwe", "words": "w.json"}, "words is a setting of cwe"),
        ({"task": "cwe", "lengths": tokens(1500)}, "too few for question 0"),
        ({"task": "fwe", "lengths": tokens(600)}, "too few for question 0"),
        ({"task": "qa_1"}, "set sources to dev-v2.0.json"),
        ({"task": "qa_1", "sources": ("no.json",)}, "no.json: No such.*dev-v2.0.json"),
        ({"task": "vt", "sources": ("no.json",)}, "a setting of qa_1 and qa_2"),
        (
            {"task": "qa_2", "lengths": (Length("documents", 9), Length("tokens", 9))},
            "must not mix",
        ),
    ],
)
def test_wrong_settings_are_told(fields, says):
    fields = {"lengths": tokens(9000), "encoder": ENCODER} | fields
    with pytest.raises(InputError, match=says):
        examples(Ruler(**fields))


def test_bad_records_and_too_few_are_told(recipe, sources, tmp_path):
    with pytest.raises(InputError, match="has 12 questions for num_questions 13"):
        examples(recipe("qa_2", tokens(9000), num_questions=13))
    with pytest.raises(InputError, match="4 documents are too few for question h0"):
        examples(recipe("qa_2", (Length("documents", 4),)))
    path = tmp_path / "bad.json"
    record = json.loads(pathlib.Path(*sources["qa_2"]).read_text())[0]
    path.write_text(json.dumps([record, record | {"_id": "x", "answer": 3}]))
    with pytest.raises(InputError, match=r"bad.json: record 1.answer .*hotpot_dev"):
        examples(recipe("qa_2", tokens(9000), sources=(str(path),)))


# (prediction, outputs, string_match_all, string_match_part): run in upstream's
# scripts/eval/synthetic/constants.py, in percent.
UPSTREAM = [
    ("It is 5437923.", ["5437923"], 100.0, 100.0),
    ("It is 5437924.", ["5437923"], 0.0, 0.0),
    ("1000001, 1000003", ["1000001", "1000002", "1000003", "1000004"], 50.0, 100.0),
    ("abcde fghij", ["ABCDE", "FGHIJ", "KLMNO"], 66.67, 100.0),
    ("chief OF protocol", ["Chief of Protocol"], 100.0, 100.0),
    ("Protocol", ["Chief of Protocol"], 0.0, 0.0),
    ("in the 10th century", ["10th", "the 10th century", "11th"], 66.67, 100.0),
    ("red", ["green", "blue"], 0.0, 0.0),
]


@pytest.mark.parametrize(("prediction", "outputs", "share", "some"), UPSTREAM)
def test_scores_are_upstreams(prediction, outputs, share, some):
    assert round(100 * score(prediction, outputs, "part"), 2) == share
    assert round(100 * score(prediction, outputs, "any"), 2) == some
