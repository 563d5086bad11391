"""Chunks lose nothing, in any Unicode, however the text arrives."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.agent.chunking import evidence_labels, iter_chunks
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

BYTES = ByteEncoder()
# Characters of one to four bytes, joined ones, and white space of many kinds.
TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("ab \n\r\t\u3000é世😀\u200d\u0301"),
    ),
    max_size=3000,
)


class WordEncoder(ByteEncoder):
    """Words without the space around them, as some tokenizers have it: gaps."""

    def encode_with_offsets(self, text):
        spans, at = [], 0
        for word in text.split():
            start = text.index(word, at)
            at = start + len(word)
            spans.append((start, at))
        return [len(text[a:b]) for a, b in spans], spans


def pieces_of(text, cuts):
    borders = sorted({0, len(text), *(c % (len(text) + 1) for c in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(borders)]


@settings(max_examples=150, deadline=None)
@given(TEXT, st.integers(1, 40), st.lists(st.integers(0, 10**6), max_size=6))
def test_any_text_comes_back_however_it_is_cut(text, chunk_size, cuts):
    chunks = list(iter_chunks(text, BYTES, chunk_size))
    assert "".join(c.text for c in chunks) == text
    assert [i for c in chunks for i in c.ids] == BYTES.encode(text)
    assert [c.index for c in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        # At most chunk_size, but for a character that is longer than that by itself.
        assert len(chunk.ids) <= chunk_size or len(chunk.text) == 1
        # Full, but for the last, and for what is left of a character at the border.
        assert len(chunk.ids) > chunk_size - 4 or chunk is chunks[-1]
    assert list(iter_chunks(pieces_of(text, cuts), BYTES, chunk_size)) == chunks


@settings(max_examples=50, deadline=None)
@given(TEXT, st.integers(1, 40))
def test_what_no_token_covers_belongs_to_the_chunk_before(text, chunk_size):
    chunks = list(iter_chunks(text, WordEncoder(), chunk_size))
    assert "".join(c.text for c in chunks) == text
    assert sum(len(c.ids) for c in chunks) == len(text.split())
    assert all(c.text[0].strip() for c in chunks[1:])


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("", 3, []),
        ("abc", 3, ["abc"]),
        ("abcd", 3, ["abc", "d"]),
        ("aéé", 3, ["aé", "é"]),  # 1 + 2 bytes, then 2
        ("éé", 3, ["é", "é"]),  # the third byte would split the second character
        ("😀a", 3, ["😀", "a"]),  # four bytes: one character is the least
        ("a\r\nb", 2, ["a\r", "\nb"]),
        ("\x00\ufeffa", 1, ["\x00", "\ufeff", "a"]),
    ],
)
def test_chunks_by_hand(text, size, expected):
    assert [c.text for c in iter_chunks(text, BYTES, size)] == expected


def test_a_document_of_gaps_alone_is_one_chunk_without_tokens():
    (chunk,) = iter_chunks(" \n ", WordEncoder(), 5)
    assert (chunk.ids, chunk.text, chunk.start, chunk.end) == ((), " \n ", 0, 3)


def test_reads_no_further_than_it_must():
    taken = 0

    def stream():
        nonlocal taken
        while True:
            taken += 10
            yield "word word "

    for chunk in itertools.islice(iter_chunks(stream(), BYTES, 100), 200):
        # A block of 1024 characters, a chunk and a piece.
        assert taken <= chunk.end + 1024 + 100 + 10
    assert chunk.end == 20_000


def test_one_long_piece_takes_linear_time():
    def seconds(length):
        text = "word " * (length // 5)
        best = []
        for _ in range(3):
            start = time.process_time()
            for _ in iter_chunks(text, BYTES, 200):
                pass
            best.append(time.process_time() - start)
        return min(best)

    assert seconds(1_600_000) < 8 * 2.5 * seconds(200_000)


def test_blocks_end_before_a_space_between_words():
    # 1024 characters hold 204 words of five; the 205th is not cut in its middle.
    seen = []

    class Spy(ByteEncoder):
        def encode_with_offsets(self, text):
            seen.append(text)
            return super().encode_with_offsets(text)

    list(iter_chunks("abcd " * 400, Spy(), 50))
    assert [len(block) for block in seen] == [1019, 981]
    assert seen[1].startswith(" abcd")


@pytest.mark.parametrize(
    ("context", "size", "message"),
    [
        ("text", 0, "chunk_size must be at least 1"),
        ("text", 2.5, "chunk_size must be an integer"),
        ([b"bytes"], 3, "type bytes"),
        (b"bytes", 3, "got bytes: decode it first"),
        ({"text": "abc"}, 3, "got dict, which has keys"),
        (["ab", "c\ud800"], 3, "character 3 is the lone surrogate U\\+D800"),
    ],
)
def test_refuses(context, size, message):
    with pytest.raises(InputError, match=message):
        list(iter_chunks(context, BYTES, size))


BORDERS = [(0, 10), (10, 20), (20, 30)]


@pytest.mark.parametrize(
    ("spans", "evidence", "last"),
    [
        ([], (False, False, False), None),
        ([(2, 5)], (True, False, False), 0),
        ([(8, 10)], (True, False, False), 0),  # ends at the border
        ([(10, 12)], (False, True, False), 1),
        ([(8, 12)], (True, True, False), 1),  # half and half
        ([(7, 12)], (True, True, False), 1),  # more than half before
        ([(9, 12)], (False, True, False), 1),  # a third before: only its end counts
        ([(9, 21)], (False, True, True), 2),  # 1, 10 and 1 of 12 characters
        ([(0, 30)], (False, False, True), 2),  # a third each
        ([(22, 25), (3, 4)], (True, False, True), 2),  # any order
        ([(28, 40), (50, 60)], (False, False, False), None),  # beyond what was read
        ([(24, 34)], (False, False, True), 2),  # more than half of it was read
    ],
)
def test_evidence_by_hand(spans, evidence, last):
    assert evidence_labels(BORDERS, spans) == (evidence, last)


def test_evidence_without_chunks():
    assert evidence_labels([], [(0, 5)]) == ((), None)
