"""The chunks of a document as a report shows them: evidence whole, the rest cut."""

import itertools
from collections.abc import Iterable, Sequence

from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.evaluation.records import ChunkText, RunKind

_OF_DOCUMENT = 100_000  # characters of all chunks, evidence aside
_LEAST, _MOST = 160, 2000
_LONGEST_MARK = 2000


def chunk_texts(
    document: str,
    borders: Sequence[Span],
    evidence: Sequence[Span],
    attacks: Sequence[Span] = (),
) -> tuple[ChunkText, ...]:
    """Every chunk with its evidence marked, of at most some characters.

    Args:
      document: the whole text.
      borders: (start, end) of each chunk, adjacent and in order.
      evidence, attacks: (start, end) of what is marked; an attack hides evidence.
    """
    each = _OF_DOCUMENT // max(1, len(borders))
    budget = min(max(each, _LEAST), _MOST)
    return tuple(
        ChunkText(
            span=span, runs=excerpt(document, span, evidence, attacks, budget=budget)
        )
        for span in borders
    )


def excerpt(
    document: str,
    span: Span,
    evidence: Sequence[Span],
    attacks: Sequence[Span] = (),
    *,
    budget: int,
) -> tuple[tuple[RunKind, str], ...]:
    """A chunk as (kind, text) runs; the text of "skipped" is its number of characters.

    Plain text goes where it is next to something that is marked, else to the chunk's
    begin and end.

    Args:
      document: the whole text.
      span: (start, end) of the chunk.
      evidence, attacks: (start, end) in the document; parts outside the chunk are left
        out.
      budget: most characters of plain text; marked text is cut only where it is very
        long.
    """
    marks = _marks(span, evidence, attacks)
    sides = max(1, 2 * len(marks)) if marks else 2
    share = budget // sides
    runs: list[tuple[RunKind, str]] = []
    at = span[0]
    ends: Iterable[tuple[Span, RunKind]] = (*marks, ((span[1], span[1]), "text"))
    for (start, end), kind in ends:
        before = share if at > span[0] or not marks else 0
        after = share if start < span[1] or not marks else 0
        runs += _cut(document[at:start], "text", before, after)
        half = _LONGEST_MARK // 2
        runs += _cut(document[start:end], kind, half, half)
        at = end
    return tuple(runs)


def _cut(text: str, kind: RunKind, first: int, last: int) -> list[tuple[RunKind, str]]:
    left = len(text) - first - last
    if left <= 0:
        return [(kind, text)] if text else []
    runs: list[tuple[RunKind, str]] = [
        (kind, text[:first]),
        ("skipped", str(left)),
        (kind, text[len(text) - last :]),
    ]
    return [run for run in runs if run[1]]


def _marks(
    span: Span, evidence: Sequence[Span], attacks: Sequence[Span]
) -> list[tuple[Span, RunKind]]:
    """What is marked of a chunk: apart, and in order."""
    low, high = span
    inside = [
        (kind, max(start, low), min(end, high))
        for kind, spans in (("attack", attacks), ("evidence", evidence))
        for start, end in spans
        if start < high and end > low
    ]
    borders = sorted({place for _, *ends in inside for place in ends})
    marks: list[tuple[Span, RunKind]] = []
    for start, end in itertools.pairwise(borders):
        kinds = [kind for kind, a, b in inside if a <= start and end <= b]
        if not kinds:
            continue
        kind: RunKind = "attack" if "attack" in kinds else "evidence"
        if marks and marks[-1][1] == kind and marks[-1][0][1] == start:
            start = marks.pop()[0][0]
        marks.append(((start, end), kind))
    return marks
