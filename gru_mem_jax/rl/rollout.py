"""Rollouts: G traced trajectories for each of P questions, and what a step learns from.

Every random number of a rollout depends on (seed, step, question, rollout) and the turn
alone: not on what else the engine runs, nor on a restart.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.trajectory import Trajectory, UnansweredError
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labels import labels
from gru_mem_jax.errors import InputError
from gru_mem_jax.rl.outcomes import (
    Array,
    Group,
    Outcomes,
    RewardFn,
    columns_needed,
    concatenate,
    outcomes,
)
from gru_mem_jax.rl.packing import Conversation, conversations

_FEWEST_TURNS = 8


def rollout_id(step: int, question: int, rollout: int) -> int:
    """The trajectory_id of a rollout: 48 bits from (step, question, rollout) alone."""
    key = f"{step}/{question}/{rollout}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "little")


def check_agent(config: AgentConfig) -> None:
    """Raises InputError for an agent whose rollouts cannot be learned from."""
    sampling = config.sampling
    if sampling.temperature == 0:
        raise InputError(
            "training needs rollouts that differ: temperature 0 is greedy; set "
            "SamplingConfig.temperature to 1"
        )
    for name, off in (("top_k", 0), ("top_p", 1)):
        value = getattr(sampling, name)
        if value != off:
            raise InputError(
                f"{name} is {value}: rollouts drawn from a part of the distribution "
                f"have another support than the learner's ratio; train with {name}="
                f"{off}"
            )
    for name in ("update_threshold", "exit_threshold"):
        if (threshold := getattr(config, name)) is not None:
            raise InputError(
                f"{name} is {threshold}: a gate that a threshold decides is not drawn "
                "from the policy, and nothing can be learned from it; train without it "
                "and calibrate the trained policy"
            )
    if config.deadline_seconds is not None:
        raise InputError(
            "deadline_seconds makes rollouts depend on the clock; train without it "
            "(max_chunks bounds them)"
        )


def rollout(
    generator: Generator,
    builder: PromptBuilder,
    config: AgentConfig,
    examples: Mapping[int, Example],
    group_size: int,
    *,
    step: int,
    seed: int,
    on_turn: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> list[list[Trajectory]]:
    """Samples a group for each question.

    The rollouts of a group are begun one after the other, and groups are begun whole,
    so that a generator that shares equal prefixes finds them side by side.

    Args:
      generator: e.g. an engine with the weights to sample from.
      builder: of the prompts.
      config: of the agent; `check_agent` must accept it. Its sampling seed is replaced.
      examples: by number of the question.
      group_size: G.
      step: of training.
      seed: of the run.
      on_turn: called after each turn; what it raises ends the rollouts.
      on_end: called after each rollout.

    Returns:
      [P][G] traced trajectories, in the order of `examples`.

    Raises:
      UnansweredError: the generator gave up a request, as an engine never does.
    """
    sampling = dataclasses.replace(config.sampling, seed=seed)
    config = dataclasses.replace(config, sampling=sampling)
    begun: list[Recurrence] = []

    def recurrences() -> Iterator[Recurrence]:
        for question, example in examples.items():
            document = Document(example.document)  # tokenised once for the group
            for g in range(group_size):
                recurrence = Recurrence(
                    builder,
                    config,
                    example.question,
                    document,
                    trajectory_id=rollout_id(step, question, g),
                    trace=True,
                    metadata={"example": example.id, "question": question},
                )
                begun.append(recurrence)
                yield recurrence

    for each, _ in driver.run(generator, recurrences(), group_size=group_size):
        if each.done:
            on_end()
        on_turn()
    done = [recurrence.trajectory for recurrence in begun]
    for trajectory in done:
        if trajectory.failure is not None:
            raise UnansweredError(trajectory)
    return [
        done[start : start + group_size] for start in range(0, len(done), group_size)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """What a step's rollouts did and said: all that learning from them needs.

    Attributes:
      questions: number of the question of each of the P groups.
      outcomes: arrays of [P, G, ...].
      turns: all turns, in order of (group, rollout, turn), advantages 0.
      problems: how often turns were malformed, by reason.
      refills: rounds of further questions that were sampled.
      position: number of the next question after these.
      shared_tokens: prompt tokens that the generator did not have to compute.
      skipped: bad examples that were met on the way to these questions.
    """

    questions: tuple[int, ...]
    outcomes: Outcomes
    turns: tuple[Conversation, ...]
    problems: dict[str, int]
    refills: int
    position: int
    shared_tokens: int
    skipped: int = 0


def make_batch(
    groups: Sequence[Group],
    examples: Mapping[int, Example],
    encoder: Encoder,
    chunk_size: int,
    reward_fn: RewardFn | None = None,
    *,
    skipped: int = 0,
) -> RolloutBatch:
    """Reads one round of rollouts against their labels.

    K, the number of columns that the turns need, is rounded up to a power of two: few
    shapes are compiled. It is bounded by the chunks of the longest context, times
    max_passes in mode reread, and (max_passes + 1) in mode parallel.
    """
    held = [labels(item, encoder, chunk_size) for item in examples.values()]
    needed = columns_needed(groups, held)
    turns = _FEWEST_TURNS
    while turns < needed:
        turns *= 2
    done = outcomes(groups, list(examples.values()), held, reward_fn, num_turns=turns)
    every = [turn for group in groups for t in group for turn in t.turns]
    zeros = np.zeros(done.completion_tokens.shape, np.float32)
    return RolloutBatch(
        questions=tuple(examples),
        outcomes=done,
        turns=tuple(conversations(groups, zeros)),
        problems=dict(sorted(Counter(t.problem for t in every if t.problem).items())),
        refills=0,
        position=1 + max(examples, default=-1),
        shared_tokens=sum(turn.shared_prompt_tokens for turn in every),
        skipped=skipped,
    )


def join(rounds: Sequence[RolloutBatch]) -> RolloutBatch:
    """Rounds of one step as one batch."""
    problems: Counter[str] = Counter()
    moved: list[Conversation] = []
    first = 0
    for item in rounds:
        problems.update(item.problems)
        for turn in item.turns:
            p, g, k = turn.index
            moved.append(dataclasses.replace(turn, index=(first + p, g, k)))
        first += len(item.questions)
    return RolloutBatch(
        questions=tuple(q for r in rounds for q in r.questions),
        outcomes=concatenate([r.outcomes for r in rounds]),
        turns=tuple(moved),
        problems=dict(sorted(problems.items())),
        refills=len(rounds) - 1,
        position=rounds[-1].position,
        shared_tokens=sum(r.shared_tokens for r in rounds),
        skipped=sum(r.skipped for r in rounds),
    )


def sample(
    draw: Callable[[Sequence[int]], RolloutBatch],
    has_signal: Callable[[RolloutBatch], np.ndarray],
    *,
    position: int,
    questions: int,
    max_refills: int,
) -> RolloutBatch:
    """Samples until enough groups teach something, or often enough (DAPO, 3.2).

    Args:
      draw: samples questions from the first of these numbers on, as many; where some
        cannot be used, others that come later take their place.
      has_signal: bool [P] of a round.
      position: number of the first question.
      questions: P, groups that are wanted.
      max_refills: rounds beyond the first; 0: groups without signal are not replaced.

    Returns:
      All groups that were sampled, those without signal too.
    """
    rounds: list[RolloutBatch] = []
    missing = questions
    while missing > 0 and len(rounds) <= max_refills:
        rounds.append(draw(range(position, position + missing)))
        position = rounds[-1].position
        missing -= int(np.sum(has_signal(rounds[-1])))
    return join(rounds)


def learnable(
    batch: RolloutBatch,
    advantages: Array,
    keep: Array,
    *,
    drop_cut: bool = False,
) -> list[Conversation]:
    """The turns of scored rollouts in the groups that are kept, with their advantages.

    A turn whose every token was forced has nothing to learn, and is left out.

    Args:
      batch: rollouts.
      advantages: float32 [P, G, K + 1], the answer turn's last.
      keep: bool [P].
      drop_cut: leave out completions that were cut at the token limit.
    """
    columns = turn_columns(batch.outcomes)
    scored = np.asarray(batch.outcomes.scored)
    advantages, cut = np.asarray(advantages), np.asarray(batch.outcomes.cut)
    result = []
    for turn in batch.turns:
        p, g, k = turn.index
        column = columns.get((p, g, k), -1)
        if not (keep[p] and scored[p, g]) or (drop_cut and cut[p, g, column]):
            continue
        if not any(turn.token_weights):
            continue
        value = float(advantages[p, g, column])
        result.append(dataclasses.replace(turn, advantage=value))
    return result


def turn_columns(outcomes: Outcomes) -> dict[tuple[int, int, int], int]:
    """The column of each memory turn, by (group, rollout, turn)."""
    p, g, column = np.nonzero(np.asarray(outcomes.turn_mask))
    numbers = np.asarray(outcomes.turn)[p, g, column]
    turns = zip(p.tolist(), g.tolist(), numbers.tolist())
    return dict(zip(turns, column.tolist()))
