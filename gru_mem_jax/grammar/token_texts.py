"""What each token adds to a text, and which tokens a free part never holds.

A token's text depends on its neighbours: SentencePiece drops the space that begins a
text, and a run of bytes that is no character becomes U+FFFD as a whole. Both are
settled here, so that the grammar may add up texts of tokens.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gru_mem_jax.errors import PolicyError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
FREE = "use format free"  # what to do where a tokenizer cannot be held to a form
_ANCHORS = "~^`|@#$%&*+=_;:!?.QXZqxz0"
_BLOCK = 64  # tokens that are decoded at once


class Tokenizer(Protocol):
    """Text to token ids and back, as a grammar needs it; text and control apart."""

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of control tokens: special, chat-template and added `<...>` tokens."""

    @property
    def format_ids(self) -> frozenset[int]:
        """The control ids whose text is a tag of the output format (`<think>`, ...).

        A policy may sample these; any other control id in a completion, except the stop
        id at its end, makes the turn malformed.
        """

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a string."""

    @property
    def missing_ids(self) -> frozenset[int]:
        """Ids below vocab_size that have no string."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, never control ids."""

    def encode_control(self, text: str, *, start: bool = False) -> list[int]:
        """Ids of template text; control tokens are recognised.

        `start`: the text begins a prompt.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included; ids without a string give U+FFFD."""


class TokenTexts:
    """The texts of all tokens, between other tokens.

    Attributes:
      texts: of each id; None of ids that a free part never holds: stop ids, control ids
        other than the format's, and ids without a string.

    Raises:
      PolicyError: no token keeps its text between others.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._anchor, self._mark = _anchor(tokenizer)
        control = tokenizer.control_ids - tokenizer.format_ids
        never = {*control, *tokenizer.stop_ids, *tokenizer.missing_ids}
        ids = [i for i in range(tokenizer.vocab_size) if i not in never]
        self.texts: list[str | None] = [None] * tokenizer.vocab_size
        for i, text in zip(ids, self._decoded(ids)):
            self.texts[i] = text
        broken = [i for i in ids if {*(self.texts[i] or "")} == {REPLACEMENT}]
        # The first and the last: one of them may be the character U+FFFD itself.
        self._fragments = broken[:1] + broken[-1:]

    def drop_unsteady(self, ids: Iterable[int]) -> None:
        """Drops those of the ids whose ASCII text changes beside a broken character."""
        for i in ids:
            text = self.texts[i]
            if text is not None and not self._is_steady((i,), text, after_free=True):
                self.texts[i] = None

    def check(self, ids: Sequence[int], text: str, after_free: bool) -> bool:
        """Whether ids have this text, before free text and perhaps after it."""
        shown = self._tokenizer.decode((self._anchor, *ids, self._anchor))
        same = shown == self._mark + text + self._mark
        return same and self._is_steady(ids, text, after_free)

    def _is_steady(self, ids: Sequence[int], text: str, after_free: bool) -> bool:
        anchor, mark = self._anchor, self._mark
        wanted = mark + _ascii(text) + mark
        beside = ((((f,) if after_free else ()), f) for f in self._fragments)
        return all(
            _ascii(self._tokenizer.decode((anchor, *left, *ids, right, anchor)))
            == wanted
            for left, right in beside
        )

    def _decoded(self, ids: Sequence[int]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(ids), _BLOCK):
            texts += self._block(ids[start : start + _BLOCK])
        return texts

    def _block(self, ids: Sequence[int]) -> list[str]:
        """The texts of a few ids: they are decoded together, an anchor between them.

        If the anchor's text does not part them, because a token holds it, each half is
        tried.
        """
        anchor, mark = self._anchor, self._mark
        between = [anchor]
        for i in ids:
            between += (i, anchor)
        shown = self._tokenizer.decode(between)
        if len(ids) == 1:
            return [shown.removeprefix(mark).removesuffix(mark)]
        parts = shown.split(mark)
        if len(parts) == len(ids) + 2 and not parts[0] and not parts[-1]:
            return parts[1:-1]
        half = len(ids) // 2
        return self._block(ids[:half]) + self._block(ids[half:])


def _ascii(text: str) -> str:
    return "".join(c for c in text if c < "\x80")


def _anchor(tokenizer: Tokenizer) -> tuple[int, str]:
    """A token to put beside others, and its text."""
    for mark in _ANCHORS:
        ids = tokenizer.encode(mark)
        if len(ids) == 1 and tokenizer.decode(ids * 2) == mark * 2:
            return ids[0], mark
    raise PolicyError(
        "the tokenizer cannot hold turns to a form: it has no token for a mark or a "
        f"letter of ASCII; {FREE}"
    )
