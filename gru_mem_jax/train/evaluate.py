"""Periodic evaluation: held-out questions, answered greedily, as columns of a row."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.evaluation.outcomes import Outcome, summarize
from gru_mem_jax.evaluation.suite import QuestionSet, run_sets


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
