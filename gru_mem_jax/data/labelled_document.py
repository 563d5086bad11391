"""A labelled document in chunks, and what a turn of its reader is about."""

import random
from collections.abc import Collection, Sequence
from typing import NamedTuple

from gru_mem_jax.agent.chunking import Chunk, evidence_labels
from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sentences import one_line
from gru_mem_jax.data.turn_choice import likeness
from gru_mem_jax.data.turn_wording import Reading


class LabelledDocument(NamedTuple):
    """A document in chunks, with its evidence.

    Attributes:
      example: its source.
      question: token ids, as in prompts.
      chunks: that are read.
      evidence: of all chunks, also of those beyond max_chunks.
      last: index of the last chunk with evidence.
      order: of each chunk the step at which its evidence is first needed, see
        `Example.evidence_order`; 0 where that is not known.
      pieces: that each chunk adds, in characters of the document.
      lost: whether some evidence is in no piece that is read.
    """

    example: Example
    question: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    evidence: tuple[bool, ...]
    last: int
    order: tuple[int, ...]
    pieces: list[list[Span]]
    lost: bool

    @property
    def wanted(self) -> list[int]:
        """The chunks that add something, in order, also those beyond max_chunks."""
        return [chunk for chunk, pieces in enumerate(self.pieces) if pieces]

    @property
    def in_order(self) -> bool:
        """Whether one reading meets no evidence before it can know that it matters."""
        steps = [self.order[chunk] for chunk in self.wanted]
        return steps == sorted(steps)

    def adds(self, chunk: int, held: Collection[int]) -> bool:
        """Whether a reader takes what a chunk adds.

        It does if its memory lacks it, and has all that is needed in earlier steps.

        Args:
          chunk: index.
          held: chunks whose evidence the memory has.
        """
        if chunk in held or not self.pieces[chunk]:
            return False
        step = self.order[chunk]
        return all(i in held or self.order[i] >= step for i in self.wanted)

    def merged(self, chunks: Collection[int] | None = None) -> tuple[int, ...]:
        """Chunks in the order in which mode parallel merges them: pass by pass.

        Args:
          chunks: some of `wanted`; None: all of them that are read.
        """
        read = (i for i in self.wanted if i < len(self.chunks))
        given = read if chunks is None else chunks
        return tuple(sorted(given, key=lambda i: (self.order[i], i)))

    def some_held(self, rng: random.Random) -> tuple[int, ...]:
        """What a memory may hold: nothing in half of the draws, else some or all.

        Nothing is held without what is needed in earlier steps.

        Returns:
          Chunks, `merged`.
        """
        chunks = list(self.merged())
        if rng.random() < 0.5:
            return ()
        number = rng.randint(1, len(chunks))
        rng.shuffle(chunks)
        chunks.sort(key=lambda i: self.order[i])
        return self.merged(chunks[:number])

    def shown(self, piece: Span) -> str:
        """The text of a piece."""
        return one_line(self.example.document[slice(*piece)])

    def likeness(self) -> list[float]:
        """Of each chunk to question and evidence, see `turn_choice.likeness`."""
        spans = self.example.evidence
        wanted = [self.example.document[start:end] for start, end in spans]
        texts = [chunk.text for chunk in self.chunks]
        return likeness(texts, [self.example.question, *wanted])


def steps_of_chunks(example: Example, borders: Sequence[Span]) -> tuple[int, ...]:
    """Of each chunk the first step that it has evidence of; 0 where none is known.

    Args:
      example: with evidence, whose order may be known.
      borders: (start, end) of each chunk.
    """
    steps: dict[int, int] = {}
    for span, step in zip(example.evidence, example.evidence_order):
        held, _ = evidence_labels(borders, [span])
        for chunk in (i for i, here in enumerate(held) if here):
            steps[chunk] = min(step, steps.get(chunk, step))
    return tuple(steps.get(chunk, 0) for chunk in range(len(borders)))


class Memory(NamedTuple):
    """A memory after some turns.

    Attributes:
      text: of it.
      end: end in the document of the piece that was added last.
      whole: whether no piece was left out.
      held: chunks whose evidence it has, where they were not read one after the other;
        None: they were.
    """

    text: str = ""
    end: int = -1
    whole: bool = True
    held: frozenset[int] | None = None


def reading(
    document: LabelledDocument, chunk: Chunk, memory: Memory, pieces: Sequence[Span]
) -> Reading:
    """What the words of a turn are made of.

    Args:
      document: that is read.
      chunk: of the turn.
      memory: before it.
      pieces: of evidence that it adds.
    """
    sentences = [document.shown(piece) for piece in pieces]
    continues = bool(pieces) and pieces[0][0] == chunk.start == memory.end
    if continues:
        around = document.example.document[chunk.start - 1 : chunk.start + 1]
        if any(map(str.isspace, around)):
            sentences[0] = f" {sentences[0]}"
    return Reading(
        question=document.example.question,
        section=chunk.text,
        memory=memory.text,
        sentences=tuple(sentences),
        continues=continues,
        is_last=_is_last(document, chunk, memory, bool(pieces)),
    )


def _is_last(
    document: LabelledDocument, chunk: Chunk, memory: Memory, adds: bool
) -> bool:
    if memory.held is None:
        return chunk.index >= document.last
    held = memory.held | {chunk.index} if adds else memory.held
    return held.issuperset(document.wanted)
