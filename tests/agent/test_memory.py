"""The gate rule, and memory that always fits and is always text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.agent.memory import clean_memory, fit_memory, gated_memory
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

BYTES = ByteEncoder()


def test_gate_rule():
    assert gated_memory(True, "new", "old") == "new"
    assert gated_memory(False, "new", "old") == "old"
    assert gated_memory(True, "", "old") == ""  # an open gate writes what it is given


class GreedyPairs(ByteEncoder):
    """Two tokens for 'ab' and three for a lone 'a' at the end: cut text may grow."""

    def encode_with_offsets(self, text):
        ids, spans, i = [], [], 0
        while i < len(text):
            pair = text.startswith("ab", i)
            for _ in range(1 if pair else 3 if i == len(text) - 1 else 1):
                ids.append(ord(text[i]) % 256)
                spans.append((i, i + 1 + pair))
            i += 1 + pair
        return ids, spans


@pytest.mark.parametrize(
    ("text", "budget", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcde"),
        ("  a b  ", 9, "a b"),
        ("ab cd", 3, "ab"),  # no white space at the end either
        ("aéb", 2, "a"),  # é has two bytes: whole or not at all
        ("😀😀", 7, "😀"),
        ("😀", 3, ""),
        ("a\ufffdb\ufffd", 9, "ab"),
        ("", 1, ""),
    ],
)
def test_fit_by_hand(text, budget, expected):
    assert fit_memory(text, BYTES, budget) == expected


def test_the_lead_counts():
    assert fit_memory("abcdef", BYTES, 5, lead=" ") == "abcd"
    assert fit_memory("abcdef", BYTES, 1, lead=" ") == ""


def test_cut_text_that_encodes_longer_is_cut_again():
    # "ab" * 3 has 3 tokens; of "aaaa", "aa" alone would have 1 + 3.
    assert fit_memory("ababab", GreedyPairs(), 2) == "abab"
    assert fit_memory("aaaa", GreedyPairs(), 3) == "a"
    assert fit_memory("aaaa", GreedyPairs(), 2) == ""


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.integers(1, 30), st.sampled_from(["", " "]))
def test_fits_and_stays(text, budget, lead):
    for encoder in (BYTES, GreedyPairs()):
        memory = fit_memory(text, encoder, budget, lead)
        ids, _ = encoder.encode_with_offsets(lead + memory)
        assert not memory or len(ids) <= budget
        assert clean_memory(text).startswith(memory)
        assert fit_memory(memory, encoder, budget, lead) == memory
