"""A builder's product: a pool of texts, and questions whose documents are of them.

A document is not stored: a question lists texts of the pool, and how they are joined,
so that a set of documents of millions of tokens repeats no text on disk.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from gru_mem_jax.data.example import Example, Scoring
from gru_mem_jax.errors import InputError

Unit = Literal["documents", "tokens", "chunks"]
# In sets with several questions on a document, in the metadata of each question: the
# document's name, and the article that it is of, if it is of one.
DOCUMENT, ARTICLE = "document", "article"


@dataclasses.dataclass(frozen=True, order=True)
class Length:
    """How long documents are.

    Attributes:
      unit: of `count`.
      count: paragraphs, or tokens (at most), or chunks.
    """

    unit: Unit
    count: int

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"


def heading(number: int) -> str:
    """The line above a numbered text, as MemAgent writes it; from 1."""
    return f"Document {number}:\n"


def numbered(texts: Sequence[str]) -> str:
    """Each text below its `heading`, with empty lines between."""
    return "\n\n".join(heading(i) + text for i, text in enumerate(texts, 1))


def listed(texts: Sequence[str]) -> str:
    """Each text after its number, "1. red 2. blue", as RULER's lists of words."""
    return " ".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def check_counting(
    lengths: Sequence[Length], encoder: object, chunk_size: int | None
) -> None:
    """Checks that there is what lengths are counted with.

    Raises:
      InputError: it is missing.
    """
    units = {length.unit for length in lengths}
    if units & {"tokens", "chunks"} and encoder is None:
        raise InputError("lengths in tokens or chunks need an encoder, a tokenizer")
    if "chunks" in units and chunk_size is None:
        raise InputError("lengths in chunks need chunk_size, the tokens of a chunk")


# How the texts of a document are joined, by name.
GLUES: Mapping[str, Callable[[Sequence[str]], str]] = {
    "numbered": numbered,
    "paragraphs": "\n\n".join,
    "listed": listed,
    "lines": "\n".join,
    "words": " ".join,
    "nothing": "".join,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredQuestion:
    """A question as it is stored: its document is a list of texts of the pool.

    Attributes:
      pieces: indices in the pool, in the order of the document.
      glue: a name of `GLUES`.
      evidence: (start, end) in characters of the document.
      id, question, answers, evidence_order, task, scoring, metadata: see `Example`.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    pieces: Sequence[int]
    glue: str
    evidence: tuple[tuple[int, int], ...] = ()
    evidence_order: tuple[int, ...] = ()
    task: str = ""
    scoring: Scoring = "exact"
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def example(self, text_of: Callable[[int], str]) -> Example:
        """The question with its document.

        Args:
          text_of: the text of the pool at an index.
        """
        texts = [text_of(index) for index in self.pieces]
        return Example(
            id=self.id,
            question=self.question,
            answers=self.answers,
            document=GLUES[self.glue](texts),
            evidence=self.evidence,
            evidence_order=self.evidence_order,
            task=self.task,
            scoring=self.scoring,
            metadata=self.metadata,
        )


class Recipe(Protocol):
    """Settings from which a set is built: a frozen dataclass, equal sets if equal.

    Reading the sources, and checking them, happens in `pool`, `questions` and
    `settings`, not when the recipe is made; all three may be called repeatedly.
    """

    @property
    def name(self) -> str:
        """Of the data set: long_hotpotqa, ruler, ..."""

    @property
    def lengths(self) -> tuple[Length, ...]:
        """Of which each is a split with the same questions."""

    def settings(self) -> dict[str, Any]:
        """All that the set depends on, sha256 of the sources included; JSON values.

        Raises:
          InputError: a source is missing or malformed: names file, record and field,
            and where the data can be had.
        """

    def pool(self) -> Iterator[str]:
        """The texts that documents consist of, in order of their index."""

    def questions(self, length: Length) -> Iterator[StoredQuestion]:
        """The questions of a length, in the same order for each length.

        Each is computed from the recipe and its index alone, so that a build that was
        interrupted continues where it ended.
        """
