"""An encoder over bytes: no files, no vocabulary, and every text decodes to itself."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.agent.parse import TAGS

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


class ByteEncoder:
    """Ids 0 to 255 are bytes of UTF-8; control tokens follow.

    Args:
      format_tags: whether the output format's tags are tokens of their own, as in a
        policy trained on them; else they are written in bytes.
    """

    def __init__(self, format_tags: bool = True):
        control = (END_OF_TEXT, START, END, *(TAGS if format_tags else ()))
        self._ids = {text: 256 + i for i, text in enumerate(control)}
        self._texts = {i: text for text, i in self._ids.items()}
        self._control = re.compile("|".join(map(re.escape, control)))
        self.control_ids = frozenset(self._texts)
        self.format_ids = frozenset(i for text, i in self._ids.items() if text in TAGS)
        self.stop_ids = (self._ids[END],)
        self.vocab_size = 256 + len(control)
        self.missing_ids: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        """Bytes, without control tokens."""
        return list(text.encode())

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Bytes, each with its character's (start, end)."""
        ids = self.encode(text)
        if len(ids) == len(text):
            return ids, [(i, i + 1) for i in range(len(text))]
        spans = [(i, i + 1) for i, c in enumerate(text) for _ in c.encode()]
        return ids, spans

    def encode_control(self, text: str, *, start: bool = False) -> list[int]:
        """Bytes and control tokens."""
        ids: list[int] = []
        position = 0
        for match in self._control.finditer(text):
            ids += self.encode(text[position : match.start()])
            ids.append(self._ids[match.group()])
            position = match.end()
        return ids + self.encode(text[position:])

    def decode(self, ids: Sequence[int]) -> str:
        """Text; invalid bytes and unknown ids give U+FFFD."""
        parts: list[str] = []
        held = bytearray()
        for i in ids:
            if 0 <= i < 256:
                held.append(i)
                continue
            parts += [held.decode(errors="replace"), self._texts.get(i, "\ufffd")]
            held.clear()
        return "".join(parts) + held.decode(errors="replace")

    def render_chat(
        self,
        messages: list[dict[str, str]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """ChatML without a system message."""
        turns = [f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages]
        return "".join(turns) + f"{START}assistant\n"
