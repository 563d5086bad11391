"""How many tokens a document has, and where its chunks begin, from its paragraphs.

A tokenizer splits text at line ends, so that the tokens of a document are those of its
paragraphs, each with its heading and the empty line behind it: a document of millions
of tokens is counted without being tokenised.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.data.builders.recipe import heading

BETWEEN = "\n\n"  # of two paragraphs
_NEXT = "Document"  # what follows, more or less


class Counted(NamedTuple):
    """The tokens of a text, with the empty line behind it.

    Attributes:
      tokens: how many.
      inside: those that begin within a character: no chunk begins there.
    """

    tokens: int
    inside: tuple[int, ...]


class TokenCounts:
    """Tokens of the texts of a pool, each counted once, when it is first needed.

    Args:
      encoder: the tokenizer.
      texts: of the pool.
      numbered: whether a text has a heading with its number.
    """

    def __init__(self, encoder: Encoder, texts: Sequence[str], *, numbered: bool):
        self._encoder, self._texts, self._numbered = encoder, texts, numbered
        self._counted: dict[int, Counted] = {}
        self._heads: dict[int, int] = {}

    def text(self, index: int) -> Counted:
        """The tokens of a text of the pool."""
        if (counted := self._counted.get(index)) is None:
            spans = self._spans(index, BETWEEN)
            inside = tuple(
                i for i in range(1, len(spans)) if spans[i - 1][1] > spans[i][0]
            )
            counted = self._counted[index] = Counted(len(spans), inside)
        return counted

    def head(self, number: int) -> int:
        """The tokens of the heading of text `number`, from 1."""
        if not self._numbered:
            return 0
        if (tokens := self._heads.get(number)) is None:
            head = heading(number)
            _, spans = self._encoder.encode_with_offsets(head + _NEXT)
            tokens = sum(start < len(head) for start, _ in spans)
            self._heads[number] = tokens
        return tokens

    def extent(self, index: int, span: Span) -> tuple[int, int]:
        """The first and the last token of a span of characters of a text."""
        spans = self._spans(index, BETWEEN)
        first = sum(end <= span[0] for _, end in spans)
        last = sum(start < span[1] for start, _ in spans) - 1
        return first, last

    def document(self, pieces: Sequence[int]) -> int:
        """The tokens of the document of these texts."""
        heads = sum(self.head(number) for number in range(1, len(pieces) + 1))
        body = sum(self.text(piece).tokens for piece in pieces[:-1])
        return heads + body + len(self._spans(pieces[-1], ""))

    def starts(self, pieces: Sequence[int]) -> list[int]:
        """The first token of each text behind its heading, in the document."""
        starts = []
        at = 0
        for number, piece in enumerate(pieces, 1):
            at += self.head(number)
            starts.append(at)
            at += self.text(piece).tokens
        return starts

    def chunks(
        self, pieces: Sequence[int], starts: Sequence[int], size: int, total: int
    ) -> list[int]:
        """The first token of each chunk, as `agent.chunking` cuts the document.

        Args:
          pieces: texts of the document.
          starts: as `starts` gives them.
          size: tokens of a chunk.
          total: tokens of the document.
        """
        borders = [0]
        while (at := borders[-1] + size) < total:
            text = max(0, bisect.bisect_right(starts, at) - 1)
            inside = self.text(pieces[text]).inside
            while at - starts[text] in inside:
                at -= 1
            borders.append(at)
        return borders

    def _spans(self, index: int, behind: str) -> list[Span]:
        """(start, end) in its characters of each token of a text where it stands."""
        head = heading(1) if self._numbered else ""
        text = self._texts[index] + behind
        _, spans = self._encoder.encode_with_offsets(
            f"{head}{text}{_NEXT if behind else ''}"
        )
        low, high = len(head), len(head) + len(text)
        return [(a - low, b - low) for a, b in spans if low <= a < high]
