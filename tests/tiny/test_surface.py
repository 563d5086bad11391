"""How texts are set: what stands where, and what it costs in tokens."""

import random

import pytest

from gru_mem_jax.tiny import surface
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tiny.oracle import facts_in
from gru_mem_jax.tiny.surface import PLAIN, Sentence, Surface, lay_out, vary_question
from gru_mem_jax.tiny.synthetic import needle
from gru_mem_jax.tokenization import TextTokenizer

NEEDLE = "The code for oak is gold wool zinc."
SENTENCES = (
    Sentence("Here we go.", False),
    Sentence(NEEDLE, True, True),
    Sentence("There and back again.", False, True),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer.save(path)
    return TextTokenizer.from_pretrained(path)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({}, f"Here we go. {NEEDLE} There and back again."),
        (
            {"marks": ("• ", ""), "gaps": ("\r\n",)},
            f"Here we go.\r\n• {NEEDLE}\r\n• There and back again.",
        ),
        (
            {"marks": ("“", "”"), "stop": "", "spaces": ("\t",)},
            "Here\twe\tgo. “The\tcode\tfor\toak\tis\tgold\twool\tzinc” "
            "“There\tand\tback\tagain”",
        ),
        (
            {"width": 20, "stop": "!", "case": "upper"},
            "HERE WE GO. THE CODE\nFOR OAK IS GOLD WOOL\nZINC! THERE AND BACK\nAGAIN!",
        ),
        (
            {"case": "title", "marks": ("<p>", "</p>")},
            "Here We Go. <p>The Code For Oak Is Gold Wool Zinc.</p> "
            "<p>There And Back Again.</p>",
        ),
    ],
)
def test_a_document_as_it_is_set(how, text):
    document, ((start, end),) = lay_out(SENTENCES, Surface(**how), random.Random(0))
    assert document == text
    found = " ".join(document[start:end].lower().split())
    assert found.rstrip(".!") == NEEDLE.lower().rstrip(".")


def test_lines_end_before_they_are_too_long():
    rng = random.Random(0)
    for width in (20, 41, 72):
        sentences = SENTENCES * 30
        document, spans = lay_out(sentences, Surface(width=width), rng)
        lines = document.split("\n")
        assert width - 12 < max(map(len, lines)) <= width
        assert document.replace("\n", " ") == lay_out(sentences, PLAIN, rng)[0]
        assert {document[a:b].replace("\n", " ") for a, b in spans} == {NEEDLE}


@pytest.mark.parametrize("marks", surface.MARKS, ids=str)
def test_marks_cost_the_tokens_that_they_are_said_to(encoder, marks):
    for stop in surface.STOPS:
        how = Surface(marks=marks, stop=stop, gaps=("\n",))
        plain, _ = lay_out(SENTENCES, PLAIN, random.Random(0))
        text, _ = lay_out(SENTENCES, how, random.Random(0))
        extra = len(encoder.encode(text)) - len(encoder.encode(plain))
        assert extra == 2 * how.mark_tokens  # two of the sentences are marked


@pytest.mark.parametrize("marks", surface.WORD_MARKS, ids=str)
def test_marks_of_keys_and_values_cost_what_they_are_said_to(encoder, marks):
    before, after = marks
    plain = needle("oak", "gold wool zinc")
    for how, text in (
        (Surface(key_marks=(before, after)), f"{before}oak{after} is gold wool zinc"),
        (Surface(value_marks=(before, after)), f"oak is {before}gold wool zinc{after}"),
    ):
        marked = needle("oak", "gold wool zinc", how)
        assert marked == f"The code for {text}."
        extra = len(encoder.encode(marked)) - len(encoder.encode(plain))
        assert extra == how.needle_tokens == 2
        assert facts_in(marked) == (("oak", "gold wool zinc"),)


def test_surfaces_are_drawn_with_and_without_marks():
    rng = random.Random(0)
    drawn = [surface.draw(rng) for _ in range(300)]
    assert 100 < sum(s.most_marked > 0 for s in drawn) < 250
    assert 30 < sum(s.needle_tokens > 0 for s in drawn) < 120
    assert {s.case for s in drawn} > {"upper", "title", "lower", "some_words"}
    assert all(s.width is None or 20 <= s.width <= 100 for s in drawn)


def test_a_question_is_put_in_the_case_of_its_document():
    question = "Which code belongs to oak?"
    assert vary_question(question, PLAIN, random.Random(0)) == question
    rng = random.Random(0)
    asked = {
        vary_question(question, Surface(case="upper"), rng).strip() for _ in range(40)
    }
    assert asked == {question.upper(), question.upper()[:-1]}
