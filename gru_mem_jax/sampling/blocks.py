"""Cuts prompts into blocks and batches the blocks into calls of prefill programs."""

import dataclasses

import numpy as np

from gru_mem_jax.sampling.config import FRESH_LENGTH, EngineConfig, fitting

Block = tuple[int, int, int]  # (stop, start, slot): tokens start..stop of a slot


@dataclasses.dataclass(frozen=True, slots=True)
class PrefillBatch:
    """One call of a prefill program.

    Attributes:
      rows, length, attend: shape of the program; attend 0 is the fresh form.
      blocks: at most `rows`, of at most `length` tokens each.
    """

    rows: int
    length: int
    attend: int
    blocks: tuple[Block, ...]

    @property
    def padding(self) -> int:
        """Computed tokens that are padding."""
        useful = sum(stop - start for stop, start, _ in self.blocks)
        return self.rows * self.length - useful

    def block_array(self, tokens: np.ndarray) -> np.ndarray:
        """The blocks as the program's argument.

        Args:
          tokens: int32[S, C + 1], of all slots.

        Returns:
          int32[rows, 2 + length]: slot, start, tokens; -1 is padding.
        """
        packed = np.full((self.rows, 2 + self.length), -1, np.int32)
        packed[:, :2] = 0
        for row, (stop, start, slot) in zip(packed, self.blocks):
            row[0], row[1] = slot, start
            row[2 : 2 + stop - start] = tokens[slot, start:stop]
        return packed


def batches(spans: list[Block], config: EngineConfig) -> list[PrefillBatch]:
    """Cuts spans into blocks and batches them, in the order to run them.

    Longest blocks first, then by their ends: so the blocks of a slot are in order, and
    the blocks of a call read about as much of the cache.

    Args:
      spans: to prefill, at most one per slot.
      config: of the engine.

    Returns:
      Batches; later blocks of a slot are in the same call as its earlier ones, or in a
      later one.
    """
    blocks: dict[int, list[Block]] = {n: [] for n in config.block_lengths}
    for end, start, slot in spans:
        while start < end:
            length = fitting(end - start, config.block_lengths)
            stop = min(start + length, end)
            blocks[length].append((stop, start, slot))
            start = stop
    result = []
    for length in reversed(config.block_lengths):
        fresh = [b for b in blocks[length] if b[1] == 0 and length >= FRESH_LENGTH]
        rest = [b for b in blocks[length] if b not in fresh]
        for pending in (sorted(fresh), sorted(rest)):
            while pending:
                batch = _first(pending, length, pending[0] in fresh, config)
                pending = pending[len(batch.blocks) :]
                result.append(batch)
    return result


def _first(
    pending: list[Block], length: int, fresh: bool, config: EngineConfig
) -> PrefillBatch:
    """The batch made of the first of `pending`."""
    attend = 0 if fresh else config.prefill_attend(length, pending[-1][0])
    rows = fitting(len(pending), config.prefill_rows(length, attend))
    taken = tuple(pending[:rows])
    if not fresh:
        attend = config.prefill_attend(length, taken[-1][0])
    return PrefillBatch(rows, length, attend, taken)
