"""The sentences that evidence lies in, and what of them each chunk shows."""

import re
from collections.abc import Sequence

from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.agent.memory import clean_memory

# A full stop, white space and no small letter; or one of Chinese and Japanese.
_END = re.compile(
    r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]?(\w))|[。！？][”’」』）]*(?=\s*\S)"
)


def whole_sentences(text: str, span: Span) -> Span:
    """The sentences that a span of text lies in, without white space around them.

    Sentences are told by punctuation and capital letters alone.
    """
    start, end = 0, len(text)
    for match in _END.finditer(text):
        if match[1] and match[1].islower():
            continue
        if match.end() <= span[0]:
            start = match.end()
        elif match.end() >= span[1]:
            end = match.end()
            break
    return stripped(text, (start, end))


def evidence_pieces(
    document: str,
    evidence: Sequence[Span],
    borders: Sequence[Span],
    counts: Sequence[bool],
) -> tuple[list[list[Span]], bool]:
    """What of the evidence each chunk adds to a memory.

    Args:
      document: text.
      evidence: (start, end) in its characters.
      borders: (start, end) of each chunk.
      counts: whether a chunk counts as evidence (`agent.chunking.evidence_labels`).

    Returns:
      For each chunk that counts, what stands in it of the sentences that evidence lies
      in, in order; what overlaps is one piece. And whether some of these sentences
      stands in a chunk that does not count, and so is lost.
    """
    sentences = [_in_lines(document, span) for span in evidence]
    pieces: list[list[Span]] = []
    lost = False
    for (low, high), held in zip(borders, counts):
        inside = [(max(a, low), min(b, high)) for a, b in sentences]
        merged = _merged(document, inside)
        pieces.append(merged if held else [])
        lost |= bool(merged) and not held
    return pieces, lost


def one_line(text: str) -> str:
    """With single spaces, and without what no memory keeps."""
    return " ".join(clean_memory(text).split())


def _in_lines(document: str, span: Span) -> Span:
    """The sentences that a span lies in, not beyond the lines that it lies in."""
    start, end = stripped(document, span)
    if start == end:
        return span
    low = document.rfind("\n", 0, start) + 1
    high = document.find("\n", end)
    lines = document[low : len(document) if high < 0 else high]
    first, last = whole_sentences(lines, (start - low, end - low))
    return low + first, low + last


def _merged(document: str, spans: Sequence[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if not one_line(document[start:end]):
            continue
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def stripped(text: str, span: Span) -> Span:
    """The span without white space at its ends."""
    held = text[slice(*span)]
    end = span[0] + len(held.rstrip())
    return min(end, span[0] + len(held) - len(held.lstrip())), end
