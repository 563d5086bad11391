"""Sentences around evidence, and what of them stands in which chunk."""

import pytest

from gru_mem_jax.agent.chunking import evidence_labels
from gru_mem_jax.data.sentences import evidence_pieces, one_line, whole_sentences


def around(text, part):
    start = text.index(part)
    first, last = whole_sentences(text, (start, start + len(part)))
    return text[first:last]


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("One is. Two was here. Three.", "was", "Two was here."),
        ("One is. Two was here. Three.", "is. Two", "One is. Two was here."),
        ("One is. Two was here. Three.", "Two was here.", "Two was here."),
        ("One is. Two was here. Three.", "Three", "Three."),
        ("At 3.5 m, i.e. not high. Next.", "5 m", "At 3.5 m, i.e. not high."),
        ('He said "No." She left. End.', "No", 'He said "No."'),
        ('He said "No." She left. End.', 'He said "No."', 'He said "No."'),
        ("Ada. Élodie kam. Ölig war es.", "kam", "Élodie kam."),
        ("Да. Он жил в Москве. Нет.", "Москве", "Он жил в Москве."),
        ("東京は首都です。大阪は「いい。」そう。", "首都", "東京は首都です。"),
        ("東京は首都です。大阪は「いい。」そう。", "大阪", "大阪は「いい。」"),
        ("  no stop at all ", "stop", "no stop at all"),
    ],
)
def test_whole_sentences(text, part, expected):
    assert around(text, part) == expected
    assert around(text, expected) == expected


DOCUMENT = "Title\r\nAda was born in Paris. She died there.\r\nBob was not."


def pieces(parts, borders):
    spans = [(DOCUMENT.index(p), DOCUMENT.index(p) + len(p)) for p in parts]
    counts, _ = evidence_labels(borders, spans)
    found, lost = evidence_pieces(DOCUMENT, spans, borders, counts)
    return [[DOCUMENT[a:b] for a, b in spans] for spans in found], lost


@pytest.mark.parametrize(
    ("parts", "cut", "expected", "lost"),
    [
        # Cut into "Title\r\nAda was b" and the rest; only one counts.
        (["Paris"], 16, [[], ["orn in Paris."]], True),
        (["Ada was"], 16, [["Ada was b"], []], True),
        (["died", "She"], 30, [[], ["She died there."]], False),
        (
            ["Paris", "died"],
            30,
            [["Ada was born in Paris."], ["She died there."]],
            False,
        ),
        # A line ends a sentence, even without a stop.
        (["Title"], 30, [["Title"], []], False),
        (["there.\r\nBob"], 30, [[], ["She died there.\r\nBob was not."]], False),
        # More than half, and the last character: both chunks count.
        (["Ada was born in Paris."], 24, [["Ada was born in P"], ["aris."]], False),
        # Less than half: what stands in the first chunk is lost.
        (["Ada was born in Paris."], 12, [[], ["as born in Paris."]], True),
        # White space alone is no loss, and nothing to add.
        (["Paris. "], 29, [["Ada was born in Paris."], []], False),
        (["\r\nBob was"], 46, [[], ["Bob was not."]], False),
    ],
)
def test_pieces_by_hand(parts, cut, expected, lost):
    borders = [(0, cut), (cut, len(DOCUMENT))]
    assert pieces(parts, borders) == (expected, lost)


def test_overlapping_sentences_are_one_piece():
    borders = [(0, len(DOCUMENT))]
    parts = ["born", "Paris", "Paris. She", "Ada was born in Paris."]
    assert pieces(parts, borders) == (
        [["Ada was born in Paris. She died there."]],
        False,
    )


def test_one_line():
    assert one_line(" a\r\n b\t\ufffdc ") == "a b c"
    assert one_line(" \ufffd\n") == ""
