"""Answers sets of questions in several modes, and tabulates how that went."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.rl.outcomes import Outcomes, concatenate, outcomes
from gru_mem_jax.rl.summary import Summary, summarize

MIX = "mix"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetResult:
    """One set of questions, run in one mode.

    Attributes:
      questions, mode: what was run.
      trajectories: one for each question.
      outcomes: of P questions with one rollout each: arrays of [P, 1, ...].
      seconds: wall-clock of the whole set; its share where sets ran together.
      stage: of training that the policy is from, where several are compared.
    """

    questions: DrawnSet
    mode: str
    trajectories: tuple[Trajectory, ...]
    outcomes: Outcomes
    seconds: float
    stage: str | None = None


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
    queue = _queue(sets, by_set)
    own = [queue[i] for i in hosts.part(len(queue))]

    def answer() -> None:
        for _ in driver.run(generator, own):
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


def _queue(
    sets: Sequence[DrawnSet], by_set: Sequence[Sequence[Recurrence]]
) -> list[Recurrence]:
    """The first question of each set, the second of each, ..., by document.

    A question comes right after the first on its document, whose prefixes may then
    still be held.
    """
    each_set = [
        [(example.document, recurrence) for example, recurrence in zip(s.examples, own)]
        for s, own in zip(sets, by_set, strict=True)
    ]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*each_set))
    by_document: dict[str, list[Recurrence]] = {}
    for document, recurrence in filter(None, in_turn):
        by_document.setdefault(document, []).append(recurrence)
    return list(itertools.chain.from_iterable(by_document.values()))


def share_a_document(sets: Iterable[DrawnSet]) -> bool:
    """Whether two questions are on the same document."""
    documents = [example.document for each in sets for example in each.examples]
    return len(set(documents)) < len(documents)


def evaluate(
    generator: Generator,
    encoder: Encoder,
    config: AgentConfig,
    sets: Sequence[DrawnSet],
    modes: Sequence[str],
    on_sets: Callable[[Sequence[DrawnSet], str], None] = lambda sets, mode: None,
    on_turn: Callable[[], None] = lambda: None,
    hosts: Hosts | None = None,
) -> list[SetResult]:
    """Runs every set in every mode.

    The sets of the mix run as one for each kind of context and mode, so that slots that
    one leaves are filled by the next; the others run one after the other.

    Args:
      generator: warm, so that seconds count no compilation.
      encoder: the policy's tokenizer.
      config: of the agent; its mode is replaced by each of `modes`.
      sets: questions.
      modes: of the agent.
      on_sets: called before each run.
      on_turn: called after each turn.
      hosts: as of `run_sets`.

    Returns:
      Results in the order of a table: by context, then mode, then set.
    """
    results = []
    by_context: dict[object, list[DrawnSet]] = {}
    for each in sets:
        by_context.setdefault(tuple(each.of.labels.items()), []).append(each)
    for chosen in by_context.values():
        mixed = [each for each in chosen if each.of.in_mix]
        alone = [[each] for each in chosen if not each.of.in_mix]
        for mode in modes:
            mode_config = dataclasses.replace(config, mode=mode)
            for group in filter(None, [mixed, *alone]):
                on_sets(group, mode)
                results += run_sets(
                    generator, encoder, mode_config, group, on_turn, hosts
                )
    return results


def count_turns(sets: Iterable[DrawnSet], modes: Sequence[str]) -> int:
    """The most turns that `evaluate` may take: every chunk read, and the answers."""
    turns = (len(evidence) + 1 for each in sets for evidence, _ in each.labels)
    return len(modes) * sum(turns)


def table_rows(results: Sequence[SetResult]) -> list[dict[str, Any]]:
    """A row per set, and before those of a stage, context and mode one over its mix.

    A set's seconds are its own or its share, so the mix took the sum of them.

    Args:
      results: in the order of the table.

    Returns:
      Columns by name, as `runs.columns` declares them.
    """
    grouped: dict[object, list[SetResult]] = {}
    for result in results:
        labels = tuple(result.questions.of.labels.items())
        grouped.setdefault((result.stage, labels, result.mode), []).append(result)
    rows = []
    for group in grouped.values():
        mixed = [result for result in group if result.questions.of.in_mix]
        if len(mixed) > 1:
            rows.append(_row(MIX, mixed))
        rows += [_row(result.questions.of.name, [result]) for result in group]
    return rows


def _row(name: str, results: Sequence[SetResult]) -> dict[str, Any]:
    first = results[0]
    return {
        **({} if first.stage is None else {"stage": first.stage}),
        "set": name,
        "mode": first.mode,
        **first.questions.of.labels,
        "num_questions": sum(len(result.trajectories) for result in results),
        **_summary(results),
        "seconds": sum(result.seconds for result in results),
    }


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
) -> Summary:
    """An evaluation during training, as columns of a row.

    Args:
      generator: with the weights to evaluate.
      encoder: the policy's tokenizer.
      agent: of the rollouts; evaluated greedily.
      sets: questions; they run together.
      modes: agent modes; empty: the agent's own.
      on_turn: called after each turn; what it raises ends the evaluation.
      hosts: as of `run_sets`.

    Returns:
      "eval/NAME" of `summarize` over all sets, and "eval/exact/SET"; with more than one
      mode "eval/MODE/NAME".
    """
    columns: Summary = {}
    modes = tuple(modes) or (agent.mode,)
    for mode in modes:
        config = dataclasses.replace(greedy(agent), mode=mode)
        results = run_sets(generator, encoder, config, sets, on_turn, hosts)
        prefix = "eval" if len(modes) == 1 else f"eval/{mode}"
        columns |= {f"{prefix}/{name}": n for name, n in _summary(results).items()}
        by_name: dict[str, list[SetResult]] = {}
        for result in results:
            by_name.setdefault(result.questions.of.name, []).append(result)
        for name, own in by_name.items():
            columns[f"{prefix}/exact/{name}"] = _summary(own)["exact"]
    return columns
