"""bAbI's stories in a long text."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.data.babi import read_babi
from gru_mem_jax.data.builders import Babilong, Length
from gru_mem_jax.data.builders.babilong import label_match
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing import ByteEncoder

ENCODER = ByteEncoder()
# In bAbI's form: two stories, of which the first has two questions.
QA2 = """\
1 Ann went to the park.
2 Ben went to the barn.
3 Ann took the kite.
4 Where is the kite? \tpark\t3 1
5 Ann went to the barn.
6 Ann left the kite.
7 Where is the kite? \tbarn\t6 5
1 Cas took the bell.
2 Cas went to the pond.
3 Where is the bell? \tpond\t1 2
"""
TEXT = " ".join(
    f"The {i}th ship came in on a {w} day." for i in range(60) for w in ("wet", "dry")
)
TEXT += " So be it. Yes!"


def tokens(*counts):
    return tuple(Length("tokens", count) for count in counts)


@pytest.fixture
def recipe(tmp_path):
    def make(lengths, name="qa2_two-supporting-facts_test.txt", said=QA2, **fields):
        (tmp_path / name).write_text(said, encoding="utf-8")
        (tmp_path / "text.txt").write_text(fields.pop("text", TEXT), encoding="utf-8")
        fields = {"encoder": ENCODER, "num_questions": 3} | fields
        return Babilong(
            sources=(str(tmp_path / name),),
            haystack=str(tmp_path / "text.txt"),
            lengths=lengths,
            **fields,
        )

    return make


def examples(recipe, length=None):
    pool = list(recipe.pool())
    assert len(set(pool)) == len(pool)
    length = length or recipe.lengths[0]
    return [item.example(pool.__getitem__) for item in recipe.questions(length)]


STORIES = {
    "4": ["Ann went to the park.", "Ben went to the barn.", "Ann took the kite."],
    "10": ["Cas took the bell.", "Cas went to the pond."],
}
STORIES["7"] = [*STORIES["4"], "Ann went to the barn.", "Ann left the kite."]
ANSWERS = {"4": "park", "7": "barn", "10": "pond"}


def test_facts_stand_among_sentences_in_their_order(recipe):
    made = recipe(tokens(2000))
    found = {example.id: example for example in examples(made)}
    assert set(found) == set(STORIES)
    for own, facts in STORIES.items():
        example = found[own]
        assert example.answers == (ANSWERS[own],)
        assert (example.task, example.scoring) == ("qa2", "all")
        assert example.question == f"Where is the {'bell' if own == '10' else 'kite'}?"
        at = [example.document.index(fact) for fact in facts]
        assert at == sorted(at)
        rest = example.document
        sentences = TEXT.removesuffix(" Yes!")
        for fact in facts:
            assert rest.count(fact) == 1
            rest = rest.replace(fact, "", 1)
        # What is left is a part of the text, without sentences of under 10 tokens.
        assert " ".join(rest.split()) in f"{sentences} " * 2
        assert "Yes!" not in example.document
        assert 2000 - 80 < len(ENCODER.encode(example.document)) <= 2000
        assert example.metadata == {"labels": ["barn", "park", "pond"]}


def test_the_files_facts_are_evidence(recipe):
    for example in examples(recipe(tokens(2000))):
        spans = [example.document[a:b] for a, b in example.evidence]
        steps = dict(zip(example.evidence_order, spans))
        want = {
            "4": ("Ann took the kite.", "Ann went to the park."),
            "7": ("Ann left the kite.", "Ann went to the barn."),
            "10": ("Cas took the bell.", "Cas went to the pond."),
        }[example.id]
        # Of qa2 the file tells the order of need: what became of the thing, and where.
        assert (steps[0], steps[1]) == want
    for example in examples(recipe(tokens(2000), name="qa7_counting_test.txt")):
        assert (len(example.evidence), example.evidence_order) == (2, ())
        assert example.task == "qa7"


def test_a_shorter_document_is_a_part_of_the_longer(recipe):
    lengths = tokens(9000, 1500, 4000)
    made = recipe(lengths)
    long, short, middle = (examples(made, length) for length in lengths)
    for a, b, c in zip(short, middle, long):
        assert a.id == b.id == c.id
        for part, whole in ((a, b), (b, c)):
            left = iter(whole.document.split())
            assert len(part.document) < len(whole.document)
            assert all(word in left for word in part.document.split())
    assert len({e.evidence for e in long}) == 3


def test_lengths_in_chunks(recipe):
    made = recipe((Length("chunks", 7),), chunk_size=300)
    for example in examples(made):
        assert len(list(iter_chunks(example.document, ENCODER, 300))) == 7


@pytest.mark.parametrize(
    ("rule", "low", "high"), [("first_20", 0, 0.25), ("last_20", 0.75, 1)]
)
def test_facts_can_stand_at_one_end(rule, low, high, recipe):
    for example in examples(recipe(tokens(9000), evidence_position=rule)):
        for start, _ in example.evidence:
            assert low <= start / len(example.document) <= high


def test_facts_can_be_spread(recipe):
    for example in examples(recipe(tokens(9000), evidence_position="spread")):
        facts = STORIES[example.id]
        for i, fact in enumerate(facts):
            depth = example.document.index(fact) / len(example.document)
            assert i / len(facts) - 0.05 <= depth <= (i + 1) / len(facts) + 0.05


def test_equal_recipes_give_equal_sets(recipe):
    one, same, other = (recipe(tokens(3000), seed=seed) for seed in (1, 1, 2))
    assert examples(one) == examples(same) != examples(other)
    assert one.settings() == same.settings() != other.settings()


def test_answers_of_lists_and_paths(tmp_path):
    path = tmp_path / "qa.txt"
    path.write_text("1 A.\r\n2 B?\tkite,bell\t1\r\n3 C?\tn,e\t1\r\n\r\n")
    stories = read_babi(str(path))
    assert [story.line for story in stories.stories] == [2, 3]
    assert stories.labels == ("bell", "kite", "n,e")
    assert stories.stories[1].facts == ("A.",)


@pytest.mark.parametrize(
    ("said", "where", "says"),
    [
        ("1 Ann went.\nBen went.\n", ":2", "expected a number"),
        ("1 Ann went.\n3 Ben went.\n", ":2", "number 3 follows 1"),
        ("2 Ann went.\n", ":1", "number 2 follows 0"),
        ("1 Ann went.\n2 Where?\tpark\n", ":2", "got 2 parts"),
        ("1 Ann went.\n2 Where?\tpark\t1\t1\n", ":2", "got 4 parts"),
        ("1 Ann went.\n2 Where?\t \t1\n", ":2", "answer is empty"),
        ("1 Ann went.\n2 Where?\tpark\t2\n", ":2", "'2' is not the number of a fact"),
        ("1 Ann went.\n2 Where?\tpark\tx\n", ":2", "'x' is not the number of a fact"),
        ("1 Ann went.\n2 Where?\tpark\t \n", ":2", "names no fact"),
        ("1 Ann went.\n2  \t\t\n", ":2", "holds no text"),
        ("1 Ann went.\n", "", "holds no question"),
        ("", "", "holds no question"),
    ],
)
def test_a_malformed_file_is_told(said, where, says, tmp_path):
    path = tmp_path / "qa1_test.txt"
    path.write_text(said)
    with pytest.raises(InputError) as caught:
        read_babi(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}{where}: ")
    assert says in message
    assert "tasks_1-20_v1-2" in message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"lengths": ()}, "lengths must not be empty"),
        ({"lengths": (Length("documents", 3),)}, "no documents to count"),
        ({"lengths": (Length("chunks", 3),)}, "chunk_size"),
        ({"encoder": None}, "tokenizer"),
        ({"num_questions": 4}, "has 3 questions"),
        ({"lengths": tokens(30)}, "at most 3 facts"),
        (
            {"lengths": tokens(100)},
            "beside the 5 facts of the question in line 7",
        ),
        ({"text": "Oh. Ah."}, "no sentence of 10 tokens"),
        ({"text": " "}, "holds no text"),
        ({"evidence_position": "middle"}, "middle"),
        ({"task": "qa21"}, "task must be one of qa1, "),
    ],
)
def test_wrong_settings_are_told(fields, says, recipe):
    fields = {"lengths": tokens(2000)} | fields
    with pytest.raises(InputError, match=re.escape(says)):
        examples(recipe(fields.pop("lengths"), **fields))


lines = st.lists(
    st.one_of(
        st.sampled_from(QA2.split("\n")),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.builds(
            "{} {}\t{}\t{}".format,
            st.integers(-1, 12),
            st.text("ab \t\x00é", max_size=4),
            st.text("ab, {}", max_size=5),
            st.sampled_from(["", "1", "2 1", "3 x", "-1", "99"]),
        ),
    ),
    max_size=12,
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(lines=lines, cut=st.integers(0, 200))
def test_any_file_is_read_or_refused_by_one_line(lines, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "qa1_fuzz.txt"
    path.write_bytes("\n".join(lines).encode()[: cut or None])
    try:
        stories = read_babi(str(path)).stories
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 (either is right)
        return
    for story in stories:
        assert story.question and story.answer and story.support  # noqa: PT018
        assert all(0 <= i < len(story.facts) for i in story.support)


# (prediction, question, gold, labels, value): run in upstream's babilong/metrics.py.
PLACES = ["barn", "park", "pond"]
UPSTREAM = [
    ("The kite is in the park.", "Where is the kite?", ["park"], PLACES, 1.0),
    ("PARK", "Where is the kite?", ["park"], PLACES, 1.0),
    ("In the park or the barn.", "Where is the kite?", ["park"], PLACES, 0.0),
    ("In the park. Not the barn.", "Where is the kite?", ["park"], PLACES, 1.0),
    (
        "From the barn to the park",
        "Where was it before the barn?",
        ["park"],
        PLACES,
        1.0,
    ),
    ("In the sea", "Where is the kite?", ["park"], PLACES, 0.0),
    ("", "Where is the kite?", ["park"], PLACES, 0.0),
    ("kite and bell", "What has Ann?", ["kite", "bell"], ["kite", "bell", "cup"], 1.0),
    ("kite", "What has Ann?", ["kite", "bell"], ["kite", "bell", "cup"], 0.0),
    (
        "kite, bell, cup",
        "What has Ann?",
        ["kite", "bell"],
        ["kite", "bell", "cup"],
        0.0,
    ),
    ("park <example> barn", "Where is the kite?", ["park"], PLACES, 1.0),
    ("n,e", "How do you go?", ["n,e"], ["n,e", "s,w"], 1.0),
]


@pytest.mark.parametrize(("said", "question", "gold", "labels", "value"), UPSTREAM)
def test_labels_are_matched_as_upstream(said, question, gold, labels, value):
    assert label_match(said, question, gold, labels) == value
