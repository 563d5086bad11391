"""Turns packed into rows of a fixed length, several to a row."""

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gru_mem_jax.data.turns import SupervisedTurn
from gru_mem_jax.errors import InputError

# A batch is full when so many turns in a row found no room.
_MISSES = 24


class PackedBatch(NamedTuple):
    """Rows of turns; the learner's logits are only at `where`.

    Attributes:
      tokens: int32 [B, L], 0 in padding.
      positions: int32 [B, L], from 0 in each turn, -1 in padding.
      segment_ids: int32 [B, L], 1, 2, ... in a row, 0 in padding.
      where: int32 [M], index into [B * L] of the token before each target.
      targets: int32 [M], completion tokens, turn after turn.
      weights: float32 [M], 1 for targets, 0 for padding.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    where: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def pack(
    bins: list[list[SupervisedTurn]], row_tokens: int, targets: int
) -> PackedBatch:
    """Arrays of turns that were assigned to rows.

    Args:
      bins: the turns of each row.
      row_tokens: L.
      targets: M.
    """
    shape = (len(bins), row_tokens)
    batch = PackedBatch(
        np.zeros(shape, np.int32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(targets, np.int32),
        np.zeros(targets, np.int32),
        np.zeros(targets, np.float32),
    )
    count = 0
    for row, turns in enumerate(bins):
        start = 0
        for segment, turn in enumerate(turns, 1):
            end = start + len(turn)
            batch.tokens[row, start:end] = turn.prompt + turn.completion
            batch.positions[row, start:end] = np.arange(end - start)
            batch.segment_ids[row, start:end] = segment
            size = len(turn.completion)
            first = row * row_tokens + end - size - 1
            batch.where[count : count + size] = np.arange(first, first + size)
            batch.targets[count : count + size] = turn.completion
            batch.weights[count : count + size] = 1
            count += size
            start = end
    return batch


def packed_batches(
    turns: Iterator[SupervisedTurn],
    *,
    rows: int,
    row_tokens: int,
    pool_turns: int,
    seed: int,
) -> Iterator[PackedBatch]:
    """Batches of turns, shuffled through a pool; the same for equal arguments.

    M is half of all tokens of a batch.

    Args:
      turns: without end, or batches end with it.
      rows: B.
      row_tokens: L.
      pool_turns: turns that are shuffled together.
      seed: of the shuffle.

    Raises:
      InputError: a turn is longer than a row.
    """
    rng = random.Random(f"pool/{seed}")
    targets = rows * row_tokens // 2
    pool: list[SupervisedTurn] = []
    while True:
        pool += itertools.islice(turns, pool_turns - len(pool))
        if not pool:
            return
        bins, pool = _fill(pool, rows, row_tokens, targets, rng)
        yield pack(bins, row_tokens, targets)


def _fill(
    pool: list[SupervisedTurn],
    rows: int,
    row_tokens: int,
    targets: int,
    rng: random.Random,
) -> tuple[list[list[SupervisedTurn]], list[SupervisedTurn]]:
    """Takes turns at random into the first row with room; what has none goes back."""
    bins: list[list[SupervisedTurn]] = [[] for _ in range(rows)]
    room = [row_tokens] * rows
    left, misses = targets, []
    while pool and len(misses) < _MISSES:
        at = rng.randrange(len(pool))
        pool[at], pool[-1] = pool[-1], pool[at]
        turn = pool.pop()
        size = len(turn)
        if size > row_tokens or len(turn.completion) > targets:
            raise InputError(
                f"a {turn.kind} turn has {size} tokens, a packed row only "
                f"{row_tokens}; raise row_tokens"
            )
        place = next((i for i, free in enumerate(room) if size <= free), None)
        if place is None or len(turn.completion) > left:
            misses.append(turn)
            continue
        bins[place].append(turn)
        room[place] -= size
        left -= len(turn.completion)
    return bins, pool + misses
