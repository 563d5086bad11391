"""Assigns requests to slots and to resident prefixes. Host side, numpy.

A slot keeps its keys and values after its request has ended. A new request
reuses the longest prefix that it has in common, token for token, with any slot: in
place if that slot is free, else by copying. Requests that are assigned together and
share a prefix that no slot holds yet come in *waves*: the first of them is prefilled,
the others copy from it in the next wave.

Behind a trunk a slot holds only the rest of its prompt (see `trunks`): then only slots
of the same trunk have something in common. The pool of trunks is kept by the same
rules, a trunk in place of a prompt, but a new trunk takes the entry that was used
least recently, and none in place that holds more than it reuses.

Assignments depend only on the slots' contents and on the order of requests.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class SlotAssignment:
    """The slot of a prompt, and the prefix that it reuses.

    Attributes:
      slot: its slot.
      source: slot that holds the first `shared` tokens; may be `slot` itself; -1 if
        nothing is reused.
      shared: tokens that are not computed again.
      wave: 0 copies what slots held before; w > 0 what wave w - 1 wrote.
    """

    slot: int
    source: int
    shared: int
    wave: int


class Residents:
    """The contents of each slot's cache.

    Attributes:
      tokens: int32[S, C + 1], the token at each position; one more than is cached,
        for the token that was drawn last and is not fed yet.
      filled: int32[S], how many positions of a slot's cache are valid.
      trunks: int64[S], which trunk precedes a slot's tokens; 0: none.
      last_used: int64[S], number of the assignment that last took the slot.
    """

    def __init__(self, slots: int, length: int):
        self.tokens = np.full((slots, length + 1), -1, np.int32)
        self.filled = np.zeros(slots, np.int32)
        self.trunks = np.zeros(slots, np.int64)
        self.last_used = np.zeros(slots, np.int64)
        self._clock = 0

    def clear(self) -> None:
        """Forgets all contents and the order of use."""
        self.filled[:] = 0
        self.last_used[:] = 0
        self._clock = 0

    def touch(self, slot: int) -> None:
        """Makes a slot the most recently used."""
        self._clock += 1
        self.last_used[slot] = self._clock

    def assign(
        self,
        prompts: list[np.ndarray],
        free: np.ndarray,
        min_shared: int,
        trunks: Sequence[int] | None = None,
        *,
        keep: bool = False,
    ) -> list[SlotAssignment]:
        """Gives each prompt a free slot, and records it as filled there.

        All but the last token of a prompt count as filled: the caller must prefill
        them.

        Args:
          prompts: int32[n] each, in order of submission; at most free.sum() of them.
          free: bool[S]; taken slots are set to False.
          min_shared: a shorter prefix is not copied.
          trunks: what precedes each prompt, as in the attribute; None: nothing.
          keep: a slot is taken in place only if all that it holds is reused.

        Returns:
          One assignment per prompt.
        """
        trunks = [0] * len(prompts) if trunks is None else trunks
        before = self.tokens, self.filled, self.trunks
        if len(prompts) > 1:
            before = tuple(x.copy() for x in before)
        waves = np.full(len(free), -1)
        assignments = []
        for prompt, trunk in zip(prompts, trunks, strict=True):
            assignment = self._assign_one(
                prompt, trunk, free, min_shared, before, waves, keep
            )
            slot = assignment.slot
            free[slot] = False
            waves[slot] = assignment.wave
            self.touch(slot)
            self.tokens[slot, : len(prompt)] = prompt
            self.filled[slot] = len(prompt) - 1
            self.trunks[slot] = trunk
            assignments.append(assignment)
        return assignments

    def _assign_one(self, prompt, trunk, free, min_shared, before, waves, keep):
        held = _held(prompt, trunk, *before)
        if (
            keep
        ):  # what is assigned is read as it will be, so that copies can be ordered
            held = np.where(waves >= 0, 0, held)
        stalest = int(np.lexsort((self.last_used, ~free))[0])
        may = free & (held == before[1]) if keep else free
        slot = int(np.lexsort((self.last_used, -np.where(may, held, -1)))[0])
        slot = slot if may[slot] else stalest
        if held[slot] < held[stalest] + min_shared:
            slot = stalest  # too little gain: keep the prefix for later requests
        source, shared, wave = slot, int(held[slot]), 0
        other = int(held.argmax())
        if held[other] >= shared + min_shared:
            source, shared = other, int(held[other])
        if (waves >= 0).any():
            placed = _held(prompt, trunk, self.tokens, self.filled, self.trunks)
            placed = np.where(waves >= 0, placed, 0)
            other = int(np.lexsort((waves, -placed))[0])
            if placed[other] >= shared + min_shared:
                source, shared, wave = other, int(placed[other]), int(waves[other]) + 1
        if source != slot:
            slot = stalest
        return SlotAssignment(slot, source if shared else -1, shared, wave)


def in_order(assignments: list[SlotAssignment]) -> list[SlotAssignment]:
    """The copies of a wave: each slot is read before it is overwritten."""
    left = [p for p in assignments if p.source not in (p.slot, -1)]
    ordered = []
    while left:
        sources = [p.source for p in left]
        ready = next(p for p in left if p.slot not in sources)
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _held(prompt, trunk, tokens, filled, trunks):
    held = common_prefix(prompt, tokens, filled)
    return np.where(trunks == trunk, held, 0)


def common_prefix(
    prompt: np.ndarray, tokens: np.ndarray, filled: np.ndarray
) -> np.ndarray:
    """Leading tokens that a prompt has in common with each slot's filled part.

    The last token of the prompt never counts: it has to be fed to draw the next one.

    Args:
      prompt: int32[n].
      tokens: int32[S, C + 1].
      filled: int32[S].

    Returns:
      int32[S].
    """
    length = len(prompt) - 1
    if length == 0:
        return np.zeros_like(filled)
    differs = tokens[:, :length] != prompt[None, :length]
    first = differs.argmax(axis=1)
    first = np.where(differs[np.arange(len(first)), first], first, length)
    return np.minimum(first, filled).astype(np.int32)
