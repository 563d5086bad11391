"""The sampling side of the loop: from a step's number to a scored batch of rollouts."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.agent.turn_form import turn_forms
from gru_mem_jax.data.labels import labels
from gru_mem_jax.errors import RunError
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.parallelism import pmap_groups
from gru_mem_jax.rl.advantages import AdvantageConfig, Scores, group_has_signal
from gru_mem_jax.rl.advantages import score_groups as score_arrays
from gru_mem_jax.rl.rollout import (
    RolloutBatch,
    make_batch,
    rollout,
    sample,
    turn_columns,
)
from gru_mem_jax.runs.samples import TrainingSample, write_samples
from gru_mem_jax.train.config import TrainConfig
from gru_mem_jax.train.engine import HeldEngine
from gru_mem_jax.train.plan import Plan
from gru_mem_jax.train.questions import Questions, QuestionStage
from gru_mem_jax.train.several import batch_of_all


class Rollouts(NamedTuple):
    """What a step trains on.

    Attributes:
      batch: the rollouts.
      scores: numpy arrays of [P, G, ...].
      signal: bool [P], groups that teach something.
      trajectories: of this process's groups, [G], by place; empty if the rollouts were
        read from a file.
      seconds: that sampling took.
    """

    batch: RolloutBatch
    scores: Scores
    signal: np.ndarray
    trajectories: dict[int, list[Trajectory]]
    seconds: float = 0.0


@dataclasses.dataclass
class Counts:
    """How far the sampling of a step is, in this process.

    Attributes:
      rollouts: that were begun or wait, of all rounds so far.
      ended: of these.
      turns: that were sampled.
    """

    rollouts: int = 0
    ended: int = 0
    turns: int = 0

    def __str__(self) -> str:
        done = f"{self.ended} of {self.rollouts} rollouts ended"
        return f"{done}, {self.turns} turns"


class Scorer:
    """Rewards and advantages, mapped over devices in blocks of one number of groups.

    With a fixed number of questions a block few programs are compiled, however many
    groups a step had to sample.

    Args:
      config: rewards and advantages. MemAgent has no gates to reward by turn: it is
        trained with alpha 1.
      mode: of the agent.
      devices: to map over.
    """

    def __init__(self, config: TrainConfig, mode: str, devices: Sequence[Any]):
        advantages: AdvantageConfig = config.advantages
        if mode == "memagent":
            advantages = dataclasses.replace(advantages, alpha=1.0)
        self._questions = config.rollouts.questions_per_step
        self._score = pmap_groups(
            functools.partial(_score, rewards=config.rewards, advantages=advantages),
            devices=devices,
        )

    def __call__(self, batch: RolloutBatch) -> tuple[Scores, np.ndarray]:
        """Scores, and bool [P]: which groups teach something."""
        count, size = len(batch.questions), self._questions
        blocks = []
        for start in range(0, count, size):
            # The last block is filled with copies of its last group.
            rows = np.minimum(np.arange(start, start + size), count - 1)
            blocks.append(self._score(_take(batch.outcomes, rows)))
        every = jax.tree.map(lambda *x: np.concatenate(x), *blocks)
        return _take(every, slice(0, count))


def _take(tree: Any, groups: Any) -> Any:
    return jax.tree.map(lambda x: x[groups], tree)


def _score(outcomes, *, rewards, advantages):
    scores = score_arrays(outcomes, rewards, advantages)
    return scores, group_has_signal(scores.advantages, outcomes.turn_mask)


class RolloutStage:
    """Samples a step's rollouts from given weights.

    Args:
      config: of the run.
      agent: how contexts are read.
      encoder: the policy's tokenizer.
      scorer: of rewards and advantages.
      questions: gives the examples.
      engine: the run's.
      hosts: the processes of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        agent: AgentConfig,
        encoder: Encoder,
        scorer: Scorer,
        questions: QuestionStage,
        engine: HeldEngine,
        hosts: Hosts,
    ):
        self._config, self._agent, self._encoder = config, agent, encoder
        self._hosts = hosts
        self._builder = PromptBuilder(encoder, agent.prompt)
        self._scorer, self._engine, self._questions = scorer, engine, questions

    def sample(
        self,
        step: int,
        position: int,
        params: Any,
        on_turn: Callable[[], None],
        counts: Counts | None = None,
    ) -> Rollouts:
        """Rollouts of a step: a function of its arguments, whatever came before.

        Args:
          step: of training.
          position: of the first question in the source.
          params: to sample from, of `HeldEngine.place`.
          on_turn: called after each turn; what it raises ends the rollouts.
          counts: to be kept up to date; None: nobody asks.
        """
        config, counts = self._config, counts or Counts()
        engine = self._engine(params)
        trajectories: dict[int, list[Trajectory]] = {}
        met = 0

        def count_turn() -> None:
            counts.turns += 1
            on_turn()

        def count_end() -> None:
            counts.ended += 1

        def groups_of(numbers: Sequence[int]) -> tuple[Questions, Any, Any]:
            drawn = self._questions.take(numbers[0], len(numbers), on_look=on_turn)
            # All processes draw the same questions; each samples whole groups. They are
            # dealt, so that each has some of every optimiser step.
            every = list(drawn.examples.items())
            own = dict(every[i] for i in self._hosts.dealt(len(every)))
            counts.rollouts += len(own) * config.rollouts.group_size
            groups = rollout(
                engine,
                self._builder,
                self._agent,
                own,
                config.rollouts.group_size,
                step=step,
                seed=config.loop.seed,
                on_turn=count_turn,
                on_end=count_end,
            )
            return drawn, own, groups

        def draw(numbers: Sequence[int]) -> RolloutBatch:
            nonlocal met
            drawn, own, groups = self._hosts.together(
                "rollouts", functools.partial(groups_of, numbers)
            )
            batch = make_batch(
                groups,
                own,
                self._encoder,
                self._agent.chunk_size,
                config.rewards.answer_reward,
                skipped=drawn.skipped,
            )
            batch, places = batch_of_all(self._hosts, batch, tuple(drawn.examples))
            trajectories.update((met + p, g) for p, g in zip(places, groups))
            met += len(batch.questions)
            return batch

        batch = sample(
            draw,
            lambda batch: self._scorer(batch)[1],
            position=position,
            questions=config.rollouts.questions_per_step,
            max_refills=(
                config.rollouts.max_refills if config.rollouts.dynamic_sampling else 0
            ),
        )
        return Rollouts(batch, *self._scorer(batch), trajectories)

    def skipped(self, met: int) -> int:
        """Bad examples of the whole source, or those of them that are known.

        Args:
          met: since the start of the run.
        """
        return self._questions.known_bad + met

    def write_samples(
        self, folder: str | pathlib.Path, step: int, rollouts: Rollouts, count: int
    ) -> None:
        """Writes some trajectories, with their labels and rewards, one a line.

        Raises:
          RunError: they cannot be written.
        """
        held = rollouts.trajectories
        rollouts_held = [(p, g) for p in held for g in range(len(held[p]))]
        # Each of another question, as far as possible.
        places = sorted(rollouts_held, key=lambda place: place[1])[:count]
        samples = [self._sample(step, rollouts, p, g) for p, g in places]
        if samples:
            write_samples(folder, step, samples)

    def _sample(self, step: int, rollouts: Rollouts, p: int, g: int) -> TrainingSample:
        question = rollouts.batch.questions[p]
        example = self._config.source.example(question)
        evidence, last = labels(example, self._encoder, self._agent.chunk_size)
        trajectory, scores = rollouts.trajectories[p][g], rollouts.scores
        columns = turn_columns(rollouts.batch.outcomes)
        read = [columns[p, g, k] for k in range(len(trajectory.memory_turns))]
        advantages = scores.advantages[p, g, [*read, -1]]
        return TrainingSample(
            step=step,
            question=question,
            rollout=g,
            task=example.task,
            answers=tuple(example.answers),
            evidence=tuple(evidence),
            last_evidence=last,
            reward=float(scores.trajectory[p, g]),
            scored=bool(rollouts.batch.outcomes.scored[p, g]),
            rewards={
                name: float(term[p, g])
                for name, term in scores.terms.items()
                if term.ndim == 2
            },
            turn_rewards=tuple(float(x) for x in scores.turn[p, g, read]),
            advantages=tuple(float(x) for x in advantages),
            trajectory=trajectory,
        )

    def scored(self, batch: RolloutBatch) -> Rollouts:
        """Rollouts that were read from a file."""
        return Rollouts(batch, *self._scorer(batch), {})


def supports_of(planned: Plan) -> np.ndarray | None:
    """The sets of ids that constrained turns are drawn from, bool [M, V].

    None where turns are free.
    """
    if planned.agent.format == "free":
        return None
    builder = PromptBuilder(planned.encoder, planned.agent.prompt)
    vocab = planned.policy.config.vocab_size
    return turn_forms(builder).grammar.padded_supports(vocab)


def check_gap(columns: dict[str, Any], limit: float | None, step: int) -> None:
    """Stops a run whose sampler and learner disagree on what was sampled.

    Raises:
      RunError: the mean gap is above the limit.
    """
    gap = columns.get("logprob_gap")
    if limit is not None and gap is not None and not gap <= limit:
        raise RunError(
            f"step {step}: the learner's logprobs of sampled tokens differ from the "
            f"sampler's by {gap:.3g} in the mean, above logprob_gap_limit {limit:g}: "
            "the sampler has other weights, or too little precision"
        )
