"""Text in place of as many tokens of a chunk, so that all other chunks stay."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from gru_mem_jax.agent.encoding import Encoder, Span


class Cut(NamedTuple):
    """A text, and the characters whose place it takes.

    Attributes:
      start, end: of what is replaced.
      text: in its place.
      lead: characters at the beginning of `text` that part it from what is before.
    """

    start: int
    end: int
    text: str
    lead: int

    def moved(self, by: int) -> "Cut":
        """The same of a text that has `by` more characters before it."""
        return self._replace(start=self.start + by, end=self.end + by)


_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?=\n)")
_SLACK = 8  # tokens that a seam may add or take


def cut_for(
    chunk: str, texts: Sequence[str], where: float, encoder: Encoder
) -> Cut | None:
    """The first text that fits in a chunk, and what it replaces; None: none fits.

    The chunk keeps its number of tokens, or the nearest that there is.

    Args:
      chunk: the text of a chunk.
      texts: wordings, in order of preference.
      where: place among the ends of sentences, in 0..1.
      encoder: of the policy.
    """
    ids, spans = encoder.encode_with_offsets(chunk)
    stops = {match.start() for match in _SENTENCE_END.finditer(chunk)}
    after_stop = [i for i, (_, end) in enumerate(spans, 1) if end in stops]
    # The last token stays, so that the next chunk begins after what it did.
    borders = [0, *(start for start, _ in spans[1:])]

    def tokens_off(cut: Cut) -> int:
        made = chunk[: cut.start] + cut.text + chunk[cut.end :]
        return abs(len(encoder.encode(made)) - len(ids))

    for text in texts:
        size = len(encoder.encode(f" {text}"))
        if size >= len(ids):
            continue
        places = [i for i in after_stop if i + size < len(ids)]
        best: tuple[int, Cut] | None = None
        first = int(where * len(places))
        for place in (*places[first:], *places[:first]) or (0,):
            start = spans[place - 1][1] if place else 0
            low, high = max(place, place + size - _SLACK), place + size + _SLACK
            for end in borders[low : high + 1]:
                cut = Cut(start, max(start, end), f" {text}", lead=1)
                off = tokens_off(cut)
                if best is None or off < best[0]:
                    best = off, cut
            if best is not None and best[0] == 0:
                break
        if best is not None:
            return best[1]
    return None


def replaced(
    document: str, cuts: Sequence[Cut], evidence: Sequence[Span] = ()
) -> tuple[str, tuple[Span, ...], tuple[Span, ...]]:
    """A document with its cuts, in characters of the document.

    Returns:
      The text; `evidence`, which no cut touches, where it is then; and each cut's text
      without its lead, in order of the document.
    """
    parts: list[str] = []
    own: list[Span] = []
    at = length = 0
    shifts: list[tuple[int, int]] = []  # (from here on, moved by)
    for cut in sorted(cuts):
        parts += [document[at : cut.start], cut.text]
        length += cut.start - at + len(cut.text)
        own.append((length - len(cut.text) + cut.lead, length))
        at = cut.end
        shifts.append((cut.end, length - at))
    parts.append(document[at:])

    def moved(place: int) -> int:
        return place + next((by for here, by in reversed(shifts) if here <= place), 0)

    spans = tuple((moved(a), moved(a) + b - a) for a, b in evidence)
    return "".join(parts), spans, tuple(own)
