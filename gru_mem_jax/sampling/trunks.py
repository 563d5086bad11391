"""The trunks that an engine holds, and which slots see them. Host side.

A *trunk* is what a prompt begins with before its memory: template, chunk and question
of a chunk_first prompt, the same for all rollouts of a question. It is computed once
and stored once, in an entry of a pool; the slots of its requests hold only *tails*. An
entry is in use while running requests point at it. Of the others the least recently
used is given to a new trunk, which copies what it has in common with any entry (the
same document under another question), or takes it from a store of prefixes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gru_mem_jax.policy.cascade import Trunk
from gru_mem_jax.sampling.cells import cells, cells_shape
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.jobs import Front, Job
from gru_mem_jax.sampling.pool import Pool
from gru_mem_jax.sampling.prefix_store import PrefixStore
from gru_mem_jax.sampling.prefixes import SlotAssignment, common_prefix
from gru_mem_jax.sampling.programs import Programs


class Trunks:
    """The pool of trunks of an engine; empty if its slots hold all of their own.

    Attributes:
      pool: of the entries; None: there are none.
      entries: dict from a trunk's key to its entry.
      lengths: int32[S], tokens of the trunk that each slot sees; 0: it sees none.
      store: of prefixes, or None.
    """

    def __init__(
        self, programs: Programs, config: EngineConfig, store: PrefixStore | None = None
    ):
        self.pool = None
        if programs.trunks is not None:
            self.pool = Pool(programs.trunks, config.trunk_pool)
        self.entries: dict[bytes, int] = {}
        self.lengths = np.zeros(config.slots, np.int32)
        self.store = store
        self._counts = {"ahead_tokens": 0, "ahead_used": 0, "stored_tokens": 0}
        self._min_shared = config.min_shared_tokens
        self._seen = np.full(config.slots, -1, np.int32)  # entry of each slot
        self._keys = [b""] * config.trunks
        self._numbers = np.zeros(config.trunks, np.int64)  # of contents; 0: none
        self._last_number = 0
        self._ahead = np.zeros(config.trunks, np.int64)  # tokens computed, not used yet

    def stats(self) -> dict[str, int]:
        """Counts of tokens since the start; see `Engine.stats`."""
        counts = dict(self._counts)
        unused = counts["ahead_tokens"] - counts.pop("ahead_used")
        return counts | {"ahead_wasted_tokens": unused}

    def idle(self) -> list[int]:
        """Entries that no running request uses."""
        used = set(self._seen.tolist())
        return [entry for entry in range(len(self._keys)) if entry not in used]

    def number(self, job: Job) -> int:
        """Identifies the contents of the job's entry, for `Residents.assign`."""
        return int(self._numbers[self.entries[job.key]]) if job.key else 0

    def see(self, slot: int, job: Job) -> None:
        """Points a slot at the job's trunk, which is held."""
        self._seen[slot] = self.entries[job.key] if job.key else -1
        self.lengths[slot] = len(job.trunk.ids)

    def release(self, slot: int) -> None:
        """The slot's request has ended."""
        self._seen[slot] = -1

    def seen_by(self, slots: Sequence[int], length: int) -> Trunk | None:
        """What the rows of a program see.

        Args:
          slots: of each row; -1: none.
          length: tokens of a row.
        """
        if self.pool is None:
            return None
        slots = np.asarray(slots)
        entries = np.where(slots < 0, -1, self._seen[slots])
        lengths = np.where(entries < 0, 0, self.lengths[slots]).astype(np.int32)
        sizes = self.pool.config
        shape = cells_shape(len(slots), length, sizes.slots, sizes.max_length)
        return Trunk(self.pool.cache, lengths, *cells(entries, lengths, shape))

    def hold(self, params: Any, jobs: Sequence[Job]) -> None:
        """Makes the trunks of jobs that run next resident, and some that come later.

        Fills in how many prompt tokens each job does not compute.

        Args:
          params: sampling form.
          jobs: of `admission.choose`.
        """
        if self.pool is None:
            return
        residents = self.pool.residents
        available = np.zeros(len(self._keys), bool)
        available[self.idle()] = True
        new: dict[bytes, Front] = {}
        for job in jobs:
            if job.key in self.entries:
                entry = self.entries[job.key]
                available[entry] = False
                residents.touch(entry)
                self._use(entry)
                job.shared = len(job.trunk.ids)
            elif job.key:
                job.shared = len(job.trunk.ids) if job.key in new else 0
                new[job.key] = job.trunk
        own = len(new)
        for front in (front for job in jobs for front in job.ahead):
            if len(new) < available.sum() and not self._held(front, new):
                new[front.key] = front
        fronts = list(new.values())
        assignments = self._assign(fronts, available)
        stored = self._find(assignments, fronts)
        loaded = {p.slot: arrays for p, arrays in zip(assignments, stored)}

        def write(assignment: SlotAssignment) -> None:
            if loaded[assignment.slot] is not None:
                self.pool.write(assignment.slot, loaded.pop(assignment.slot))

        self.pool.fill(params, assignments, _nothing, write)
        for number, (front, assignment) in enumerate(zip(fronts, assignments)):
            self._save(front, assignment)
            if number < own:
                first = next(job for job in jobs if job.key == front.key)
                first.shared = assignment.shared
            else:
                computed = len(front.ids) - assignment.shared
                self._ahead[assignment.slot] = computed
                self._counts["ahead_tokens"] += computed

    def clear(self) -> None:
        """Forgets all trunks; no request may be running."""
        self.entries.clear()
        self._keys = [b""] * len(self._keys)
        self._ahead[:] = 0
        self._numbers[:] = 0
        self._seen[:] = -1
        if self.pool is not None:
            self.pool.residents.clear()

    def _assign(
        self, fronts: list[Front], available: np.ndarray
    ) -> list[SlotAssignment]:
        residents = self.pool.residents
        filled = residents.filled.copy()
        # Unlike a prompt's, a trunk's last token is computed here: one more behind it.
        prompts = [np.append(front.ids, np.int32(-1)) for front in fronts]
        found = residents.assign(prompts, available, self._min_shared, keep=True)
        for assignment in found:
            source = assignment.source
            if not assignment.wave and assignment.shared == filled[source] > 0:
                self._use(source)
        for assignment, front in zip(found, fronts):
            entry = assignment.slot
            self.entries.pop(self._keys[entry], None)
            self._keys[entry], self.entries[front.key] = front.key, entry
            self._last_number += 1
            self._numbers[entry] = self._last_number
            self._ahead[entry] = 0
        return found

    def _find(
        self, assignments: list[SlotAssignment], fronts: list[Front]
    ) -> list[np.ndarray | None]:
        """What the store has of the fronts; changes their assignments."""
        stored: list[np.ndarray | None] = [None] * len(fronts)
        for i, (front, assignment) in enumerate(zip(fronts, assignments)):
            least = assignment.shared + self._min_shared
            if self.store is None or front.document < least:
                continue
            prefix = self.store.find(front.ids[: front.document], least)
            if prefix is not None:
                stored[i] = prefix.arrays
                self._counts["stored_tokens"] += prefix.length
                assignments[i] = dataclasses.replace(
                    assignment, source=-1, shared=prefix.length
                )
        return stored

    def _save(self, front: Front, assignment: SlotAssignment) -> None:
        document = front.ids[: front.document]
        if self.store is None or assignment.shared >= len(document):
            return
        if self.store.wants(document):
            self.store.put(document, self.pool.read(assignment.slot, len(document)))

    def _held(self, front: Front, new: dict[bytes, Front]) -> bool:
        """Whether some trunk begins with the front, now or after this round."""
        if any(key.startswith(front.key) for key in new):
            return True
        residents, prompt = self.pool.residents, np.append(front.ids, np.int32(-1))
        held = common_prefix(prompt, residents.tokens, residents.filled)
        best = int(held.argmax())
        if held[best] < len(front.ids):
            return False
        residents.touch(best)
        return True

    def _use(self, entry: int) -> None:
        self._counts["ahead_used"] += int(self._ahead[entry])
        self._ahead[entry] = 0


def _nothing(slots: Sequence[int], length: int) -> None:
    """A trunk has no trunk before it."""
