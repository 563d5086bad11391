"""All that decides a run, supervised or by reinforcement."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from gru_mem_jax.agent.config import MODES, AgentConfig
from gru_mem_jax.data.bad_records import ON_BAD_RECORD
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import ExampleSource, on_bad_record
from gru_mem_jax.data.turns import TurnMaker
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import Suite
from gru_mem_jax.parallelism import MeshConfig
from gru_mem_jax.records import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    plain_numbers,
)
from gru_mem_jax.rl.advantages import AdvantageConfig
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.rewards import RewardConfig
from gru_mem_jax.sampling.config import EngineConfig

# Settings that may differ when a run is resumed: they change no number.
# Policy and data are known by their content, wherever they lie now; what is done with
# bad records decides whether a run continues, and nothing where none was met.
MAY_CHANGE = (
    "policy",
    "path",
    "on_bad_record",
    "num_steps",
    "save_every",
    "keep",
    "sample_every",
    "samples",
    "record",
    "hang_seconds",
    "resident",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The loop of a run, supervised or by reinforcement.

    Attributes:
      policy: where the run begins: a Hugging Face directory or an hf:// name.
      num_steps: steps of the run; may be raised later.
      seed: of all that is drawn at random, and of the data's order.
      eval_every: steps between evaluations, the first before training; 0: none.
      eval_modes: agent modes to evaluate; empty: the one that is trained.
      log_every: steps between rows of metrics.jsonl; the others are not read back from
        the device. Evaluated steps always have a row.
      save_every: steps between checkpoints; the last step is always saved.
      keep: newest checkpoints that are kept; None: all.
      best_metric: a column of metrics.jsonl: the checkpoint with its largest value is
        kept too, e.g. "eval/exact"; None: none.
      max_skipped: the run stops after so many skipped optimiser steps in a row.
      hang_seconds: end the process after so long without progress; 0: never.
    """

    policy: str | None = None
    num_steps: int = 100
    seed: int = 0
    eval_every: int = 0
    eval_modes: tuple[str, ...] = ()
    log_every: int = 1
    save_every: int = 10
    keep: int | None = 3
    best_metric: str | None = None
    max_skipped: int = 5
    hang_seconds: float = 1800.0

    def __post_init__(self):
        plain_numbers(self)
        for name in ("num_steps", "log_every", "save_every", "max_skipped"):
            check_int(name, getattr(self, name), 1)
        for name in ("seed", "eval_every"):
            check_int(name, getattr(self, name), 0)
        if self.keep is not None:
            check_int("keep", self.keep, 1)
        if isinstance(self.eval_modes, str):
            raise InputError(f"eval_modes must be a tuple, got {self.eval_modes!r}")
        for mode in self.eval_modes:
            check_choice("eval_modes", mode, MODES)
        check_number("hang_seconds", self.hang_seconds, 0, 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What a step of reinforcement learning samples. Sizes are the paper's.

    Attributes:
      questions_per_step: P.
      group_size: G, rollouts of each question.
      dynamic_sampling: groups that teach nothing are left out and replaced (DAPO, 3.2).
      max_refills: rounds of further questions in a step, at most.
      logprob_gap_limit: the run stops when sampler's and learner's logprobs of sampled
        tokens differ by more than this in the mean: other weights, or too little
        precision. None: never.
      sample_every: steps between samples of trajectories; 0: none.
      samples: trajectories of a sample, each of another question as far as possible.
      overlap: sample the next step's rollouts while the policy is updated. They are
        then one update older (one step off-policy), and the weights that sample them
        are held and saved beside the new ones.
      record: keep every step's rollouts in RUN/rollouts.
    """

    questions_per_step: int = 128
    group_size: int = 16
    dynamic_sampling: bool = True
    max_refills: int = 2
    logprob_gap_limit: float | None = 0.1
    sample_every: int = 10
    samples: int = 4
    overlap: bool = False
    record: bool = False

    def __post_init__(self):
        plain_numbers(self)
        check_int("questions_per_step", self.questions_per_step, 1)
        check_int("group_size", self.group_size, 2)
        for name in ("max_refills", "sample_every", "samples"):
            check_int(name, getattr(self, name), 0)
        for name in ("dynamic_sampling", "overlap", "record"):
            check_bool(name, getattr(self, name))
        if self.logprob_gap_limit is not None:
            check_number("logprob_gap_limit", self.logprob_gap_limit, 0, 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run of reinforcement learning; each part is configured by itself.

    Attributes:
      loop: steps, evaluations, checkpoints.
      rollouts: what a step samples.
      agent: how contexts are read in rollouts; None: the settings that the policy
        brings along (gru_mem.json), at temperature 1.
      source: of the questions; must be given.
      rewards, advantages, objective, learner: of the update.
      engine: of the sampler; max_length is lowered to what the budgets need.
      mesh: of the learner.
      suite: held-out questions, for eval_every: `evaluation.SourceSuite`, or anything
        with its method `question_sets`.
    """

    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    rollouts: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    agent: AgentConfig | None = None
    source: ExampleSource | None = None
    rewards: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    advantages: AdvantageConfig = dataclasses.field(default_factory=AdvantageConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    suite: Suite | None = None

    def __post_init__(self):
        _check_sources(self, "source")
        if self.loop.eval_every and self.suite is None:
            raise InputError("eval_every needs a suite of questions to evaluate on")
        parts = self.learner.optimizer_steps_per_batch
        if parts > self.rollouts.questions_per_step:
            raise InputError(
                f"optimizer_steps_per_batch {parts} is more than questions_per_step "
                f"{self.rollouts.questions_per_step}: each step needs a question"
            )


class PolicyStart(Protocol):
    """Makes the policy that a run from scratch begins with."""

    def write(self, directory: str | pathlib.Path, seed: int) -> None:
        """Writes a Hugging Face directory with weights, tokenizer and agent settings.

        Equal seeds give equal files.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """A supervised run: turns of an oracle are learned, by negative log-likelihood.

    Attributes:
      loop: steps, evaluations, checkpoints.
      start: makes the policy to begin with, where `loop.policy` is None.
      agent: how contexts are read in the turns; None: as the policy's directory says.
      source: of the examples that turns are made of; must be given.
      turns: makes an example's turns; must be given: `data.EvidenceTurns` for labelled
        examples.
      rows: packed rows of learner.row_tokens in a step.
      pool_turns: turns that are shuffled together, at least; those of consecutive
        examples on one document stay together.
      gate_weight: how much a token that decides a gate (the word of <check> or <next>)
        counts in the loss, where another token counts 1: most of a reply is template
        and copied.
      short_steps: first steps, on chunks of `short_chunk_size` tokens of `short_source`
        (attention finds its feet sooner on them).
      short_source, short_chunk_size: of the first steps; None: as the others.
      held_out: examples whose turns the training is watched on, at each evaluation;
        None: none.
      held_out_turns: how many turns of them.
      learner: optimiser and rows.
      engine: of the sampler, where there is a suite.
      mesh: of the learner.
      suite: held-out questions to answer, for eval_every; None: none.
    """

    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    start: PolicyStart | None = None
    agent: AgentConfig | None = None
    source: ExampleSource | None = None
    turns: TurnMaker | None = None
    rows: int = 8
    pool_turns: int = 1024
    gate_weight: float = 1.0
    short_steps: int = 0
    short_source: ExampleSource | None = None
    short_chunk_size: int | None = None
    held_out: ExampleSource | None = None
    held_out_turns: int = 400
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    suite: Suite | None = None

    def __post_init__(self):
        plain_numbers(self)
        _check_sources(self, "source", "short_source", "held_out")
        if self.turns is not None and not callable(getattr(self.turns, "oracle", None)):
            raise InputError(
                "turns must have a method oracle(encoder, agent), such as "
                f"data.EvidenceTurns; got {self.turns!r}"
            )
        for name in ("rows", "pool_turns", "held_out_turns"):
            check_int(name, getattr(self, name), 1)
        check_int("short_steps", self.short_steps, 0)
        check_number("gate_weight", self.gate_weight, 1e-6, 1e6)
        if self.short_chunk_size is not None:
            check_int("short_chunk_size", self.short_chunk_size, 1)
        if self.loop.eval_every and self.suite is None and self.held_out is None:
            raise InputError("eval_every needs a suite or held_out examples")


def _check_sources(config: TrainConfig | SFTConfig, *names: str) -> None:
    for name in names:
        if (source := getattr(config, name)) is None:
            continue
        if not callable(getattr(source, "example", None)):
            raise InputError(
                f"{name} must have a method example(position), such as "
                f"data.JsonlSource; got {source!r}"
            )
        check_choice("on_bad_record", on_bad_record(source), ON_BAD_RECORD)


def settings_text(config: TrainConfig | SFTConfig) -> str:
    """The settings as text, one "Class.field = value" a line, to compare runs by."""
    lines: list[str] = []

    def walk(value: Any) -> None:
        name = type(value).__name__
        inner = []
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if dataclasses.is_dataclass(item):
                inner.append(item)
                lines.append(f"{name}.{field.name} = @{type(item).__name__}()")
            else:
                lines.append(f"{name}.{field.name} = {value_text(item)}")
        for item in inner:
            walk(item)

    walk(config)
    return "\n".join(lines) + "\n"


def value_text(value: Any) -> str:
    """A setting as text: functions by name, long lists of examples by sha256."""
    if hasattr(value, "__qualname__"):
        return f"@{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple) and value and isinstance(value[0], Example):
        digest = hashlib.sha256(repr(value).encode()).hexdigest()
        return f"{len(value)} examples, sha256 {digest}"
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{k!r}: {value_text(v)}" for k, v in value.items()) + "}"
        )
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        inner = ", ".join(
            f"{f.name}={value_text(getattr(value, f.name))}" for f in fields
        )
        return f"{type(value).__name__}({inner})"
    return repr(value)
