"""Which blocks of the trunks' keys a program reads, and for which rows."""

import numpy as np

from gru_mem_jax.policy.cascade import ENTRY, FIRST, KEY_BLOCK, MEMBERS

MOST_MEMBERS, MOST_QUERIES = 16, 128  # rows of a cell, and their tokens


def cells_shape(rows: int, length: int, entries: int, longest: int) -> tuple[int, int]:
    """Shape [N, 2 + M] of the cells that any rows may need.

    Args:
      rows: of the program.
      length: tokens of a row.
      entries: R of the pool.
      longest: T of the pool.
    """
    members = max(1, min(rows, MOST_MEMBERS, MOST_QUERIES // length))
    # A trunk's rows are cut into full cells and one more.
    most = min(rows, rows // members + min(rows, entries))
    return most * -(-longest // KEY_BLOCK), MEMBERS + members


def cells(
    entries: np.ndarray, lengths: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.int32]:
    """The cells of some rows, and how many there are; see `policy.cascade`.

    Args:
      entries: int32[B], of the pool; -1: the row has no trunk.
      lengths: int32[B], of the rows' trunks.
      shape: of `cells_shape`.

    Returns:
      int32[N, 2 + M] and int32[].
    """
    found = np.zeros(shape, np.int32)
    found[:, MEMBERS:] = len(entries)
    width, count = shape[1] - MEMBERS, 0
    for entry in np.unique(entries[entries >= 0]):
        rows = np.flatnonzero(entries == entry)
        for start in range(0, len(rows), width):
            members = rows[start : start + width]
            for first in range(0, int(lengths[members].max()), KEY_BLOCK):
                found[count, ENTRY], found[count, FIRST] = entry, first
                found[count, MEMBERS : MEMBERS + len(members)] = members
                count += 1
    return found, np.int32(count)
