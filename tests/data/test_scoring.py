"""Scores against values worked out by hand."""

import typing

import pytest

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
        ("boxed", "Beatlesque", ("Beatles",), 0.0),
        ("boxed", "whatever", ("the",), 0.0),
        ("exact", None, ("x",), 0.0),
        # 2 of 3 words of the prediction, 2 of 2 of the answer: 2 * 2 / (3 + 2).
        ("f1", "the red balloon ride", ("A red balloon",), 0.8),
        ("f1", "red red", ("red",), 2 / 3),
        ("f1", "blue", ("red", "dark blue"), 2 / 3),
        ("f1", "green", ("red",), 0.0),
        ("f1", "the", ("a",), 1.0),
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
    ],
)
def test_score(how, prediction, answers, value):
    assert scoring.score(prediction, answers, how) == pytest.approx(value)


def test_every_scoring_that_an_example_may_name_exists():
    assert set(scoring.SCORERS) == set(typing.get_args(example.Scoring))
