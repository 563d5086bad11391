"""All that decides a training run."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from gru_mem_jax.agent.config import MODES, AgentConfig
from gru_mem_jax.data.bad_records import ON_BAD_RECORD
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import ExampleSource, on_bad_record
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import Suite
from gru_mem_jax.parallelism import MeshConfig
from gru_mem_jax.records import (
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

# Settings that may differ when a run is gone on with: they change no number.
# Policy and data are known by their content, wherever they lie now; what is done with
# bad records decides whether a run goes on, and nothing where none was met.
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
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The loop. Sizes are the paper's by default.

    Attributes:
      policy: where the run begins, for callers that are not given it otherwise: a
        Hugging Face directory or an hf:// name.
      num_steps: steps of the run; may be raised later.
      questions_per_step: P.
      group_size: G, rollouts of each question.
      seed: of rollouts and data order.
      dynamic_sampling: groups that teach nothing are left out and replaced.
      max_refills: rounds of further questions in a step, at most.
      eval_every: steps between evaluations, the first before training; 0: none.
      eval_modes: agent modes to evaluate; empty: the one that is trained.
      save_every: steps between checkpoints; the last step is always saved.
      keep: newest checkpoints that are kept; None: all.
      best_metric: a column of metrics.jsonl: the checkpoint with its largest value is
        kept too, e.g. "eval/exact"; None: none.
      logprob_gap_limit: the run stops when sampler's and learner's logprobs of sampled
        tokens differ by more than this in the mean: other weights, or too little
        precision. None: never.
      max_skipped: the run stops after so many skipped optimiser steps in a row.
      sample_every: steps between samples of trajectories; 0: none.
      samples: trajectories of a sample, each of another question as far as possible.
      overlap: sample the next step's rollouts while the policy is updated. They are
        then one update older (one step off-policy), and the weights that sample them
        are held and saved beside the new ones.
      record: keep every step's rollouts in RUN/rollouts.
      hang_seconds: end the process after so long without progress; 0: never.
    """

    policy: str | None = None
    num_steps: int = 100
    questions_per_step: int = 128
    group_size: int = 16
    seed: int = 0
    dynamic_sampling: bool = True
    max_refills: int = 2
    eval_every: int = 0
    eval_modes: tuple[str, ...] = ()
    save_every: int = 10
    keep: int | None = 3
    best_metric: str | None = None
    logprob_gap_limit: float | None = 0.1
    max_skipped: int = 5
    sample_every: int = 10
    samples: int = 4
    overlap: bool = False
    record: bool = False
    hang_seconds: float = 1800.0

    def __post_init__(self):
        plain_numbers(self)
        positive = ("num_steps", "questions_per_step", "save_every", "max_skipped")
        for name in positive:
            check_int(name, getattr(self, name), 1)
        check_int("group_size", self.group_size, 2)
        for name in ("seed", "max_refills", "eval_every", "sample_every", "samples"):
            check_int(name, getattr(self, name), 0)
        if self.keep is not None:
            check_int("keep", self.keep, 1)
        for name in ("dynamic_sampling", "overlap", "record"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(
                    f"{name} must be True or False, got {getattr(self, name)!r}"
                )
        if isinstance(self.eval_modes, str):
            raise InputError(f"eval_modes must be a tuple, got {self.eval_modes!r}")
        for mode in self.eval_modes:
            check_choice("eval_modes", mode, MODES)
        if self.logprob_gap_limit is not None:
            check_number("logprob_gap_limit", self.logprob_gap_limit, 0, 1e6)
        check_number("hang_seconds", self.hang_seconds, 0, 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything together; each part is configured by itself.

    Attributes:
      train: the loop.
      agent: how contexts are read in rollouts; None: the settings that the policy
        brings along (gru_mem.json), at temperature 1.
      source: of the questions.
      rewards, advantages, objective, learner: of the update.
      engine: of the sampler; max_length is lowered to what the budgets need.
      mesh: of the learner.
      suite: held-out questions, for eval_every: `evaluation.SourceSuite`, or anything
        with its method `question_sets`.
    """

    train: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    agent: AgentConfig | None = None
    source: ExampleSource
    rewards: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    advantages: AdvantageConfig = dataclasses.field(default_factory=AdvantageConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    suite: Suite | None = None

    def __post_init__(self):
        config = self.train
        if not callable(getattr(self.source, "example", None)):
            raise InputError(
                f"source must have a method example(position), got {self.source!r}"
            )
        check_choice("on_bad_record", on_bad_record(self.source), ON_BAD_RECORD)
        if config.eval_every and self.suite is None:
            raise InputError("eval_every needs a suite of questions to evaluate on")
        parts = self.learner.optimizer_steps_per_batch
        if parts > config.questions_per_step:
            raise InputError(
                f"optimizer_steps_per_batch {parts} is more than questions_per_step "
                f"{config.questions_per_step}: each step needs a question"
            )


def settings_text(settings: TrainConfig) -> str:
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
                lines.append(f"{name}.{field.name} = {_text(item)}")
        for item in inner:
            walk(item)

    walk(settings)
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if hasattr(value, "__qualname__"):
        return f"@{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple) and value and isinstance(value[0], Example):
        digest = hashlib.sha256(repr(value).encode()).hexdigest()
        return f"{len(value)} examples, sha256 {digest}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_text(v)}" for k, v in value.items()) + "}"
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        inner = ", ".join(f"{f.name}={_text(getattr(value, f.name))}" for f in fields)
        return f"{type(value).__name__}({inner})"
    return repr(value)
