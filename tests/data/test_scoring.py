"""Scores against values worked out by hand."""

import random
import time
import typing

import pytest

from gru_mem_jax.agent.parse import extract_boxed
from gru_mem_jax.data import example, scoring


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Beatles!", "beatles"),
        ("  a  cat,   an owl ", "cat owl"),
        ("there", "there"),
        ("U.S.A.", "usa"),
        ("", ""),
        ("the", ""),
    ],
)
def test_normalize_answer(text, normalized):
    assert scoring.normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("how", "prediction", "answers", "value"),
    [
        ("exact", "The Beatles", ("beatles", "Fab Four"), 1.0),
        ("exact", "Beatles band", ("beatles",), 0.0),
        ("exact", "anything", (), 0.0),
        ("part", "12, 34", ("12", "34", "56", "78"), 0.5),
        ("all", "12, 34", ("12", "34"), 1.0),
        ("all", "12", ("12", "34"), 0.0),
        ("all", "12", (), 0.0),
        ("part", "12", (), 0.0),
        ("boxed", "It was the Beatles.", ("Beatles",), 1.0),
        ("boxed", "Beatlesque", ("Beatles",), 1.0),
        ("boxed", "Beatlesque", ("The Who",), 0.0),
        ("boxed", "whatever", ("the",), 0.0),
        ("exact", None, ("x",), 0.0),
        # 2 of 3 words of the prediction, 2 of 2 of the answer: 2 * 2 / (3 + 2).
        ("f1", "the red balloon ride", ("A red balloon",), 0.8),
        ("f1", "red red", ("red",), 2 / 3),
        ("f1", "blue", ("red", "dark blue"), 2 / 3),
        ("f1", "green", ("red",), 0.0),
        ("f1", "the", ("a",), 0.0),
        ("f1", "the", ("The",), 1.0),
        ("f1", "the", ("red",), 0.0),
        ("f1", "red", (), 0.0),
        ("equivalent", "New  York\nCity", ("new york city", "NYC"), 1.0),
        ("equivalent", "new york", ("newyork",), 1.0),
        ("equivalent", "the Beatles", ("Beatles",), 0.0),
        ("equivalent", "Paris or London", ("Paris",), 0.0),
        ("equivalent", r"\dfrac{1}{2}", (r"\frac{1}{2}",), 1.0),
        ("equivalent", r"50\%", ("50",), 1.0),
        ("equivalent", r"\left( 90^\circ \right)", ("(90)",), 1.0),
        ("equivalent", "x = .5", ("x = 0.5",), 1.0),
        ("equivalent", "1.5", ("15",), 0.0),
        ("equivalent", "", ("x",), 0.0),
        ("equivalent", None, ("",), 0.0),
        ("equivalent", "", ("",), 0.0),
        ("exact", "", ("",), 0.0),
        ("f1", " ", (" ",), 0.0),
        ("part", "12", ("12", " ", ""), 1.0),
        ("all", "12", ("12", r"\text{}"), 1.0),
        ("part", "12", ("", ""), 0.0),
        ("boxed", "12", ("",), 0.0),
    ],
)
def test_score(how, prediction, answers, value):
    assert scoring.score(prediction, answers, how) == pytest.approx(value)


def test_every_scoring_that_an_example_may_name_exists():
    assert set(scoring.SCORERS) == set(typing.get_args(example.Scoring))


@pytest.mark.parametrize("how", scoring.SCORERS)
@pytest.mark.parametrize(
    ("said", "gold"),
    [
        (r"\text{Ada Lovelace}", "Ada Lovelace"),
        (r"\textbf{yes}", "yes"),
        (r"\textbf{\textit{yes}}", "yes"),
        (r"\text{\mathrm {kg}}", "kg"),
        (r"{\bf yes}", "yes"),
        (r"\mathrm{NaCl}", "NaCl"),
        (r"50\%", "50%"),
        (r"$50\%$", "50%"),
        (r"\text{50\%}", "50%"),
        (r"\$5 million", "$5 million"),
        (r"\$5\text{ million}", "$5 million"),
        ("New~York", "New York"),
        (r"\text{New}\ \text{York}", "New York"),
        (r"AT\&T", "AT&T"),
        (r"\#1", "#1"),
        (r"snake\_case", "snake_case"),
        (r"\\text{Ada}", "Ada"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("{42}", "42"),
        ("{{42}}", "42"),
        (r"\text{{42}}", "42"),
        (r"\(42\)", "42"),
        ("1{,}000", "1,000"),
        (r"\boxed{42}", "42"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"x^{2}", "x^{2}"),
        (r"\{1, 2\}", r"\{1, 2\}"),
        (r"C:\temp\_x", r"C:\temp\_x"),
        ("\\", "\\"),
        ("http://x.org/~ada", "http://x.org/~ada"),
        ("5~10", "5~10"),
    ],
)
def test_tex_around_an_answer(how, said, gold):
    """Either side may have it."""
    for one, other in ((said, gold), (gold, said), (said, said)):
        for box in (rf"\boxed{{{one}}}", rf"\boxed {{ {one} }}", rf"\fbox{{{one}}}"):
            answer = extract_boxed(f"So it is {box}.")
            assert scoring.score(answer, [other], how) == 1.0
        assert scoring.score(one, [other], how) == 1.0
        assert scoring.unmatchable([one], how) is None
    assert scoring.score("Xerxes", [said], how) == 0.0
    assert scoring.score(said, ["Xerxes"], how) == 0.0


def test_braces_around_the_whole_alone_are_left_out():
    for text, kept in (
        ("{a}{b}", "{a}{b}"),
        ("{{a} b}", "{a} b"),
        ("{a {b}}", "a {b}"),
        ("{a}}", "a}"),
        ("}{", "}{"),
        ("{}", ""),
        ("{", "{"),
        (r"{\{1, 2\}}", r"\{1, 2\}"),
    ):
        value = scoring.score(text, [kept], "equivalent")
        assert value == float(bool(kept))
        # The other way round nothing is put on.
        assert scoring.score(f"x{kept}", [text], "equivalent") == 0.0


@pytest.mark.parametrize(
    ("answers", "how", "can"),
    [
        (["Ada"], "exact", True),
        ([""], "exact", False),
        ([" ", "\n"], "f1", False),
        ([], "all", False),
        (["", " "], "all", False),
        (["", r"\text{}"], "part", False),
        ([r"\text{}"], "boxed", False),
        ([r"\!", "~"], "exact", True),
        ([r"\!"], "exact", False),
        (["{}"], "exact", False),
        (["", "Ada"], "exact", True),
        (["", "Ada"], "all", True),
        # An answer in a box has braces that pair.
        (["{"], "exact", False),
        ([":}"], "exact", False),
        (["smile :}"], "exact", True),
        ([":}"], "equivalent", False),
        ([":}", "smile"], "equivalent", True),
        (["a } b"], "exact", True),
        (["a } b"], "boxed", True),
        (["a } b"], "part", False),
        (["x", "a } b"], "all", False),
        (["x", "{a} b"], "all", True),
        ([r"say \boxed{42}"], "equivalent", True),
        (["A", "?"], "part", True),
    ],
)
def test_gold_answers_that_no_prediction_can_match(answers, how, can):
    problem = scoring.unmatchable(answers, how)
    assert (problem is None) is can
    if not can:
        assert f"scoring {how!r}" in problem
        assert len(problem) < 200


@pytest.mark.parametrize("how", scoring.SCORERS)
def test_every_answer_but_an_empty_one_matches_itself(how):
    rng = random.Random(0)
    pieces = ["a", "The", "Ada", ".5", "?", " ", "{", "}", "$", "~", "\\", "%", "—"]
    pieces += [r"\text{", r"\boxed{", r"\frac{1}{2}", r"\left(", r"\%", "\\\\", "é"]
    for _ in range(3000):
        said, gold = ("".join(rng.choices(pieces, k=rng.randint(1, 6))) for _ in "ab")
        assert 0.0 <= scoring.score(said, [gold], how) <= 1.0
        # What does not match itself is empty, and nothing matches it.
        if scoring.score(said, [said], how) != 1.0:
            for other in (said, gold, "a", "Ada", "?"):
                assert scoring.score(other, [said], how) == 0.0
                assert scoring.score(said, [other], how) == 0.0


@pytest.mark.parametrize("piece", ["{", "}", "{}", r"\text{", "~", ".5 ", "$", "a://"])
def test_giant_answers_take_linear_time(piece):
    text = piece * 50_000
    start = time.process_time()
    for how in scoring.SCORERS:
        scoring.score(text, ["Ada", text[1:]], how)
    assert time.process_time() - start < 5
