"""A pool of slots: their cache on the device, and what the host knows of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gru_mem_jax.policy.cascade import Trunk
from gru_mem_jax.sampling.blocks import batches
from gru_mem_jax.sampling.config import EngineConfig, smallest_at_least, up_to
from gru_mem_jax.sampling.prefixes import Residents, SlotAssignment, in_order
from gru_mem_jax.sampling.programs import Programs

SeenBy = Callable[[Sequence[int], int], Trunk | None]


class Pool:
    """Slots that prompts (or trunks, or tails) are read into.

    Attributes:
      config: sizes of the pool.
      programs: that act on the cache.
      residents: contents of the slots.
      cache: on its devices.
      computed: tokens that were computed.
      padding: computed tokens that were padding.
    """

    def __init__(self, programs: Programs, config: EngineConfig):
        self.config = config
        self.programs = programs
        self.residents = Residents(config.slots, config.max_length)
        self.cache = programs.new_cache()
        self.computed = 0
        self.padding = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the cache's arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.cache))

    def fill(
        self,
        params: Any,
        assignments: Sequence[SlotAssignment],
        seen_by: SeenBy,
        write: Callable[[SlotAssignment], None] = lambda assignment: None,
    ) -> None:
        """Copies and computes what assignments of `Residents.assign` need.

        Args:
          params: sampling form.
          assignments: of one round.
          seen_by: the trunk of the rows of a program, from slots and tokens of a row.
          write: called for each assignment after its copy, before its prefill.
        """
        for wave in range(1 + max((p.wave for p in assignments), default=-1)):
            chosen = [p for p in assignments if p.wave == wave]
            self._copy(chosen)
            for assignment in chosen:
                write(assignment)
            self._prefill(params, chosen, seen_by)

    def read(self, slot: int, length: int) -> np.ndarray:
        """The front of a slot, [N, 2, K, length, H]."""
        size = smallest_at_least(self.config.prefill_attends, length)
        front = self.programs.read(size)(self.cache, np.int32(slot))
        return np.asarray(front)[:, :, :, :length]

    def write(self, slot: int, front: np.ndarray) -> None:
        """Makes `front` [N, 2, K, L, H] the first L positions of a slot."""
        length = front.shape[3]
        size = smallest_at_least(self.config.prefill_attends, length)
        padded = np.zeros((*front.shape[:3], size, front.shape[4]), front.dtype)
        padded[:, :, :, :length] = front
        program = self.programs.write(size)
        self.cache = program(self.cache, np.int32(slot), padded)

    def warm_up(self, longest: int, *, hosted: bool = False) -> None:
        """Compiles what `fill`, and if `hosted` `read` and `write`, may need."""
        config = self.config
        longest = min(longest, config.max_length)
        for shape in config.prefill_shapes(longest):
            self.programs.prefill(*shape)
        for length in up_to(config.prefill_attends, longest):
            if config.slots > 1:
                self.programs.copy(length)
            if hosted:
                self.programs.read(length)
                self.programs.write(length)

    def renew(self) -> None:
        """Makes a new cache: the old one was donated to a program that failed."""
        self.residents.clear()
        self.cache = None  # never two at once
        self.cache = self.programs.new_cache()

    def _copy(self, assignments: list[SlotAssignment]) -> None:
        moves = in_order(assignments)
        if not moves:
            return
        pairs = np.zeros((self.config.slots, 2), np.int32)
        pairs[: len(moves)] = [(p.source, p.slot) for p in moves]
        longest = max(p.shared for p in moves)
        length = smallest_at_least(self.config.prefill_attends, longest)
        program = self.programs.copy(length)
        self.cache = program(self.cache, pairs, np.int32(len(moves)))

    def _prefill(
        self, params: Any, assignments: list[SlotAssignment], seen_by: SeenBy
    ) -> None:
        ends = [int(self.residents.filled[p.slot]) for p in assignments]
        spans = [(end, p.shared, p.slot) for end, p in zip(ends, assignments)]
        for batch in batches(spans, self.config):
            program = self.programs.prefill(batch.rows, batch.length, batch.attend)
            packed = batch.block_array(self.residents.tokens)
            slots = [slot for _, _, slot in batch.blocks]
            slots += [-1] * (batch.rows - len(slots))
            trunk = seen_by(slots, batch.length)
            self.cache = program(params, self.cache, packed, trunk)
            self.padding += batch.padding
        self.computed += sum(end - start for end, start, _ in spans)
