"""Oracle turns, spelled out."""

import re

import pytest

from gru_mem_jax.agent.parse import parse_memory_turn
from gru_mem_jax.errors import InputError
from gru_mem_jax.tiny import oracle

ONE = oracle.parse_question("Which code belongs to oak?")
TWO = oracle.parse_question("Which codes belong to oak fir yew?")
VALUES = oracle.parse_question("Which first second third codes belong to oak?")
CHAIN = oracle.parse_question("Which linked code belongs to oak?")
OAK, FIR = ("oak", "gold wool zinc"), ("fir", "silk coin bell")
OAK_AGAIN = ("oak", "ruby teal lens")
LINK = ("oak", "that of fir")


def test_questions_are_read_back():
    assert oracle.Asked("single", ("oak",), 1) == ONE
    assert oracle.Asked("queries", ("oak", "fir", "yew"), 3) == TWO
    assert oracle.Asked("values", ("oak",), 3) == VALUES
    assert oracle.Asked("chain", ("oak",), 1) == CHAIN
    with pytest.raises(InputError, match="parses only synthetic questions"):
        oracle.parse_question("Who wrote it?")


@pytest.mark.parametrize(
    "text",
    [
        "The code for oak is gold wool zinc.",
        "• The code\nfor oak is\r\ngold wool zinc.",
        "“THE CODE FOR OAK IS GOLD WOOL ZINC.”",
        "<p>The\xa0code  for\toak\xa0is gold\n\nwool zinc.</p>",
        "1. The Code For Oak Is Gold Wool Zinc. Here we go.",
        "- The code for oak is gold wool zinc",
        "The code for “oak” is **gold wool zinc**.",
    ],
)
def test_needles_are_read_back_however_they_are_set(text):
    assert oracle.facts_in(text) == (OAK,)
    assert oracle.facts_in(f"{text}\n{text}") == (OAK, OAK)
    ((_, (start, end)),) = oracle.facts_with_spans(text)
    words = re.findall(r"\w+", text[start:end].lower())
    assert words == ["oak", "is", "gold", "wool", "zinc"]
    assert text[start:end][-1].isalpha()
    assert oracle.facts_in(text.lower().replace("zinc", "")) == ()


@pytest.mark.parametrize(
    "question",
    [
        "WHICH CODES BELONG TO OAK FIR YEW?",
        " which  Codes\nbelong to Oak\xa0fir yew?",
        "Which codes belong to oak fir yew\n",
    ],
)
def test_questions_are_read_back_however_they_are_set(question):
    assert oracle.parse_question(question) == TWO


@pytest.mark.parametrize(
    ("asked", "found", "memory"),
    [
        (ONE, (), "oak was not yet found"),
        (ONE, (OAK,), "oak was gold wool zinc"),
        (
            TWO,
            (FIR,),
            "oak was not yet found fir was silk coin bell yew was not yet found",
        ),
        (VALUES, (), "first oak not yet found"),
        (VALUES, (OAK,), "first oak gold wool zinc second oak not yet found"),
        (
            VALUES,
            (OAK, OAK_AGAIN, ("oak", "a b c")),
            "first oak gold wool zinc second oak ruby teal lens third oak a b c",
        ),
        (CHAIN, (), "oak was not yet found"),
        (CHAIN, (LINK,), "oak was that of fir fir was not yet found"),
        (CHAIN, (LINK, FIR), "oak was that of fir fir was silk coin bell"),
    ],
)
def test_memory(asked, found, memory):
    assert oracle.memory_text(asked, found) == memory
    assert oracle.memagent_turn(asked, found[:-1], found[-1:]) == f" {memory}"


@pytest.mark.parametrize(
    ("asked", "found", "new", "thought"),
    [
        (ONE, (), (), "oak"),
        (ONE, (), (OAK,), "oak is gold wool zinc"),
        (ONE, (OAK,), (), ""),
        (TWO, (), (), "oak fir yew"),
        (TWO, (OAK,), (FIR,), "oak fir is silk coin bell"),
        (VALUES, (OAK,), (OAK_AGAIN,), "oak is ruby teal lens"),
        (CHAIN, (), (LINK,), "oak is that of fir"),
        (CHAIN, (LINK,), (), "oak that of fir"),
        (CHAIN, (LINK,), (FIR,), "oak that of fir is silk coin bell"),
        (CHAIN, (LINK, FIR), (), ""),
    ],
)
def test_thought(asked, found, new, thought):
    assert oracle.thought(asked, found, new) == thought


def test_gated_turns_parse_and_say_what_is_due():
    turn = parse_memory_turn(oracle.gated_turn(TWO, (OAK,), (FIR,)))
    assert (turn.well_formed, turn.update, turn.exit) == (True, True, False)
    assert turn.memory.strip() == oracle.memory_text(TWO, (OAK, FIR))
    turn = parse_memory_turn(oracle.gated_turn(ONE, (), (OAK,)))
    assert (turn.update, turn.exit) == (True, True)
    text = oracle.gated_turn(ONE, (OAK,), ())
    assert text.startswith("<think></think><check>no</check><update></update>")
    turn = parse_memory_turn(text)
    assert (turn.well_formed, turn.update, turn.exit) == (True, False, True)
    text = oracle.gated_turn(ONE, (), ())
    assert "<update></update>" in text
    turn = parse_memory_turn(text)
    assert (turn.well_formed, turn.update, turn.exit) == (True, False, False)


def test_wrong_gates_keep_thought_and_memory_right():
    turn = parse_memory_turn(oracle.gated_turn(ONE, (), (), says_update=True))
    assert (turn.well_formed, turn.update, turn.think.strip()) == (True, True, "oak")
    assert turn.memory.strip() == oracle.memory_text(ONE, ())
    turn = parse_memory_turn(oracle.gated_turn(ONE, (), (OAK,), says_end=False))
    assert (turn.update, turn.exit) == (True, False)
    assert turn.memory.strip() == oracle.memory_text(ONE, (OAK,))


def test_wrong_thoughts_leave_the_memory_right():
    turn = parse_memory_turn(oracle.gated_turn(ONE, (), (OAK,), claimed=()))
    assert (turn.think.strip(), turn.update) == ("oak", True)
    assert turn.memory.strip() == oracle.memory_text(ONE, (OAK,))
    text = oracle.gated_turn(ONE, (), (), says_update=True, claimed=(("oak", "a b c"),))
    turn = parse_memory_turn(text)
    assert turn.think.strip() == "oak is a b c"
    assert turn.memory.strip() == oracle.memory_text(ONE, ())


def test_answers_are_in_the_order_of_the_question():
    yew = ("yew", "a b c")
    assert oracle.answer_turn(TWO, (yew, FIR, OAK)) == (
        "\\boxed{ gold wool zinc, silk coin bell, a b c}"
    )
    assert oracle.answer_turn(VALUES, (OAK, OAK_AGAIN, OAK)) == (
        "\\boxed{ gold wool zinc, ruby teal lens, gold wool zinc}"
    )
    assert oracle.answer_turn(CHAIN, (LINK, FIR)) == "\\boxed{ silk coin bell}"
    assert oracle.answer_turn(ONE, ()) == "\\boxed{ not yet found}"
