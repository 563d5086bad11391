"""RULER's needle tasks, built from a seed."""

import re

import pytest

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.data.builders import Length, Ruler
from gru_mem_jax.data.builders.ruler import TASKS, upstream_input
from gru_mem_jax.data.builders.ruler.needles import DEPTHS
from gru_mem_jax.data.builders.ruler.wording import ANSWER_ROOM, NEEDLES
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing import ByteEncoder

pytest.importorskip("wonderwords")

ENCODER = ByteEncoder()
ESSAY = " ".join(
    f"On day {i} the {what} of the harbour saw {i * 7 % 31} ships come in."
    for i in range(120)
    for what in ("keeper", "mayor of the town", "cat")
)


def tokens(*counts):
    """Lengths."""
    return tuple(Length("tokens", count) for count in counts)


SHORT = tokens(6000)


@pytest.fixture
def essay(tmp_path):
    path = tmp_path / "essay.txt"
    path.write_text(ESSAY.replace(". On", ".\n\n On"), encoding="utf-8")
    return str(path)


@pytest.fixture
def recipe(essay):
    def make(task, lengths=SHORT, **fields):
        if task in NEEDLES and NEEDLES[task].haystack == "essay":
            fields = {"haystack": essay} | fields
        fields = {"num_questions": 4, "encoder": ENCODER} | fields
        return Ruler(task=task, lengths=lengths, **fields)

    return make


def examples(recipe, length=None):
    pool = list(recipe.pool())
    assert len(set(pool)) == len(pool)
    length = length or recipe.lengths[0]
    return [item.example(pool.__getitem__) for item in recipe.questions(length)]


@pytest.mark.parametrize("task", NEEDLES)
def test_evidence_is_the_needles_in_question(task, recipe):
    rule = NEEDLES[task]
    seen = set()
    for example in examples(recipe(task)):
        spans = [example.document[a:b] for a, b in example.evidence]
        assert len(spans) == len(example.answers) == rule.num_queries * rule.num_values
        for answer in example.answers:
            (span,) = [span for span in spans if span.endswith(f": {answer}.")]
            key, kind = re.fullmatch(r".* (\w+) for (\S+) is: .*", span).groups()[::-1]
            assert (kind, key in example.question) == (rule.values, True)
            assert example.document.count(span) == example.document.count(answer) == 1
        assert example.evidence_order == (0,) * len(spans)
        assert (example.task, example.scoring) == (task, "part")
        everything = example.document.count("One of the special magic")
        needles = max(rule.num_keys, rule.num_queries) * rule.num_values
        assert everything >= needles
        assert (everything == needles) == (rule.haystack != "needles")
        # One of a kind: the question's own words and answers.
        assert not seen & {example.question, *example.answers}
        seen |= {example.question, *example.answers}


@pytest.mark.parametrize("task", NEEDLES)
def test_a_length_in_tokens_is_that_of_the_whole_input(task, recipe):
    for example in examples(recipe(task, tokens(4000))):
        whole = upstream_input(example) + example.metadata["answer_prefix"]
        length = len(ENCODER.encode(whole)) + ANSWER_ROOM[task]
        assert 4000 - 200 < length <= 4000
        assert example.question.split(" afterwards")[0] not in ("", whole)
        assert "I will quiz you" in whole
        assert "quiz" not in example.question


def test_a_length_in_chunks_is_that_of_the_document(recipe):
    lengths = (Length("chunks", 3), Length("chunks", 9))
    made = recipe("niah_single_1", lengths, chunk_size=500)
    for length in lengths:
        for example in examples(made, length):
            chunks = list(iter_chunks(example.document, ENCODER, 500))
            assert len(chunks) == length.count


def words_of(text):
    return iter(text.split())


@pytest.mark.parametrize("task", NEEDLES)
def test_a_shorter_document_is_a_part_of_the_longer(task, recipe):
    lengths = tokens(2500, 9000, 5000)
    made = recipe(task, lengths)
    short, long, middle = (examples(made, length) for length in lengths)
    for a, b, c in zip(short, middle, long):
        assert len({(e.id, e.question, e.answers) for e in (a, b, c)}) == 1
        for part, whole in ((a, b), (b, c)):
            assert len(part.document) < len(whole.document)
            left = words_of(whole.document)
            assert all(word in left for word in words_of(part.document))
        for (first, _), (last, _) in zip(a.evidence, c.evidence):
            # The same depth but for a text of the haystack, or the needles.
            depths = first / len(a.document), last / len(c.document)
            assert depths[0] == pytest.approx(depths[1], abs=0.25)


def test_needles_of_an_essay_stand_at_rulers_depths(recipe):
    assert len(DEPTHS) == len(set(DEPTHS)) == 40
    assert {0, 3, 5, 8, 100} < set(DEPTHS)
    at = set()
    made = recipe("niah_multikey_1", tokens(9000), num_questions=12)
    pool = list(made.pool())
    for item in made.questions(made.lengths[0]):
        texts = [pool[i] for i in item.pieces]
        sentences = [t for t in texts if t and not t.startswith("One of the special")]
        assert (
            sentences
            == (ESSAY.replace(". On", ".|On").split("|") * 2)[: len(sentences)]
        )
        before = 0
        for text in texts:
            if text.startswith("One of the special"):
                at.add(before)
                assert before in {len(sentences) * d // 100 for d in DEPTHS}
            before += text in sentences
    assert len(at) > 20


@pytest.mark.parametrize("task", ["niah_multivalue", "niah_multikey_2"])
@pytest.mark.parametrize(
    ("rule", "low", "high"), [("first_20", 0, 0.25), ("last_20", 0.75, 1)]
)
def test_evidence_can_stand_at_one_end(task, rule, low, high, recipe):
    for example in examples(recipe(task, tokens(15000), evidence_position=rule)):
        for start, _ in example.evidence:
            assert low <= start / len(example.document) <= high


def test_evidence_can_be_spread(recipe):
    made = recipe("niah_multiquery", tokens(15000), evidence_position="spread")
    for example in examples(made):
        depths = [start / len(example.document) for start, _ in example.evidence]
        for i, depth in enumerate(depths):
            assert i / 4 - 0.1 <= depth <= (i + 1) / 4 + 0.1


def test_kinds_and_numbers_can_be_chosen(recipe):
    made = recipe(
        "niah_single_1",
        keys="uuids",
        values="words",
        num_keys=3,
        num_values=2,
        num_queries=2,
    )
    for example in examples(made):
        assert len(example.answers) == 4
        assert all("-" in answer for answer in example.answers)
        assert example.document.count("One of the special magic words for") == 6
        assert re.search(r"for [0-9a-f-]{36}, and [0-9a-f-]{36} ment", example.question)


def test_equal_recipes_give_equal_sets_and_other_seeds_others(recipe):
    one, same, other = (recipe("niah_multikey_2", seed=s) for s in (1, 1, 2))
    assert examples(one) == examples(same) != examples(other)
    assert list(one.pool()) == list(same.pool())
    assert one.settings() == same.settings() != other.settings()


def test_an_essay_that_is_too_short_is_repeated(recipe):
    made = recipe("niah_single_2", tokens(60000), num_questions=1)
    said = "essay.txt: has 2.* tokens; it is repeated, up to 3 times"
    with pytest.warns(UserWarning, match=said):
        (example,) = examples(made)
    assert example.document.count("On day 0 the keeper") == 3
    assert sum(map(len, made.pool())) < 30000


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "niah_single_4"}, "niah_single_4"),
        ({"lengths": ()}, "lengths must not be empty"),
        ({"lengths": (Length("documents", 4),)}, "no documents to count"),
        ({"lengths": (Length("chunks", 4),)}, "chunk_size"),
        ({"encoder": None}, "need an encoder, a tokenizer"),
        ({"keys": "letters"}, "letters"),
        ({"num_values": 0}, "num_values"),
        ({"evidence_position": "middle"}, "middle"),
        ({"num_keys": 2, "num_queries": 3}, "num_keys 2 is less than num_queries 3"),
        ({"task": "fwe", "evidence_position": "spread"}, "all text is evidence"),
        ({"num_keys": 8, "num_values": 8}, "more than 40 needles"),
        ({"lengths": tokens(300)}, "tokens for a haystack|too few"),
        ({"task": "niah_single_2"}, "set haystack.*PaulGrahamEssays.json"),
        ({"haystack": "missing.txt"}, "missing.txt: No such file.*RULER"),
    ],
)
def test_wrong_settings_are_told(fields, says):
    fields = {
        "task": "niah_single_1",
        "lengths": tokens(4000),
        "encoder": ENCODER,
    } | fields
    with pytest.raises(InputError, match=says):
        examples(Ruler(**fields))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", b"  \n ", "a.txt: holds no text"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.json", b'{"txt": "a"}', "has no field 'text'"),
        ("a.json", b"[1", "not JSON"),
    ],
)
def test_a_malformed_essay_is_told(name, data, says, tmp_path, recipe):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=says):
        recipe("niah_single_2", haystack=str(tmp_path / name)).settings()


def test_rulers_own_essay_file_is_read(tmp_path, recipe):
    (tmp_path / "essays.json").write_text('{"text": "One day. Two  days."}')
    made = recipe("niah_single_2", haystack=str(tmp_path / "essays.json"))
    with pytest.warns(UserWarning, match="repeated"):
        pool = set(made.pool())
    assert {"", "One day.", "Two days."} < pool


def test_all_tasks_of_ruler_are_named():
    assert len(TASKS) == 13
