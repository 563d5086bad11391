"""Scores against values worked out by hand."""

import pytest

from gru_mem_jax.data import scoring


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
    ],
)
def test_score(how, prediction, answers, value):
    assert scoring.score(prediction, answers, how) == value
