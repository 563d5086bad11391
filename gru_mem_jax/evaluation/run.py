"""Answers sets of questions together, as training does to watch its policy."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.document import share_documents
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.trajectory import (
    Trajectory,
    trajectory_from_dict,
    trajectory_to_dict,
)
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.queue import places
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.rl.outcomes import Outcomes, concatenate, outcomes
from gru_mem_jax.rl.summary import Summary, summarize


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetResult:
    """One set of questions, run in one mode.

    Attributes:
      questions, mode: what was run.
      trajectories: one for each question.
      outcomes: of P questions with one rollout each: arrays of [P, 1, ...].
      seconds: wall-clock of the whole set; its share where sets ran together.
    """

    questions: DrawnSet
    mode: str
    trajectories: tuple[Trajectory, ...]
    outcomes: Outcomes
    seconds: float


def greedy(config: AgentConfig) -> AgentConfig:
    """The same agent, taking the likeliest token."""
    sampling = dataclasses.replace(config.sampling, temperature=0.0)
    return dataclasses.replace(config, sampling=sampling)


def run_sets(
    generator: Generator,
    encoder: Encoder,
    config: AgentConfig,
    sets: Sequence[DrawnSet],
    on_turn: Callable[[], None] = lambda: None,
    hosts: Hosts | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> list[SetResult]:
    """Answers all questions of some sets together, all of the generator's slots busy.

    A set's seconds are its share of the wall-clock: as its turns' part of the time that
    all turns had slots for.

    Args:
      generator: e.g. a warm `sampling.engine.Engine`; compile time counts otherwise.
      encoder: the policy's tokenizer.
      config: mode, chunk size, budgets and sampling of every trajectory.
      sets: the sets; their questions take turns in the queue, those on one document
        next to one another.
      on_turn: called after each turn; what it raises ends the evaluation.
      hosts: processes that each answer a part of the questions, with equal arguments,
        and have the results of all; None: this one alone.
      on_end: called after each question of this process.
    """
    hosts = hosts or Hosts()
    builder = PromptBuilder(encoder, config.prompt)
    pairs = ((e.question, e.document) for each in sets for e in each.examples)
    shared = share_documents(pairs, at_once=True)
    by_set = [
        [
            Recurrence(builder, config, *next(shared), trajectory_id=index)
            for index, _ in enumerate(questions.examples)
        ]
        for questions in sets
    ]
    start = time.perf_counter()
    queue = [by_set[number][index] for number, index in places(sets)]
    own = [queue[i] for i in hosts.part(len(queue))]

    def answer() -> None:
        for each, _ in driver.run(generator, own):
            if each.done:
                on_end()
            on_turn()

    hosts.together("answers", answer)
    done = _of_all(hosts, [recurrence.trajectory for recurrence in own])
    seconds = time.perf_counter() - start
    place = {id(recurrence): i for i, recurrence in enumerate(queue)}
    trajectories_by_set = [
        tuple(done[place[id(recurrence)]] for recurrence in recurrences)
        for recurrences in by_set
    ]
    held = [
        sum(turn.seconds for trajectory in own for turn in trajectory.turns)
        for own in trajectories_by_set
    ]
    results = []
    for questions, trajectories, busy in zip(
        sets, trajectories_by_set, held, strict=True
    ):
        groups = [[trajectory] for trajectory in trajectories]
        share = busy / sum(held) if sum(held) else 1 / len(sets)
        results.append(
            SetResult(
                questions=questions,
                mode=config.mode,
                trajectories=trajectories,
                outcomes=outcomes(groups, questions.examples, questions.labels),
                seconds=share * seconds,
            )
        )
    return results


def _of_all(hosts: Hosts, trajectories: list[Trajectory]) -> list[Trajectory]:
    """The trajectories of all processes, in order."""
    if hosts.count == 1:
        return trajectories
    records = [trajectory_to_dict(trajectory) for trajectory in trajectories]
    given = hosts.gather("trajectories", records)
    return [trajectory_from_dict(record) for each in given for record in each]


def _summary(results: Sequence[SetResult]) -> Summary:
    return summarize(concatenate([result.outcomes for result in results]))


def evaluation_columns(
    generator: Generator,
    encoder: Encoder,
    agent: AgentConfig,
    sets: Sequence[DrawnSet],
    modes: Sequence[str] = (),
    on_turn: Callable[[], None] = lambda: None,
    hosts: Hosts | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> Summary:
    """An evaluation during training, as columns of a row.

    Args:
      generator: with the weights to evaluate.
      encoder: the policy's tokenizer.
      agent: of the rollouts; evaluated greedily.
      sets: questions; they run together.
      modes: agent modes; empty: the agent's own.
      on_turn: called after each turn; what it raises ends the evaluation.
      hosts, on_end: as of `run_sets`.

    Returns:
      "eval/NAME" of `summarize` over all sets, and "eval/exact/SET"; with more than one
      mode "eval/MODE/NAME".
    """
    columns: Summary = {}
    modes = tuple(modes) or (agent.mode,)
    for mode in modes:
        config = dataclasses.replace(greedy(agent), mode=cast(Any, mode))
        results = run_sets(generator, encoder, config, sets, on_turn, hosts, on_end)
        prefix = "eval" if len(modes) == 1 else f"eval/{mode}"
        columns |= {f"{prefix}/{name}": n for name, n in _summary(results).items()}
        by_name: dict[str, list[SetResult]] = {}
        for result in results:
            by_name.setdefault(result.questions.of.name, []).append(result)
        for name, own in by_name.items():
            columns[f"{prefix}/exact/{name}"] = _summary(own)["exact"]
    return columns
