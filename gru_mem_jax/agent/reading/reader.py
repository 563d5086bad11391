"""What a way of reading sees: the text, the memory, the limits; and what it gives."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gru_mem_jax.agent.chunking import Chunk, Chunks
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.text import DeadlineReached
from gru_mem_jax.agent.trajectory import Turn, TurnStep

# Pass, step and chunk: no two turns of a run have them in common.
Place = tuple[int, TurnStep, int | None]


class Look(NamedTuple):
    """A memory turn to take.

    Attributes:
      chunk: that it reads.
      memory: that it sees.
      step: what it is for.
      pass_number: of the passes over the text, from 1.
    """

    chunk: Chunk
    memory: str
    step: TurnStep = "read"
    pass_number: int = 1

    @property
    def place(self) -> Place:
        """What no other turn of a run has."""
        return self.pass_number, self.step, self.chunk.index


class Seen(NamedTuple):
    """What a memory turn said.

    Attributes:
      look: the turn.
      update, exit: its gates.
      memory: that it would leave: its candidate if the update gate is open, cut to the
        budget; else that which it saw.
      update_probability: P(yes) of a constrained turn, else None.
    """

    look: Look
    update: bool
    exit: bool
    memory: str
    update_probability: float | None = None

    @property
    def changes(self) -> bool:
        """Whether it leaves another memory than it saw."""
        return self.update and self.memory != self.look.memory


class Looks(NamedTuple):
    """Turns that may be taken side by side, in order.

    Attributes:
      each: the turns; it is advanced no sooner than the turn can be asked for.
      most: how many they are at most; after so many `each` is left alone.
      reads: whether `each` takes chunks from the text, which may have to be waited for.
    """

    each: Iterator[Look]
    most: float = math.inf
    reads: bool = False


class Reader:
    """The text, the memory and the limits of one run.

    Args:
      config: of the agent.
      chunks: of the text.
      replayed: the turns that a resumed run has still to go through again: no limit
        keeps it from one of these.
      clock: a monotonic clock, in seconds.

    Attributes:
      config: of the agent.
      memory: as it stands; a way sets it.
      stop_reason: why reading has stopped; None while it goes on.
      ended: why the text has no more chunks; None: it may have.
      accepted: the scans whose candidates became the memory.
    """

    def __init__(
        self,
        config: AgentConfig,
        chunks: Chunks,
        replayed: Mapping[Place, Turn] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.config = config
        self.memory = ""
        self.stop_reason: str | None = None
        self.ended: str | None = None
        self.accepted: list[Place] = []
        self._chunks = chunks
        self._replayed = replayed
        self._taken = 0
        self._clock = clock
        self._started = clock()

    @property
    def stopped(self) -> bool:
        """Whether no more turns are taken. Looks at the clock."""
        if self._replayed:
            return False
        if self.stop_reason is None and self.seconds_left() <= 0:
            self.stop("deadline")
        return self.stop_reason is not None

    def stop(self, reason: str) -> None:
        """Takes no more turns; the first reason is kept."""
        self.stop_reason = self.stop_reason or reason

    def accept(self, scan: Seen) -> None:
        """Makes the candidate of a scan the memory."""
        self.memory = scan.memory
        self.accepted.append(scan.look.place)

    def seconds_left(self) -> float:
        """Until the deadline."""
        limit = self.config.deadline_seconds
        return math.inf if limit is None else limit + self._started - self._clock()

    def take(self) -> Iterator[Chunk]:
        """The chunks of the text that were not taken before, within `max_chunks`."""
        limit = self.config.max_chunks
        again = max((turn.chunk or 0 for turn in self._replayed.values()), default=-1)
        while self.ended is None:
            if limit is not None and self._taken >= max(limit, again + 1):
                self.ended = "max_chunks"
                return
            try:
                chunk = next(self._chunks, None)
            except DeadlineReached:
                self.stop("deadline")
                return
            if chunk is None:
                self.ended = "end_of_context" if self._taken else "empty_context"
                return
            self._taken += 1
            yield chunk

    def ready(self) -> bool:
        """Whether `take` would not wait: the next chunk is known, or the text's end."""
        return self.ended is not None or self._chunks.ready()

    def ahead(self, number: int) -> tuple[Chunk, ...]:
        """The next chunks of the text, at most `number`, as far as known already."""
        if (limit := self.config.max_chunks) is not None:
            number = min(number, limit - self._taken)
        return self._chunks.ahead(number)

    def close(self) -> None:
        """Frees the text."""
        self._chunks = Chunks(iter(()), waits=False)


# Yields turns, and gets what they said, in their order. Fewer than were yielded come
# back, perhaps none, where the reader has stopped or the text has ended.
Reading = Generator[Looks, list[Seen], None]
Way = Callable[[Reader], Reading]


def looks(
    reader: Reader, chunks: Iterable[Chunk], step: TurnStep, pass_number: int
) -> Iterator[Look]:
    """Turns that read chunks against the memory as it stands when the first is taken.

    Args:
      reader: whose memory.
      chunks: lazy where they are taken from the text.
      step, pass_number: of the turns.
    """
    memory = reader.memory
    for chunk in chunks:
        yield Look(chunk, memory, step, pass_number)
