"""The documents of a set, each as long as its length allows."""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gru_mem_jax.data.builders.recipe import DOCUMENT, Length, StoredQuestion
from gru_mem_jax.data.builders.ruler.fitting import (
    Costs,
    Draft,
    Room,
    count_that_fits,
    piece_starts,
)
from gru_mem_jax.data.builders.ruler.wording import Prompt
from gru_mem_jax.data.example import Scoring
from gru_mem_jax.errors import InputError

# Texts of a span where the whole document is evidence, so that each chunk has one.
_RUN = 32


class Maker(Protocol):
    """Makes the questions of a task.

    Attributes:
      texts: the pool.
      glue: how they are joined, a name of `recipe.GLUES`.
    """

    texts: tuple[str, ...]
    glue: str

    def prompt(self, index: int) -> Prompt:
        """Of a question."""

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens."""


class Documents:
    """Gives a maker's questions documents of several lengths.

    Args:
      maker: of the questions.
      costs: of its texts.
      room: that lengths leave.
      lengths: all of the set; the longest document has a part for each of the others.
      per_document: questions on each document, which follow one another.
    """

    def __init__(
        self,
        maker: Maker,
        costs: Costs,
        room: Room,
        lengths: Sequence[Length],
        per_document: int = 1,
    ):
        self._maker, self._costs, self._room = maker, costs, room
        self._lengths, self._per_document = tuple(lengths), per_document
        self._piece_costs = np.array([costs.of(text) for text in maker.texts], np.int64)
        self._sizes = np.array([len(text) for text in maker.texts], np.int64)

    def question(
        self, index: int, length: Length, *, task: str, scoring: Scoring
    ) -> StoredQuestion:
        """A question with its document of a length.

        Raises:
          InputError: the length is not of the set, or too short for the task.
        """
        if length not in self._lengths:
            raise InputError(f"{length} is not a length of this set")
        return self._stored(index, length, self._kept_free, task, scoring)

    @functools.cached_property
    def _kept_free(self) -> dict[Length, int]:
        """Tokens by which the sum of the texts' tokens is too small, by length.

        Of each length the first question's document is tokenised.
        """
        free: dict[Length, int] = {}
        prompt = self._maker.prompt(0)
        longest_first = sorted(
            set(self._lengths), key=lambda length: -self._room.of(length, prompt)
        )
        for length in longest_first:
            free[length] = 0
            while True:
                item = self._stored(0, length, free, "", "part")
                document = item.example(self._maker.texts.__getitem__).document
                over = self._room.lacking(length, prompt, document)
                if over <= 0:
                    break
                free[length] += over
        return free

    def _stored(
        self,
        index: int,
        length: Length,
        free: dict[Length, int],
        task: str,
        scoring: Scoring,
    ) -> StoredQuestion:
        maker = self._maker
        # Where the length is that of the whole input, the longest prompt counts.
        first = index - index % self._per_document
        prompts = [maker.prompt(first + i) for i in range(self._per_document)]
        rooms = {
            each: min(self._room.of(each, own) for own in prompts) - free.get(each, 0)
            for each in self._lengths
        }
        draft = maker.draft(index, max(rooms.values()))
        count = count_that_fits(draft, self._piece_costs, self._costs, rooms[length])
        if count < draft.fixed + (length.unit != "documents"):
            raise InputError(
                f"{length} are too few for question {draft.id}, since every document "
                f"has its {draft.fixed} texts; take a longer one"
            )
        pieces, found = draft.taken(count)
        sizes = self._sizes[pieces]
        starts = piece_starts(sizes, maker.glue)
        spans: list[tuple[int, int, int | None]] = []
        if draft.all_evidence:
            last = np.append(np.arange(_RUN, len(pieces), _RUN), len(pieces)) - 1
            ends = (starts + sizes)[last].tolist()
            spans = [(a, b, None) for a, b in zip(starts[::_RUN].tolist(), ends)]
        for position, place in found.items():
            step, inside = draft.evidence[position]
            start = int(starts[place])
            spans += [(start + a, start + b, step) for a, b in inside]
        spans.sort(key=lambda span: span[:2])
        steps = tuple(step for _, _, step in spans if step is not None)
        metadata = draft.prompt.metadata()
        if self._per_document > 1:
            metadata[DOCUMENT] = str(first // self._per_document)
        return StoredQuestion(
            id=draft.id,
            question=draft.prompt.question,
            answers=draft.answers,
            pieces=pieces.tolist(),
            glue=maker.glue,
            evidence=tuple((start, end) for start, end, _ in spans),
            evidence_order=steps if len(steps) == len(spans) else (),
            task=task,
            scoring=scoring,
            metadata=metadata,
        )
