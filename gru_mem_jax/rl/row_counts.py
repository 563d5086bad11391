"""What packed rows hold, counted."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gru_mem_jax.rl.packing import PackedRows


@dataclasses.dataclass(frozen=True, slots=True)
class RowCounts:
    """What packed rows hold.

    Attributes:
      rows: that hold anything.
      tokens: in them, without padding.
      padding: tokens of micro-batches that are none.
      pairs: of tokens of which one sees the other: what attention is for.
    """

    rows: int
    tokens: int
    padding: int
    pairs: int


def count_rows(batches: Sequence[PackedRows]) -> RowCounts:
    """Counts over micro-batches."""
    rows = tokens = places = pairs = 0
    for micro in batches:
        real = np.asarray(micro.positions) >= 0
        seen_by = np.asarray(micro.reach) - np.arange(real.shape[1])
        rows += int(real.any(axis=1).sum())
        tokens += int(real.sum())
        places += real.size
        pairs += int(seen_by[real].sum(dtype=np.int64))
    return RowCounts(rows, tokens, places - tokens, pairs)
