"""Periodic evaluation of a run: held-out questions, answered greedily."""

from collections.abc import Sequence
from typing import Any

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.run import evaluation_columns
from gru_mem_jax.train.engine import HeldEngine
from gru_mem_jax.train.loop import Monitor


class Evaluator:
    """Evaluates weights on held-out questions, whenever it is asked.

    Args:
      engine: the run's.
      encoder: the policy's tokenizer.
      agent: of the rollouts; evaluated at temperature 0.
      sets: the questions.
      modes: agent modes; empty: the agent's own.
      monitor: of the run.
    """

    def __init__(
        self,
        engine: HeldEngine,
        encoder: Encoder,
        agent: AgentConfig,
        sets: Sequence[DrawnSet],
        modes: Sequence[str],
        monitor: Monitor,
    ):
        self._engine, self._encoder, self._agent = engine, encoder, agent
        self._sets, self._modes, self._monitor = sets, modes, monitor

    def __call__(self, params: Any, step: int) -> dict[str, float | None]:
        """Columns of an evaluation.

        Args:
          params: of `HeldEngine.place`.
          step: of training, for the watchdog.
        """

        done = 0
        of = max(1, len(self._modes)) * sum(len(each.examples) for each in self._sets)

        def on_turn() -> None:
            self._monitor.beat(f"evaluating step {step}")
            self._monitor.look()

        def on_end() -> None:
            nonlocal done
            done += 1

        # Of several processes each has a part, and the first one shows its own.
        of = -(-of // self._monitor.hosts.count)
        self._monitor.activity.doing(
            "evaluating", lambda: f"{done} of {of} questions answered"
        )
        columns = evaluation_columns(
            self._engine(params),
            self._encoder,
            self._agent,
            self._sets,
            self._modes,
            on_turn,
            self._monitor.hosts,
            on_end,
        )
        self._engine.release()
        return columns
