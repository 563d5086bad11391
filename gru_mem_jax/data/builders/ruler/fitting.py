"""How many texts fit a length, and which of them a shorter document keeps.

RULER searches the number of haystack items by tokenising whole inputs. Here the tokens
of each text are counted once, and those of a document added up; `Room` holds what one
tokenised document shows to be lacking.
"""

import bisect
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.data.builders.recipe import GLUES, Length, heading
from gru_mem_jax.data.builders.ruler.wording import Prompt
from gru_mem_jax.errors import InputError

# A text with what belongs to it in a document, by the glue.
_FRAMES = {
    "lines": "{}\n",
    "words": " {}",
    "numbered": "{}\n\n",
    "listed": " {}",
}
# What is put before the text with a number, for the numbered ones.
_HEADS: Mapping[str, Callable[[int], str]] = {
    "numbered": heading,
    "listed": " {}.".format,
}


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
        self._heads: dict[int, int] = {}

    def of(self, text: str) -> int:
        """Tokens of a text, without its head."""
        if self._encoder is None:
            return 1
        if text not in self._known:
            ids = self._encoder.encode(self._frame.format(text))
            self._known[text] = len(ids)
        return self._known[text]

    @property
    def has_heads(self) -> bool:
        """Whether a head costs anything."""
        return self._encoder is not None and self._head is not None

    def head(self, number: int) -> int:
        """Tokens of the head of the text with a number, from 1."""
        if not self.has_heads:
            return 0
        # Numbers of as many digits cost the same, or nearly.
        digits = len(str(number))
        if digits not in self._heads:
            head = self._head(int("7" * digits))
            self._heads[digits] = len(self._encoder.encode(head))
        return self._heads[digits]


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
      step: further ones are added by so many.
      evidence: for positions that hold evidence (step, spans in the text); a step is
        None where it is not known.
      gap: index of an empty text, put before a needle that no haystack precedes, and
        after one that ends the document.
      all_evidence: whether the whole document is, rather than `evidence`.
    """

    id: str
    prompt: Prompt
    answers: tuple[str, ...]
    pieces: Sequence[int]
    order: Sequence[int]
    fixed: int
    evidence: Mapping[int, tuple[int | None, Sequence[Span]]]
    gap: int | None = None
    step: int = 1
    all_evidence: bool = False

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


def number_that_fit(
    each: Iterable[int], costs: Costs, room: int, *, fixed: int = 0, step: int = 1
) -> int:
    """How many texts fit.

    Args:
      each: tokens of the texts, without their heads.
      costs: for the heads.
      room: for the texts, in tokens.
      fixed, step: after the first `fixed` ones, texts are added by so many.
    """
    if costs.has_heads:
        each = (cost + costs.head(i) for i, cost in enumerate(each, 1))
    count = bisect.bisect_right(list(itertools.accumulate(each)), room)
    return count - (count - fixed) % step


def count_that_fits(
    draft: Draft, piece_costs: Sequence[int], costs: Costs, room: int
) -> int:
    """How many texts of a draft a document has; less than `draft.fixed`: too few fit.

    Args:
      draft: of the question.
      piece_costs: of the pool's texts, by `costs`.
      costs: for the heads.
      room: for the texts, in tokens.
    """
    # A gap is a blank.
    blanks = 0 if draft.gap is None else draft.fixed + 1
    each = (piece_costs[draft.pieces[i]] for i in draft.order)
    return number_that_fit(
        each, costs, room - blanks, fixed=draft.fixed, step=draft.step
    )


def piece_starts(texts: Sequence[str], glue: str) -> list[int]:
    """Where each text begins in the document, in characters."""
    # A list's first number has no blank before it, and each has one behind it.
    head = _HEADS.get(glue)
    between = len(GLUES[glue](["", ""])) - 2 * len(GLUES[glue]([""]))
    starts = []
    offset = 0
    for number, text in enumerate(texts, 1):
        offset += len(head(number)) if head else 0
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
    import numpy as np

    parts = itertools.pairwise([0, *borders, count])
    ranks = [np.arange(1, b - a + 1) / max(1, b - a) for a, b in parts]
    order: list[int] = np.argsort(np.concatenate(ranks), kind="stable").tolist()
    return order


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
