"""Runs sets of questions through the loop in several modes and tabulates the rest."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labels import labels
from gru_mem_jax.evaluation.outcomes import Outcome, outcome, summarize

MODES = ("memagent", "without_exit_gate", "with_exit_gate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions of one task on contexts of one kind.

    Attributes:
      task, evidence, num_chunks: what a table row is about.
      examples: the questions.
    """

    task: str
    evidence: str
    num_chunks: int
    examples: tuple[Example, ...]


class Suite(Protocol):
    """Held-out questions, in sets."""

    def question_sets(self) -> Iterator[QuestionSet]:
        """The sets, in the order of a table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetResult:
    """One set of questions, run in one mode.

    Attributes:
      questions, mode: what was run.
      outcomes, trajectories: one each per question, in the questions' order.
      seconds: wall-clock of the whole set; its share where sets ran together.
      stage: of training that the policy is from, where several are compared.
    """

    questions: QuestionSet
    mode: str
    outcomes: tuple[Outcome, ...]
    trajectories: tuple[Trajectory, ...]
    seconds: float
    stage: str | None = None


def run_sets(
    generator: Generator,
    encoder: Encoder,
    config: AgentConfig,
    sets: Sequence[QuestionSet],
    on_turn: Callable[[], None] = lambda: None,
) -> list[SetResult]:
    """Answers all questions of some sets together, all of the generator's slots busy.

    A set's seconds are its share of the wall-clock: as its turns' part of the time that
    all turns had slots for.

    Args:
      generator: e.g. a warm `sampling.engine.Engine`; compile time counts otherwise.
      encoder: the policy's tokenizer.
      config: mode, chunk size, budgets and sampling of every loop.
      sets: the sets; their questions take turns in the queue.
      on_turn: called after each turn, for progress bars.
    """
    builder = PromptBuilder(encoder, config.prompt)
    by_set = [
        [
            Recurrence(
                builder,
                config,
                example.question,
                example.document,
                trajectory_id=index,
            )
            for index, example in enumerate(questions.examples)
        ]
        for questions in sets
    ]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_set))
    start = time.perf_counter()
    for _ in driver.run(generator, [r for r in in_turn if r is not None]):
        on_turn()
    seconds = time.perf_counter() - start
    held = [
        sum(turn.seconds for r in recurrences for turn in r.trajectory.turns)
        for recurrences in by_set
    ]
    results = []
    for questions, recurrences, own in zip(sets, by_set, held, strict=True):
        trajectories = tuple(recurrence.trajectory for recurrence in recurrences)
        outcomes = tuple(
            outcome(example, trajectory, *labels(example, encoder, config.chunk_size))
            for example, trajectory in zip(
                questions.examples, trajectories, strict=True
            )
        )
        share = own / sum(held) if sum(held) else 1 / len(sets)
        results.append(
            SetResult(
                questions=questions,
                mode=config.mode,
                outcomes=outcomes,
                trajectories=trajectories,
                seconds=share * seconds,
            )
        )
    return results


def table_rows(results: Sequence[SetResult], mix: Sequence[str]) -> list[dict]:
    """A row per set, and before each stage's, context's and mode's one over the mix.

    A set's seconds are its own or its share, so the mix took the sum of them.

    Args:
      results: in the order of the table.
      mix: the tasks that the row "all" is over.
    """
    grouped: dict[tuple, list[SetResult]] = {}
    for result in results:
        questions = result.questions
        key = (result.stage, questions.evidence, questions.num_chunks, result.mode)
        grouped.setdefault(key, []).append(result)
    rows = []
    for group in grouped.values():
        mixed = [result for result in group if result.questions.task in mix]
        if mixed:
            rows.append(_row("all", mixed))
        rows += [_row(result.questions.task, [result]) for result in group]
    return rows


def _row(task: str, results: Sequence[SetResult]) -> dict:
    outcomes = [item for result in results for item in result.outcomes]
    stage = results[0].stage
    return {
        **({} if stage is None else {"stage": stage}),
        "task": task,
        "mode": results[0].mode,
        "evidence": results[0].questions.evidence,
        "num_chunks": results[0].questions.num_chunks,
        "num_questions": len(outcomes),
        **summarize(outcomes),
        "seconds": sum(result.seconds for result in results),
    }
