"""Two pieces of evidence a given number of chunks apart."""

import bisect
import random
from collections.abc import Sequence
from typing import NamedTuple

from gru_mem_jax.data.builders.token_counts import TokenCounts
from gru_mem_jax.errors import InputError

_ATTEMPTS = 200
# Paragraphs in a row that are too long for what is left before a part is full.
_TRIES = 64


class Held(NamedTuple):
    """A paragraph with evidence.

    Attributes:
      piece: its index in the pool.
      first, last: tokens of its text, from the first of its evidence to the last.
    """

    piece: int
    first: int
    last: int


class Parts(NamedTuple):
    """The other paragraphs of a document, by where they stand.

    Attributes:
      before: the evidence that comes first in the document.
      between: both.
      after: the evidence that comes second.
    """

    before: list[int]
    between: list[int]
    after: list[int]


def arrange(
    rng: random.Random,
    counts: TokenCounts,
    chunk_size: int,
    gap: int,
    pair: tuple[Held, Held],
    others: Sequence[int],
) -> Parts:
    """Parts others so that `pair` stands `gap` chunks apart, in this order.

    Evidence that fits into a chunk lies in one, and the chunks of the two are `gap`
    apart, counted by where evidence ends. The chunk of the first is drawn. With gap 0
    nothing stands between; both lie in one chunk if they fit.

    Args:
      rng: of the draws.
      counts: of the pool.
      chunk_size: tokens of a chunk.
      gap: at least 0.
      pair: the evidence that comes first in the document, and the other.
      others: of the whole document.

    Raises:
      InputError: the document is too short.
    """
    both = [held.piece for held in pair]
    chunks = -(-counts.document([*others, *both]) // chunk_size)
    latest = chunks - 1 - gap
    if latest < 0:
        raise InputError(
            f"its {chunks} chunks of {chunk_size} tokens are too few for a gap of "
            f"{gap}; take longer documents, smaller chunks or a smaller gap"
        )
    for _ in range(_ATTEMPTS):
        rest = rng.sample(others, len(others))
        goal = (rng.randint(0, latest) + rng.random()) * chunk_size
        parts = _parts(counts, chunk_size * gap, int(goal), pair, rest)
        if _are_apart(counts, chunk_size, gap, pair, parts):
            return parts
    raise InputError(
        f"no order of its paragraphs was found with its evidence {gap} chunks of "
        f"{chunk_size} tokens apart; take longer documents or larger chunks"
    )


def _parts(
    counts: TokenCounts,
    distance: int,
    goal: int,
    pair: tuple[Held, Held],
    rest: list[int],
) -> Parts:
    """Parts with the first evidence near token `goal`, the second `distance` behind."""
    first, second = pair
    before, rest, at = _take(counts, rest, 0, 0, goal - first.first)
    number = len(before) + 1
    start = at + counts.head(number)
    at = start + counts.text(first.piece).tokens
    if not distance:
        return Parts(before, [], rest)
    aim = start + first.first + distance - second.first
    between, rest, at = _take(counts, rest, number, at, aim)
    return Parts(before, between, rest)


def _take(
    counts: TokenCounts, rest: list[int], number: int, at: int, goal: int
) -> tuple[list[int], list[int], int]:
    """The first of `rest` that fit between token `at` and `goal`.

    Args:
      counts: of the pool.
      rest: of which they are taken.
      number: texts before them.
      at: the token that they begin with.
      goal: that they may not go beyond.

    Returns:
      Those taken, the others, and the token behind those taken.
    """
    taken: list[int] = []
    left: list[int] = []
    misses = 0
    for i, piece in enumerate(rest):
        cost = counts.head(number + len(taken) + 1) + counts.text(piece).tokens
        if at + cost <= goal:
            taken.append(piece)
            at += cost
            misses = 0
        else:
            left.append(piece)
            misses += 1
            if misses == _TRIES:
                left += rest[i + 1 :]
                break
    return taken, left, at


def _are_apart(
    counts: TokenCounts,
    chunk_size: int,
    gap: int,
    pair: tuple[Held, Held],
    parts: Parts,
) -> bool:
    """Whether no evidence is split that need not be, and the gap is as it should."""
    first, second = pair
    order = [*parts.before, first.piece, *parts.between, second.piece]
    starts = counts.starts(order)
    end = starts[-1] + counts.text(second.piece).tokens
    chunks = counts.chunks(order, starts, chunk_size, end)
    lows, highs = [], []
    for start, held in zip((starts[len(parts.before)], starts[-1]), pair):
        lows.append(bisect.bisect_right(chunks, start + held.first) - 1)
        highs.append(bisect.bisect_right(chunks, start + held.last) - 1)
        if lows[-1] < highs[-1] and held.last - held.first < chunk_size:
            return False
    if gap == 0:
        fits = starts[-1] + second.last - starts[-2] - first.first < chunk_size
        return lows[0] == highs[1] or not fits
    return highs[1] - highs[0] == gap
