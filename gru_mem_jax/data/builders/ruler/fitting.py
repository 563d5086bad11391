"""How many texts fit a length, and which of them a shorter document keeps.

RULER searches the number of haystack items by tokenising whole inputs. Here the tokens
of each text are counted once, and those of a document added up; `Room` holds what one
tokenised document shows to be lacking.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.data.builders.recipe import GLUES, Length
from gru_mem_jax.data.builders.ruler.wording import Prompt
from gru_mem_jax.errors import InputError

# A text with what belongs to it in a document, by the glue.
_FRAMES = {
    "lines": "{}\n",
    "words": " {}",
    "numbered": "{}\n\n",
    "listed": " {}",
}
# What is put before the text with a number.
_HEADS = {"numbered": "Document {}:\n", "listed": " {}."}


class Costs:
    """Tokens of texts as they stand in a document.

    Args:
      encoder: the tokenizer; None, each text counts as one.
      glue: a name of `GLUES`.
    """

    def __init__(self, encoder: Encoder | None, glue: str):
        self._encoder = encoder
        self._frame, self._head = _FRAMES[glue], _HEADS.get(glue)
        self._known: dict[str, int] = {}

    def of(self, text: str) -> int:
        """Tokens of a text, without its head."""
        if self._encoder is None:
            return 1
        if text not in self._known:
            ids = self._encoder.encode(self._frame.format(text))
            self._known[text] = len(ids)
        return self._known[text]

    @functools.cache  # noqa: B019 (few numbers, and the object lives as long)
    def _digits(self, digits: int) -> int:
        if self._encoder is None or self._head is None:
            return 0
        return len(self._encoder.encode(self._head.format("7" * digits)))

    def head(self, number: int) -> int:
        """Tokens of the head of the text with a number, from 1."""
        return self._digits(len(str(number)))


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question with the longest of its documents.

    Attributes:
      id: of the question.
      prompt: around the document.
      answers: gold.
      pieces: indices in the pool, in the order of the document.
      order: all positions in `pieces`; a document of n texts has the first n of them.
      fixed: how many of `order` are in every document.
      evidence: for positions that hold evidence (step, spans in the text); a step is
        None where it is not known.
      gap: index of an empty text, put before a needle that no haystack precedes, and
        after one that ends the document.
    """

    id: str
    prompt: Prompt
    answers: tuple[str, ...]
    pieces: Sequence[int]
    order: Sequence[int]
    fixed: int
    evidence: Mapping[int, tuple[int | None, Sequence[Span]]]
    gap: int | None = None

    def taken(self, count: int) -> tuple[list[int], dict[int, int]]:
        """The pieces of a document of `count` texts.

        Returns:
          Indices in the pool; and for positions of evidence in `pieces` those in them.
        """
        needles = set(self.order[: self.fixed]) if self.gap is not None else ()
        chosen: list[int] = []
        places: dict[int, int] = {}
        alone = True  # whether nothing of the haystack precedes
        for position in sorted(self.order[:count]):
            if position in needles:
                if alone:
                    chosen.append(self.gap)
                alone = True
            else:
                alone = False
            if position in self.evidence:
                places[position] = len(chosen)
            chosen.append(self.pieces[position])
        if needles and alone:
            chosen.append(self.gap)
        return chosen, places


def count_that_fits(
    draft: Draft, texts: Sequence[str], costs: Costs, room: int, step: int = 1
) -> int:
    """How many texts of a draft a document has.

    Args:
      draft: of the question.
      texts: the pool.
      costs: of texts.
      room: for them, in tokens.
      step: texts are added by so many.
    """
    total = sum(map(costs.head, range(1, draft.fixed + 1)))
    if draft.gap is not None:
        total += draft.fixed + 1
    total += sum(costs.of(texts[draft.pieces[i]]) for i in draft.order[: draft.fixed])
    count = draft.fixed
    for at in range(draft.fixed, len(draft.order), step):
        added = draft.order[at : at + step]
        for number, position in enumerate(added, at + 1):
            total += costs.of(texts[draft.pieces[position]]) + costs.head(number)
        if total > room:
            break
        count = at + len(added)
    return count


def piece_starts(texts: Sequence[str], glue: str) -> list[int]:
    """Where each text begins in the document, in characters."""
    head = _HEADS.get(glue, "").lstrip(" ")
    # "listed" puts a blank between number and word, too.
    blank = " " if glue == "listed" else ""
    between = len(GLUES[glue](["", ""])) - 2 * len(GLUES[glue]([""]))
    starts = []
    offset = 0
    for number, text in enumerate(texts, 1):
        offset += len(head.format(number) + blank) if head else 0
        starts.append(offset)
        offset += len(text) + between
    return starts


@dataclasses.dataclass(frozen=True)
class Room:
    """Tokens that a length leaves for a document's texts.

    Attributes:
      encoder: the tokenizer; None if lengths are in documents.
      chunk_size: tokens of a chunk.
      answer: tokens that are kept free for the answer, where tokens are those of
        RULER's whole input.
    """

    encoder: Encoder | None
    chunk_size: int | None
    answer: int

    def of(self, length: Length, prompt: Prompt | None) -> int:
        """Tokens, or texts if the length is in documents; without a prompt at most."""
        if length.unit == "documents":
            return length.count
        if length.unit == "chunks":
            return length.count * self.chunk_size
        if prompt is None:
            return length.count - self.answer
        around = (prompt.instruction, prompt.query + prompt.answer_prefix)
        return (
            length.count
            - self.answer
            - sum(len(self.encoder.encode(t)) for t in around)
        )

    def lacking(self, length: Length, prompt: Prompt, document: str) -> int:
        """By how many tokens a document is longer than its length; negative if less.

        The document is tokenised block by block, as an agent does.
        """
        if length.unit == "documents":
            return 0
        if length.unit == "chunks":
            return self._tokens(document) - self.of(length, prompt)
        whole = prompt.instruction + document + prompt.query + prompt.answer_prefix
        return self._tokens(whole) + self.answer - length.count

    def _tokens(self, text: str) -> int:
        return sum(len(chunk.ids) for chunk in iter_chunks(text, self.encoder, 4096))


def spread_order(borders: Sequence[int], count: int) -> list[int]:
    """An order in which the first n haystack items are spread as all of them are.

    The needles divide the haystack in parts; of each part the first items come first,
    all parts in proportion. So a shorter document has its needles at the same depths.

    Args:
      borders: for each needle how many haystack items precede it, ascending.
      count: haystack items.

    Returns:
      Indices of haystack items.
    """
    parts = itertools.pairwise([0, *borders, count])
    ranked = [((i + 1 - a) / (b - a), i) for a, b in parts for i in range(a, b)]
    return [index for _, index in sorted(ranked)]


def tokenizer_mark(encoder: Encoder | None) -> str | None:
    """A hash that differs for tokenizers that count other tokens."""
    if encoder is None:
        return None
    ids = encoder.encode("".join(map(chr, range(32, 0x250))) + " The grass is green.")
    return hashlib.sha256(repr((encoder.vocab_size, ids)).encode()).hexdigest()


def check_encoder(
    lengths: Iterable[Length], encoder: Any, chunk_size: int | None
) -> None:
    """Checks that there is what lengths are counted with.

    Raises:
      InputError: it is missing.
    """
    units = {length.unit for length in lengths}
    if units & {"tokens", "chunks"} and encoder is None:
        raise InputError("lengths in tokens or chunks need a tokenizer: set encoder")
    if "chunks" in units and chunk_size is None:
        raise InputError("lengths in chunks need chunk_size")
