"""What one trajectory did, counted by hand."""

import pytest

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.evaluation import measures
from gru_mem_jax.evaluation.excerpts import chunk_texts, excerpt
from gru_mem_jax.evaluation.records import AskedQuestion

DOCUMENT = (
    "Ada wrote the notes in London.  "  # chunk 0: 0..32
    "It rained for the whole day..   "  # chunk 1: 32..64
    "Her notes went to Lake Como...  "  # chunk 2: 64..96
)
SPANS = ((0, 30), (64, 91))
TEXTS = [DOCUMENT[start:end] for start, end in SPANS]


def turn(chunk, memory, *, update=True, exit=False, formed=True):
    return Turn(
        kind="answer" if chunk is None else "memory",
        chunk=chunk,
        chunk_span=None if chunk is None else (32 * chunk, 32 * chunk + 32),
        update=update,
        exit=exit,
        well_formed=formed,
        memory=memory,
        memory_tokens=len(memory.split()),
        text="",
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=3,
        shared_prompt_tokens=4,
        seconds=0.0,
    )


def trajectory(*turns, mode="with_exit_gate", answer="Lake Como"):
    last = turn(None, turns[-1].memory if turns else "")
    return Trajectory(
        mode=mode, question="Where?", answer=answer, turns=(*turns, last), seconds=2.0
    )


@pytest.mark.parametrize(
    ("chunks", "last", "kind"),
    [
        ((0, 1, 2), 2, "exact"),
        ((0, 1), 2, "early"),
        ((0, 1), 0, "late"),
        ((), 0, "early"),
        ((0,), None, None),
    ],
)
def test_exits(chunks, last, kind):
    read = trajectory(*(turn(chunk, "") for chunk in chunks))
    assert measures.exit_kind(read, last) == kind
    for mode in ("without_exit_gate", "memagent", "bm25"):
        other = trajectory(*(turn(c, "") for c in chunks), mode=mode)
        assert measures.exit_kind(other, last) is None


def test_updates_count_right_turns_and_all():
    """The gates of a malformed turn are wrong, whatever the memory did."""
    read = trajectory(
        turn(0, "a"),
        turn(1, "b"),  # needless
        turn(2, "b", update=False),  # missed
        turn(3, "b", update=False),
        turn(4, "b", update=False, formed=False),
    )
    assert measures.updates(read, (0, 2)) == ((1, 2), (1, 3))
    assert measures.updates(read, ()) is None
    assert measures.well_formed(read) == 5 / 6
    for mode in ("memagent", "whole_text"):
        other = trajectory(turn(0, "a"), mode=mode)
        assert measures.updates(other, (0,)) is None
        assert measures.well_formed(other) is None


def kept(*turns, mode="with_exit_gate", spans=SPANS):
    texts = [DOCUMENT[start:end] for start, end in spans]
    return measures.kept_evidence(
        trajectory(*turns, mode=mode), spans, texts, "Where?", ("Lake Como",), "exact"
    )


def test_capture_and_retention():
    ada, como = "Ada wrote notes, London", "notes: Lake Como"
    both = f"{ada}; {como}"
    assert kept(turn(0, ada), turn(1, ada), turn(2, both)) == ((2, 2), (2, 2))
    # Lost with the second: captured, and not retained.
    assert kept(turn(0, ada), turn(1, ada), turn(2, como)) == ((2, 2), (1, 2))
    # Known only after a later turn: not captured at its chunk.
    assert kept(turn(0, ""), turn(1, ada), turn(2, both)) == ((1, 2), (1, 1))
    # Not read.
    assert kept(turn(0, ada)) == ((1, 2), (1, 1))
    assert kept() == ((0, 2), (0, 0))
    assert kept(turn(0, ada), mode="memagent") == ((1, 2), (1, 1))
    assert kept(turn(0, ada), mode="bm25") is None
    assert kept(turn(0, ada), spans=()) is None
    # A span over a border belongs to the chunk with its end.
    assert kept(turn(0, ada), turn(1, ada), spans=((2, 34),)) == ((1, 1), (1, 1))
    assert kept(turn(0, ada), turn(1, ""), spans=((2, 34),)) == ((0, 1), (0, 0))
    assert kept(turn(0, ""), turn(1, ada), spans=((2, 32),)) == ((0, 1), (0, 0))


@pytest.mark.parametrize(
    ("memory", "text", "held"),
    [
        # The whole piece, whatever case, punctuation, articles and blanks.
        ("x. THE code for  heron is: oak", "Code for heron is oak", True),
        # The answers that stand in it, each of them, and as whole words.
        ("it is oak pine", "The code for heron is oak pine.", True),
        ("it is oak", "The code for heron is oak pine.", False),
        ("it is oak pines", "The code for heron is oak pine.", False),
        ("oak pine and elm", "Both oak pine and elm are right", True),
        ("oak pine", "Both oak pine and elm are right", False),
        # No answer in it: more than half of what it tells beyond the question.
        ("fox", "The code for heron is that of fox.", True),
        ("heron code", "The code for heron is that of fox.", False),
        ("red", "red fox runs", False),
        ("red runs", "red fox runs", True),
        ("red fox", "red fox runs home", False),
        ("red fox home", "red fox runs home", True),
        # Nothing but the question's own words: all of them count.
        ("code", "code for heron", False),
        ("for the code", "code for heron", True),
        ("", "red fox", False),
        ("red fox", "...", False),
        # Of a script without blanks between words.
        ("资料：答案是北京。", "首都是北京", False),
        ("首都是北京。谢谢", "首都是北京", True),
    ],
)
def test_what_a_memory_holds(memory, text, held):
    answers = ("oak pine", "Elm")
    question = "Which code for heron?"
    assert measures.holds(memory, text, question, answers, "all") is held


@pytest.mark.parametrize(
    ("memory", "answers", "held"),
    [
        # Spellings of one answer: the one that is right suffices.
        ("in the USA", ("USA", "US"), True),
        ("in America", ("USA", "US"), False),
        # "no" in the piece is not the answer: its words count.
        ("there is no clue", ("no",), False),
        ("USA or US: neither neutral", ("no",), True),
    ],
)
def test_of_spellings_one_suffices_and_yes_or_no_is_no_answer_in_a_text(
    memory, answers, held
):
    piece = "The USA, or US, is no neutral party."
    assert measures.holds(memory, piece, "Where?", answers, "exact") is held


def test_a_scored_answer():
    question = AskedQuestion(
        set="s",
        labels={"gap": 1},
        index=3,
        id="q",
        question="Where?",
        answers=("Lake Como", "Como"),
        scoring="exact",
        num_chunks=3,
        evidence=SPANS,
        evidence_chunks=(0, 2),
    )
    read = trajectory(
        turn(0, "Ada wrote notes, London"),
        turn(1, "Ada wrote notes, London", update=False),
        turn(2, "Ada wrote notes, London; Lake Como", exit=True),
        answer="the lake Como",
    )
    answer = measures.scored_answer(
        question, DOCUMENT, read, policy="p", mode=read.mode
    )
    assert answer.key == ("p", "with_exit_gate", "s", "gap=1", 3)
    assert (answer.score, answer.scores) == (1.0, {"exact": 1.0, "f1": 1.0})
    assert (answer.exit, answer.chunks_read) == ("exact", 3)
    assert (answer.updates_on, answer.updates_off) == ((2, 2), (1, 1))
    assert (answer.captured, answer.retained) == ((2, 2), (2, 2))
    assert answer.memory_tokens == (4, 4, 6)
    tokens = (answer.prompt_tokens, answer.completion_tokens)
    assert (*tokens, answer.shared_prompt_tokens) == (40, 12, 16)
    assert (answer.seconds, answer.well_formed) == (2.0, 1.0)
    failed = measures.scored_answer(
        question, DOCUMENT, None, failed="no room", policy="p", mode="whole_text"
    )
    assert (failed.score, failed.failed, failed.scores) == (0.0, "no room", {})
    assert failed.captured is failed.exit is failed.updates_on is None


def test_further_scores_are_of_single_texts():
    assert measures.answer_scores("Ada of Como", ("Ada",), "boxed") == {
        "exact": 0.0,
        "f1": pytest.approx(0.5),
    }
    yes = ("yes it is", ("yes",))
    assert measures.answer_scores(*yes, "f1") == {"exact": 0.0, "f1": 0.5}
    assert measures.answer_scores(*yes, "hotpotqa_f1") == {"exact": 0.0, "f1": 0.0}
    assert measures.answer_scores("Ada", ("Ada", "Bob"), "all") == {}
    assert measures.answer_scores("Ada", ("Ada", "Bob"), "part") == {}


# Excerpts


def length(run):
    kind, text = run
    return int(text) if kind == "skipped" else len(text)


@pytest.mark.parametrize("budget", [0, 1, 7, 40, 1000])
@pytest.mark.parametrize(
    ("evidence", "attacks"),
    [
        ((), ()),
        (((10, 20),), ()),
        (((0, 5), (95, 100)), ()),
        (((10, 40), (35, 60)), ()),
        (((10, 60),), ((30, 40),)),
        (((90, 130),), ((0, 100),)),
    ],
)
def test_excerpts_are_the_chunk_with_parts_left_out(budget, evidence, attacks):
    """Every character is shown or counted, marked as it should be."""
    document = "".join(chr(33 + i % 90) for i in range(150))
    for span in ((0, 100), (20, 100), (5, 6)):
        runs = excerpt(document, span, evidence, attacks, budget=budget)
        at, plain = span[0], 0
        for kind, text in runs:
            if kind != "skipped":
                assert document[at : at + len(text)] == text
                assert text
            for place in range(at, at + length((kind, text))):
                inside = [
                    any(a <= place < b for a, b in s) for s in (attacks, evidence)
                ]
                expected = (
                    "attack" if inside[0] else "evidence" if inside[1] else "text"
                )
                assert kind in (expected, "skipped")
                assert kind != "skipped" or expected == "text"
            plain += len(text) if kind == "text" else 0
            at += length((kind, text))
        assert at == span[1]
        assert plain <= max(budget, 0)


def test_chunks_of_a_long_document_stay_small():
    document = "word " * 200_000
    borders = [(i, i + 2000) for i in range(0, len(document), 2000)]
    chunks = chunk_texts(document, borders, ((5000, 5020), (10_000, 16_000)))
    assert [chunk.span for chunk in chunks] == borders
    size = sum(len(text) for chunk in chunks for _, text in chunk.runs)
    assert size < 150_000
    assert ("evidence", document[5000:5020]) in chunks[2].runs
    assert {kind for kind, _ in chunks[6].runs} == {"evidence"}
    short = chunk_texts("one two", [(0, 7)], ((4, 7),))
    assert short[0].runs == (("text", "one "), ("evidence", "two"))
