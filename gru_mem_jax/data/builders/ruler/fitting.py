"""How many texts fit a length, and which of them a shorter document keeps.

RULER searches the number of haystack items by tokenising whole inputs. Here the tokens
of each text are counted once, and those of a document added up; `Room` holds what one
tokenised document shows to be lacking.
"""

import bisect
import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.data.builders.recipe import GLUES, Length, heading
from gru_mem_jax.data.builders.ruler.wording import Prompt

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
        if self._encoder is None or self._head is None:
            return 0
        # Numbers of as many digits cost the same, or nearly.
        digits = len(str(number))
        if digits not in self._heads:
            text = self._head(int("7" * digits))
            self._heads[digits] = len(self._encoder.encode(text))
        return self._heads[digits]


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question with the longest of its documents, of N texts.

    Attributes:
      id: of the question.
      prompt: around the document.
      answers: gold.
      pieces: int64 [N], indices in the pool, in the order of the document.
      order: int64 [N], all positions in `pieces`; a document of n texts has the first n
        of them.
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
    pieces: np.ndarray
    order: np.ndarray
    fixed: int
    evidence: Mapping[int, tuple[int | None, Sequence[Span]]]
    gap: int | None = None
    step: int = 1
    all_evidence: bool = False

    def taken(self, count: int) -> tuple[np.ndarray, dict[int, int]]:
        """The pieces of a document of `count` texts.

        Returns:
          int64, indices in the pool; and for positions of evidence in `pieces` those
          in them.
        """
        positions = np.sort(self.order[:count])
        chosen = self.pieces[positions]
        gaps: list[int] = []
        if self.gap is not None:
            needles = np.searchsorted(positions, np.sort(self.order[: self.fixed]))
            alone = {-1, *needles.tolist()}
            gaps = [i for i in needles.tolist() if i - 1 in alone]
            if len(chosen) - 1 in alone:
                gaps.append(len(chosen))
            chosen = np.insert(chosen, gaps, self.gap)
        at = np.searchsorted(positions, list(self.evidence)).tolist()
        moved = [place + bisect.bisect_right(gaps, place) for place in at]
        return chosen, dict(zip(self.evidence, moved))


def number_that_fit(
    each: np.ndarray, costs: Costs, room: int, *, fixed: int = 0, step: int = 1
) -> int:
    """How many texts fit.

    Args:
      each: int64 [N], tokens of the texts, without their heads.
      costs: for the heads.
      room: for the texts, in tokens.
      fixed, step: after the first `fixed` ones, texts are added by so many.
    """
    if costs.has_heads:
        each = each + [costs.head(number) for number in range(1, len(each) + 1)]
    count = int(np.searchsorted(np.cumsum(each), room, side="right"))
    return count - (count - fixed) % step


def count_that_fits(
    draft: Draft, piece_costs: np.ndarray, costs: Costs, room: int
) -> int:
    """How many texts of a draft a document has; less than `draft.fixed`: too few fit.

    Args:
      draft: of the question.
      piece_costs: int64, tokens of the pool's texts, by `costs`.
      costs: for the heads.
      room: for the texts, in tokens.
    """
    # A gap is a blank.
    blanks = 0 if draft.gap is None else draft.fixed + 1
    each = piece_costs[draft.pieces[draft.order]]
    return number_that_fit(
        each, costs, room - blanks, fixed=draft.fixed, step=draft.step
    )


def piece_starts(sizes: np.ndarray, glue: str) -> np.ndarray:
    """Where each text begins in the document, in characters.

    Args:
      sizes: int64 [N], characters of the texts.
      glue: how they are joined.
    """
    between = len(GLUES[glue](["", ""])) - 2 * len(GLUES[glue]([""]))
    heads = np.zeros_like(sizes)
    if glue in _HEADS:
        heads[:] = [len(GLUES[glue]([""]))] * len(sizes)
        # Heads are as long as the first but for the digits of their numbers.
        for power in range(1, len(str(len(sizes)))):
            heads[10**power - 1 :] += 1
    whole = heads + sizes + between
    starts: np.ndarray = np.cumsum(whole) - whole + heads
    return starts


@dataclasses.dataclass(frozen=True)
class Room:
    """Tokens that a length leaves for a document's texts.

    Attributes:
      encoder: the tokenizer; None if lengths are in documents.
      chunk_size: tokens of a chunk; 0 if no length is in chunks.
      answer: tokens that are kept free for the answer, where tokens are those of
        RULER's whole input.
    """

    encoder: Encoder | None
    chunk_size: int
    answer: int

    def of(self, length: Length, prompt: Prompt | None) -> int:
        """Tokens, or texts if the length is in documents; without a prompt at most."""
        if length.unit == "documents" or self.encoder is None:
            return length.count
        if length.unit == "chunks":
            return length.count * self.chunk_size
        left = length.count - self.answer
        if prompt is not None:
            for text in (prompt.instruction, prompt.query + prompt.answer_prefix):
                left -= len(self.encoder.encode(text))
        return left

    def lacking(self, length: Length, prompt: Prompt, document: str) -> int:
        """By how many tokens a document is longer than its length; negative if less.

        The document is tokenised block by block, as an agent does.
        """
        if length.unit == "documents" or self.encoder is None:
            return 0
        text, room = document, self.of(length, prompt)
        if length.unit == "tokens":
            text = prompt.instruction + document + prompt.query + prompt.answer_prefix
            room = length.count - self.answer
        chunks = iter_chunks(text, self.encoder, 4096)
        return sum(len(chunk.ids) for chunk in chunks) - room


def permutation(name: str, count: int) -> np.ndarray:
    """int64 [count], an order of numbers, equal for equal names."""
    seed = random.Random(name).getrandbits(32)
    # Of numpy's generators the one whose orders are the same in all versions.
    return np.random.RandomState(seed).permutation(count)


def spread_order(borders: Sequence[int], count: int) -> np.ndarray:
    """An order in which the first n haystack items are spread as all of them are.

    The needles divide the haystack in parts; of each part the first items come first,
    all parts in proportion. So a shorter document has its needles at the same depths.

    Args:
      borders: for each needle how many haystack items precede it, ascending.
      count: haystack items.

    Returns:
      int64 [count], indices of haystack items.
    """
    parts = itertools.pairwise([0, *borders, count])
    ranks = [np.arange(1, b - a + 1) / max(1, b - a) for a, b in parts]
    return np.argsort(np.concatenate(ranks), kind="stable")


def tokenizer_mark(encoder: Encoder | None) -> str | None:
    """A hash that differs for tokenizers that count other tokens."""
    if encoder is None:
        return None
    ids = encoder.encode("".join(map(chr, range(32, 0x250))) + " The grass is green.")
    return hashlib.sha256(repr((encoder.vocab_size, ids)).encode()).hexdigest()
