"""Where results go: into a folder, or first to the process that writes it."""

from collections.abc import Callable
from typing import Any, Protocol

from gru_mem_jax.agent.trajectory import (
    Trajectory,
    trajectory_from_dict,
    trajectory_to_dict,
)
from gru_mem_jax.evaluation.records import AskedQuestion, ScoredAnswer, ScoredKey
from gru_mem_jax.records import from_record, to_record


class Results(Protocol):
    """Where questions and answers go: a `folder.ResultsWriter`."""

    @property
    def scored(self) -> dict[ScoredKey, ScoredAnswer]:
        """What need not be asked."""

    def write_question(self, question: AskedQuestion) -> None:
        """Takes a question, the first time."""

    def write_answer(
        self, answer: ScoredAnswer, trajectory: Trajectory | None = None
    ) -> None:
        """Takes an answer that was scored, and the trajectory if it is kept."""


class Buffer:
    """Results on their way to the first process, as JSON values."""

    def __init__(self) -> None:
        self.scored: dict[ScoredKey, ScoredAnswer] = {}
        self.lines: list[Any] = []

    def write_question(self, question: AskedQuestion) -> None:
        """As of `Results`."""
        self.lines.append(["question", to_record(question)])

    def write_answer(
        self, answer: ScoredAnswer, trajectory: Trajectory | None = None
    ) -> None:
        """As of `Results`."""
        kept = None if trajectory is None else trajectory_to_dict(trajectory)
        self.lines.append(["answer", to_record(answer), kept])


def pass_on(
    line: Any, results: Results | None, on_answer: Callable[[ScoredAnswer], None]
) -> None:
    """Takes a line of a `Buffer`.

    Args:
      line: of any process.
      results: of the first process; None: of the others, which keep nothing.
      on_answer: called with each answer that is kept.
    """
    if results is None:
        return
    if line[0] == "question":
        results.write_question(from_record(AskedQuestion, line[1], "question"))
        return
    answer = from_record(ScoredAnswer, line[1], "answer")
    kept = None if line[2] is None else trajectory_from_dict(line[2])
    results.write_answer(answer, kept)
    on_answer(answer)
