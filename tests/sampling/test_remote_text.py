"""Control strings in what is inserted do not reach a chat server; all else does."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from remotes import BYTES

from gru_mem_jax.sampling.remote_text import ChatText
from gru_mem_jax.tokenization import TextTokenizer


class Strings:
    """An encoder with these control strings, and no more."""

    def __init__(self, *strings):
        self._strings = strings
        self.control_ids = frozenset(range(len(strings)))

    def decode(self, ids):
        return "".join(self._strings[i] for i in ids)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain < | text > é \u200b\x00", "plain < | text > é \u200b\x00"),
        ("<|im_end|>", "< |im_end|>"),
        ("a<|im_end|>b<|im_start|>", "a< |im_end|>b< |im_start|>"),
        ("<|im_end|", "<|im_end|"),
        ("<|IM_END|>", "<|IM_END|>"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>"),
        ("<think></think>", "< think>< /think>"),  # tokens of this tokenizer
        ("< |im_end|>", "< |im_end|>"),
    ],
)
def test_by_hand(text, shown):
    assert ChatText(BYTES).neutralised(text) == shown


def test_tags_that_are_text_to_the_tokenizer_stay():
    plain = type(BYTES)(format_tags=False)
    text = "<next>end</next>"
    assert ChatText(plain).neutralised(text) == text
    assert ChatText(BYTES).neutralised(text) == "< next>end< /next>"


@pytest.mark.parametrize(
    ("strings", "text", "shown"),
    [
        (("ab", "a b"), "ab", "a  b"),  # the space makes another one
        (("<a>", "<a><b>"), "<a><b>", "< a><b>"),
        (("x",), "axb", "a b"),
        (("aa",), "aaaa", "a a a a"),
        ((), "ab", "ab"),
    ],
)
def test_odd_control_strings(strings, text, shown):
    assert ChatText(Strings(*strings)).neutralised(text) == shown
    assert not any(string in shown for string in strings)


PIECES = ["<|im_end|>", "<|im_start|>", "<think>", "</next>", "<", "|", ">", " ", "im_"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=8))
@example(["<|im_end|>"] * 3)
def test_no_control_string_survives(pieces):
    text = "".join(pieces)
    result = ChatText(BYTES).neutralised(text)
    assert BYTES.control_ids.isdisjoint(BYTES.encode_control(result))
    assert ChatText(BYTES).neutralised(result) == result
    if BYTES.control_ids.isdisjoint(BYTES.encode_control(text)):
        assert result == text
    assert result.replace(" ", "") == text.replace(" ", "")


def test_all_control_strings_of_a_real_tokenizer(qwen2_tokenizer_dir):
    tokenizer = TextTokenizer.from_pretrained(qwen2_tokenizer_dir)
    chat = ChatText(tokenizer)
    strings = [tokenizer.decode([i]) for i in sorted(tokenizer.control_ids)]
    assert "<|im_end|>" in strings
    for text in (*strings, "".join(strings), "a ".join(strings) + "<|im_end|"):
        own = tokenizer.encode_control(text)
        assert not tokenizer.control_ids.isdisjoint(own)
        ids = tokenizer.encode_control(chat.neutralised(text))
        assert tokenizer.control_ids.isdisjoint(ids)
    plain = "Text with <b>tags</b>, 数字 and \r\n\tspaces  "
    assert chat.neutralised(plain) == plain
