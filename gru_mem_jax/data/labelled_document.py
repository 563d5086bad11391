"""A labelled document in chunks, and what a turn of its reader is about."""

from collections.abc import Sequence
from typing import NamedTuple

from gru_mem_jax.agent.chunking import Chunk
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
      pieces: that each chunk adds, in characters of the document.
      lost: whether some evidence is in no piece that is read.
    """

    example: Example
    question: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    evidence: tuple[bool, ...]
    last: int
    pieces: list[list[Span]]
    lost: bool

    def shown(self, piece: Span) -> str:
        """The text of a piece."""
        return one_line(self.example.document[slice(*piece)])

    def likeness(self) -> list[float]:
        """Of each chunk to question and evidence, see `turn_choice.likeness`."""
        spans = self.example.evidence
        wanted = [self.example.document[start:end] for start, end in spans]
        texts = [chunk.text for chunk in self.chunks]
        return likeness(texts, [self.example.question, *wanted])


class Memory(NamedTuple):
    """A memory after some turns.

    Attributes:
      text: of it.
      end: end in the document of the piece that was added last.
      whole: whether no piece was left out.
    """

    text: str
    end: int
    whole: bool


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
        is_last=chunk.index >= document.last,
    )
