"""A question while it is asked: its text, its recurrence, and why that failed."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from gru_mem_jax.agent.chunking import Chunk, Chunks, chunk_batches
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.requests import Completion, Generator, Request
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation.baselines import Baseline
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.records import QuestionKey, labels_text


@dataclasses.dataclass(frozen=True)
class Place:
    """A question of a set: its index there."""

    drawn: DrawnSet
    index: int

    @property
    def key(self) -> QuestionKey:
        """As of its `AskedQuestion`."""
        return self.drawn.of.name, labels_text(self.drawn.of.labels), self.index


class PassingText(Document):
    """A document whose chunks are not held, but where they end."""

    def __init__(self, text: str):
        super().__init__(text)
        self._rest: Iterator[tuple[Chunk, ...]] = iter(())
        self._borders: list[Span] | None = None

    def chunks(self, encoder: Encoder, chunk_size: int) -> Chunks:
        """As of a `Document`, but each call makes them anew."""
        self._borders = []
        self._rest = self._watched(chunk_batches(self.text, encoder, chunk_size))
        return Chunks(self._rest, waits=False)

    def _watched(
        self, batches: Iterator[tuple[Chunk, ...]]
    ) -> Iterator[tuple[Chunk, ...]]:
        borders = self._borders = []
        for batch in batches:
            borders += [(chunk.start, chunk.end) for chunk in batch]
            yield batch

    def borders(self, encoder: Encoder, chunk_size: int) -> list[Span]:
        """Of all chunks, those that were not read too."""
        if self._borders is None:
            self.chunks(encoder, chunk_size)
        collections.deque(self._rest, maxlen=0)
        return self._borders or []


class Attempt:
    """A question while it is asked; what the driver sees of its recurrence."""

    def __init__(self, place: Place, example: Example, document: Document):
        self.place, self.example, self.document = place, example, document
        self.recurrence: Recurrence | Baseline | None = None
        self.error: str | None = None
        self.began = 0.0  # by the clock of shares

    @property
    def done(self) -> bool:
        return self.error is not None or self.recurrence is None or self.recurrence.done

    @property
    def failure(self) -> str | None:
        if self.error is not None or self.recurrence is None:
            return self.error or "it could not be begun"
        return self.recurrence.trajectory.failure

    @property
    def trajectory(self) -> Trajectory | None:
        return None if self.recurrence is None else self.recurrence.trajectory

    def next_request(self) -> Request | None:
        if self.recurrence is None:
            return None
        try:
            return self.recurrence.next_request()
        except (InputError, RunError) as error:  # e.g. its text cannot be encoded
            self.error = str(error)
            return None

    def receive(self, completion: Completion, number: int | None = None) -> Turn | None:
        if self.recurrence is None:
            return None
        return self.recurrence.receive(completion, number)


def documents(queue: Sequence[Place]) -> Iterator[tuple[Example, Document]]:
    """The examples, with one document for those that follow each other on one.

    Only where documents are in memory anyway are they compared; then they are chunked
    once, and else their chunks are not held.
    """
    counts = collections.Counter(
        place.drawn.examples[place.index].document
        for place in queue
        if place.drawn.holds_documents
    )
    shared: Document | None = None
    for place in queue:
        example = place.drawn.examples[place.index]
        if counts[example.document] < 2:
            yield example, PassingText(example.document)
            continue
        if shared is None or shared.text != example.document:
            shared = Document(example.document)
        yield example, shared


class Refusing:
    """A generator that gives up the requests that the other refuses, and goes on."""

    def __init__(self, generator: Generator):
        self._generator = generator
        self._refused: list[tuple[int, Completion]] = []

    @property
    def capacity(self) -> int:
        return self._generator.capacity

    @property
    def decode_steps(self) -> int | None:
        """Decode steps so far; None of a generator that does not count them."""
        stats: dict[str, Any] = getattr(self._generator, "stats", dict)()
        return stats.get("decode_steps")

    def submit(self, request: Request) -> int:
        try:
            return self._generator.submit(request)
        except InputError as error:
            handle = -1 - len(self._refused)
            self._refused.append((handle, Completion.failed(str(error))))
            return handle

    def step(self) -> Sequence[tuple[int, Completion]]:
        if self._refused:
            refused, self._refused = self._refused, []
            return refused
        return self._generator.step()

    def cancel(self) -> None:
        self._refused = []
        self._generator.cancel()
