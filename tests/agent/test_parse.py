"""The grammar of a memory turn, and boxed answers, by example."""

import pytest

from gru_mem_jax.agent.parse import (
    TAGS,
    TurnOutput,
    extract_boxed,
    last_box,
    parse_memory_turn,
)

GOOD = "<think>t</think><check>yes</check><update>m</update><next>continue</next>"


def turn(think="t", check="yes", update="m", exit_="continue", gap=""):
    return (
        f"<think>{think}</think>{gap}<check>{check}</check>{gap}"
        f"<update>{update}</update>{gap}<next>{exit_}</next>"
    )


@pytest.mark.parametrize(
    ("text", "update", "exit_", "memory", "think"),
    [
        (GOOD, True, False, "m", "t"),
        (turn(exit_="end"), True, True, "m", "t"),
        (turn(check="no", update=""), False, False, "", "t"),
        (turn(check="no"), False, False, "m", "t"),
        (turn(gap="\n"), True, False, "m", "t"),
        (f" \t\r\n\u3000{turn(gap='  ')}\n\n", True, False, "m", "t"),
        (turn(think="", update=""), True, False, "", ""),
        (turn(think=" a\nb ", update=" \n x  y \n"), True, False, "x  y", "a\nb"),
        (turn(update="<b>, </section>, <tool_call>"), True, False,
         "<b>, </section>, <tool_call>", "t"),
        (turn(update="a < b > c </ d"), True, False, "a < b > c </ d", "t"),
        (turn(think="<THINK> <think > </ think>"), True, False, "m",
         "<THINK> <think > </ think>"),
        (turn(update=r"\boxed{}"), True, False, r"\boxed{}", "t"),
    ],
)  # fmt: skip
def test_well_formed(text, update, exit_, memory, think):
    assert parse_memory_turn(text) == TurnOutput(
        update=update, exit=exit_, memory=memory, think=think, well_formed=True
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "<think> missing"),
        ("no tags", "<think> missing"),
        (GOOD.removesuffix("</next>"), "</next> missing"),
        (GOOD.replace("<check>yes</check>", ""), "<check> missing"),
        (GOOD.replace("</think>", ""), "</think> missing"),
        (GOOD + GOOD, "<think> more than once"),
        (GOOD + "<next>end</next>", "<next> more than once"),
        (turn(think="<think>t</think>"), "<think> more than once"),
        (turn(think="see <update>"), "<update> more than once"),
        (turn(update="<next>end</next>"), "<next> more than once"),
        (turn(update="</update>"), "</update> more than once"),
        (
            "<check>yes</check><think>t</think><update>m</update><next>end</next>",
            "elements out of order",
        ),
        (
            "<think>t<check>yes</think></check><update>m</update><next>end</next>",
            "elements out of order",
        ),
        ("Sure! " + GOOD, "text outside the elements"),
        (GOOD + ".", "text outside the elements"),
        (turn(gap="and"), "text outside the elements"),
        (turn(gap="\u200b"), "text outside the elements"),  # no white space
        (turn(gap="\x00"), "text outside the elements"),
        (turn(check="Yes"), "check is neither yes nor no"),
        (turn(check=" yes"), "check is neither yes nor no"),
        (turn(check="yes|no"), "check is neither yes nor no"),
        (turn(check=""), "check is neither yes nor no"),
        (turn(exit_="end\n"), "next is neither continue nor end"),
        (turn(exit_="stop"), "next is neither continue nor end"),
    ],
)
def test_malformed_changes_nothing(text, problem):
    assert parse_memory_turn(text) == TurnOutput(problem=problem)
    assert parse_memory_turn(text).update is False
    assert parse_memory_turn(text).exit is False


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("element", ["think", "update"])
def test_a_tag_of_the_format_inside_an_element_is_malformed(tag, element):
    assert not parse_memory_turn(turn(**{element: f"a {tag} b"})).well_formed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"so \boxed{ 4 2 }.", "4 2"),
        (r"\boxed{a} or \boxed{b}", "b"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{}", ""),
        (r"\boxed{a} \boxed{b", "a"),  # the second never ends
        (r"\boxed{\boxed{a}}", "a"),
        (r"\boxed{a {b} c} }}}", "a {b} c"),
        (r"}} \boxed{a}", "a"),
        (r"{ \boxed{a}", "a"),
        ("\\boxed{two\nlines}", "two\nlines"),
        (r"\boxed {a}", "a"),
        ("\\boxed\n {a}", "a"),
        (r"\boxed 42", None),
        (r"\boxedx{a}", None),
        (r"boxed{a}", None),
        (r"\\boxed{a}", "a"),
        # \fbox where there is no \boxed.
        (r"\fbox{42}", "42"),
        (r"\fbox {a} \fbox{b}", "b"),
        (r"\boxed{a} \fbox{b}", "a"),
        (r"\fbox{a} \boxed{b", "a"),
        (r"\fbox{\boxed{a}}", "a"),
        (r"\boxed{\fbox{a}}", "a"),
        # The reasoning, and what a limit has cut.
        (r"<think>\boxed{a}</think>\boxed{b}", "b"),
        (r"<think>\boxed{a}</think> It is b.", "a"),
        (r"<think>perhaps \boxed{a} or", "a"),
        (r"\boxed{Ada Love", None),
        (r"\boxed{\text{Ada}", None),
        # TeX around what is said, see test_tex.
        (r"\boxed{\text{Ada {B.} Lovelace}}", "Ada {B.} Lovelace"),
        (r"\boxed{ 50\% }", "50%"),
        (r"\boxed{\text{}}", ""),
        (r"\boxed{$x^{2}$}", "x^{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a", None),
        ("", None),
    ],
)
def test_boxed(text, answer):
    assert extract_boxed(text) == answer
    assert extract_boxed(f"x {text} y") == answer


def test_the_last_box_as_it_is_written():
    assert last_box(r"\boxed{ \text{Ada } }, i.e. 50\%") == r"\text{Ada }"
    assert last_box(r"\boxed {}") == ""
    assert last_box(r"\text{Ada}") is None
