"""The sentences that evidence lies in, and their parts in each chunk."""

import re
from collections.abc import Sequence

from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.agent.memory import clean_memory

# A full stop, white space and no small letter; or a Chinese or Japanese full stop.
_END = re.compile(
    r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]?(\w))|[。！？][”’」』）]*(?=\s*\S)"
)


def whole_sentences(text: str, span: Span) -> Span:
    """The sentences that a span of text lies in, without white space around them.

    Sentences are recognised only by punctuation and capital letters.
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


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, without white space around them."""
    ends = [
        match.end()
        for match in _END.finditer(text)
        if not (match[1] and match[1].islower())
    ]
    parts = (text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)]))
    return [part for part in parts if part]


def evidence_pieces(
    document: str,
    evidence: Sequence[Span],
    borders: Sequence[Span],
    counts: Sequence[bool],
) -> tuple[list[list[Span]], bool]:
    """The evidence that each chunk adds to a memory.

    Args:
      document: text.
      evidence: (start, end) in its characters.
      borders: (start, end) of each chunk.
      counts: whether a chunk is labelled as evidence, see
        `agent.chunking.evidence_labels`.

    Returns:
      For each labelled chunk the parts in it of the sentences that evidence lies in, in
      order, overlapping ones merged. And whether a part lies in an unlabelled chunk,
      and so is lost.
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
    """The text with single spaces, cleaned as memories are."""
    return " ".join(clean_memory(text).split())


def _in_lines(document: str, span: Span) -> Span:
    """The sentences that a span lies in, within its lines."""
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
