"""Periodic evaluation: held-out questions, answered greedily, as columns of a row."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.evaluation.outcomes import Outcome, summarize
from gru_mem_jax.evaluation.suite import QuestionSet, Suite, run_sets
from gru_mem_jax.train.engine import HeldEngine
from gru_mem_jax.train.loop import Monitor


class Evaluator:
    """Evaluates weights on held-out questions, whenever it is asked.

    Args:
      engine: the run's.
      encoder: the policy's tokenizer.
      agent: of the rollouts; evaluated at temperature 0.
      suite: the questions, made when they are first needed.
      modes: agent modes; empty: the agent's own.
      monitor: of the run.
    """

    def __init__(
        self,
        engine: HeldEngine,
        encoder: Encoder,
        agent: AgentConfig,
        suite: Suite,
        modes: Sequence[str],
        monitor: Monitor,
    ):
        self._engine, self._encoder, self._agent = engine, encoder, agent
        self._suite, self._modes, self._monitor = suite, modes, monitor
        self._sets: tuple[QuestionSet, ...] | None = None

    def __call__(self, params: Any, step: int) -> dict[str, float | None]:
        """Columns of an evaluation.

        Args:
          params: full params, where the engine runs.
          step: of training, to be told.
        """
        if self._sets is None:
            self._sets = tuple(self._suite.question_sets())

        def on_turn() -> None:
            self._monitor.beat(f"evaluating step {step}")
            self._monitor.look()

        return evaluation_columns(
            self._engine(params),
            self._encoder,
            self._agent,
            self._sets,
            self._modes,
            on_turn,
        )


def evaluation_columns(
    generator: Generator,
    encoder: Encoder,
    agent: AgentConfig,
    sets: Sequence[QuestionSet],
    modes: Sequence[str],
    on_turn: Callable[[], None],
) -> dict[str, float | None]:
    """Runs all sets in all modes, the sets together.

    Args:
      generator: with the weights to evaluate.
      encoder: the policy's tokenizer.
      agent: of the rollouts; evaluated at temperature 0.
      sets: questions.
      modes: agent modes; empty: the agent's own.
      on_turn: called after each turn; what it raises ends the evaluation.

    Returns:
      "eval/NAME" of `evaluation.outcomes.summarize` over all sets, "eval/exact/TASK";
      with more than one mode "eval/MODE/NAME".
    """
    sampling = dataclasses.replace(agent.sampling, temperature=0.0)
    columns: dict[str, float | None] = {}
    modes = tuple(modes) or (agent.mode,)
    for mode in modes:
        config = dataclasses.replace(agent, mode=mode, sampling=sampling)
        by_task: dict[str, list[Outcome]] = defaultdict(list)
        for result in run_sets(generator, encoder, config, sets, on_turn):
            by_task[result.questions.task] += result.outcomes
        prefix = "eval" if len(modes) == 1 else f"eval/{mode}"
        every = [item for items in by_task.values() for item in items]
        for name, value in summarize(every).items():
            columns[f"{prefix}/{name}"] = value
        for task, items in by_task.items():
            columns[f"{prefix}/exact/{task}"] = summarize(items)["exact"]
    return columns
