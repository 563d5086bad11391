"""A set without the questions that a policy answers without the document.

MemAgent (Yu et al., arXiv 2507.02259) trains on what is left: a question whose answer
the policy knows rewards any memory.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.data.builders.recipe import Length, StoredQuestion
from gru_mem_jax.data.dataset import Dataset, first_length, open_dataset
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One answer without a document.

    Attributes:
      index: of the question.
      sample: number of the attempt.
      id: of the question.
      answer: None: there was none.
      score: of it, in 0..1.
    """

    index: int
    sample: int
    id: str
    answer: str | None
    score: float


def attempts(
    generator: Generator,
    builder: PromptBuilder,
    config: AgentConfig,
    dataset: Dataset,
    wanted: Sequence[tuple[int, int]],
) -> Iterator[Attempt]:
    """Asks questions with an empty memory, and yields answers as they come.

    An attempt depends on its numbers alone, not on what else is asked.

    Args:
      generator: answers.
      builder, config: of the prompts and budgets, and of sampling.
      dataset: of the questions.
      wanted: (index of a question, number of the attempt).

    Raises:
      InputError: a question does not fit its budget.
    """
    most = 1 + max((sample for _, sample in wanted), default=0)
    numbers: dict[int, tuple[int, int]] = {}

    def recurrences() -> Iterator[Recurrence]:
        for index, sample in wanted:
            question = dataset.question(index)
            try:
                recurrence = Recurrence(
                    builder,
                    config,
                    question.question,
                    "",  # no text: the answer turn comes at once
                    trajectory_id=most * index + sample,
                )
            except InputError as error:
                where = f"{dataset.path}, question {index} ({question.id!r:.60})"
                raise InputError(f"{where}: {error}") from None
            numbers[id(recurrence)] = index, sample
            yield recurrence

    for recurrence, _ in driver.run(generator, recurrences()):
        index, sample = numbers.pop(id(recurrence))
        question, answer = dataset.question(index), recurrence.trajectory.answer
        yield Attempt(
            index=index,
            sample=sample,
            id=question.id,
            answer=answer,
            score=score(answer, question.answers, question.scoring),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilteredSet:
    """Some questions of a set, with all of its texts: a `Recipe`.

    Attributes:
      path: of the set's folder.
      kept: indices of the questions, in order.
      why: JSON values on how they were chosen.
    """

    path: str
    kept: tuple[int, ...]
    why: dict[str, Any]

    @property
    def name(self) -> str:
        """As of the set."""
        return self._dataset().manifest.name

    @property
    def lengths(self) -> tuple[Length, ...]:
        """All of the set."""
        return self._dataset().manifest.lengths

    def settings(self) -> dict[str, Any]:
        """The set's own, and why these were kept."""
        digest = hashlib.sha256(repr(self.kept).encode()).hexdigest()
        return {
            "of": self._dataset().manifest.recipe,
            "of_sha256": self._dataset().fingerprint,
            "filter": self.why,
            "kept_sha256": digest,
        }

    def pool(self) -> Iterator[str]:
        """The set's texts."""
        return self._dataset().pool()

    def questions(self, length: Length) -> Iterator[StoredQuestion]:
        """Those that are kept."""
        return map(self._dataset(length).question, self.kept)

    def _dataset(self, length: Length | None = None) -> Dataset:
        return open_dataset(self.path, length or first_length(self.path))
