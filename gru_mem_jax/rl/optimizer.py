"""The learner's configuration, and the optax chain that follows from it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.kernels import AUTO, ROW_ATTENTIONS
from gru_mem_jax.records import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    plain_numbers,
)
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.rl.packing import PackConfig

SCHEDULES = ("constant", "linear", "cosine")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How the policy is updated. The defaults are the paper's where it says.

    Attributes:
      learning_rate: after the warm-up.
      warmup_steps: optimiser steps over which it rises from 0, linearly.
      schedule: "constant", or a "linear" or "cosine" fall to `end_factor` of it.
      decay_steps: optimiser steps from the first to the end of the fall. A number of
        its own, so that a run that is resumed for more steps has the same steps before.
      decay_from: optimiser step at which the fall begins; None: after the warm-up.
      end_factor: share of the learning rate that is left after the fall.
      optimizer: any optax factory, called with learning_rate=schedule; None: AdamW.
      b1, b2, eps, weight_decay: AdamW's. Norms and biases do not decay.
      clip_norm: gradients of larger global norm are scaled down to it; None: never.
      optimizer_steps_per_batch: parts that a batch of rollouts is split in, one step
        on each: the later ones are a little off-policy.
      drop_cut: completions that were cut at the token limit are not learned from.
      row_tokens: most tokens of a packed row.
      rows_per_device: rows of a micro-batch on each device that rows are split over.
      length_buckets: so many lengths of row are compiled at most.
      share_prefixes: tokens with which a question's prompts begin alike are computed
        once; the gradient is the same.
      remat: compute layers again in the backward pass instead of storing them.
      unroll_layers: layers in one step of the scan over layers: all of a shallow policy
        are quicker on CPU (by a third for two layers), many take long to compile.
      attention: "blocks" on any device; "splash", the TPU kernel of `policy.splash`;
        "auto": the kernel where there is one (see `policy.kernels`).
      logits_chunk: tokens of a row whose logits exist at a time.
      compute_dtype: "float32" or "bfloat16" of the forward and backward pass; None:
        float32 on CPU, bfloat16 elsewhere. Params and optimiser are float32.
      lora: train adapters of this kind instead of the params.
    """

    learning_rate: float = 1e-6
    warmup_steps: int = 20
    schedule: str = "constant"
    decay_steps: int | None = None
    decay_from: int | None = None
    end_factor: float = 0.0
    optimizer: Callable[..., optax.GradientTransformation] | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    optimizer_steps_per_batch: int = 1
    drop_cut: bool = False
    row_tokens: int = 9216
    rows_per_device: int = 1
    length_buckets: int = 4
    share_prefixes: bool = True
    remat: bool = True
    unroll_layers: int = 1
    attention: str = AUTO
    logits_chunk: int = 512
    compute_dtype: str | None = None
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_number("learning_rate", self.learning_rate, 0, 1e3)
        check_int("warmup_steps", self.warmup_steps, 0)
        check_choice("schedule", self.schedule, SCHEDULES)
        if self.schedule == "constant":
            if (self.decay_steps, self.decay_from) != (None, None):
                raise InputError(
                    "decay_steps and decay_from go with schedule linear or cosine"
                )
        elif self.decay_steps is None:
            raise InputError(f"schedule {self.schedule} needs decay_steps")
        else:
            check_int("decay_steps", self.decay_steps, self.warmup_steps + 1)
            if self.decay_from is not None:
                most = self.decay_steps - 1
                check_int("decay_from", self.decay_from, self.warmup_steps, most)
        check_number("end_factor", self.end_factor, 0, 1)
        if self.optimizer is not None and not callable(self.optimizer):
            raise InputError(
                f"optimizer must be an optax factory, got {self.optimizer!r}"
            )
        for name in ("b1", "b2", "eps", "weight_decay"):
            check_number(name, getattr(self, name), 0, 1)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, 1e-12, 1e12)
        check_int("optimizer_steps_per_batch", self.optimizer_steps_per_batch, 1)
        check_int("rows_per_device", self.rows_per_device, 1)
        check_int("logits_chunk", self.logits_chunk, 1)
        check_int("unroll_layers", self.unroll_layers, 1)
        check_choice("attention", self.attention, ROW_ATTENTIONS)
        for name in ("remat", "drop_cut"):
            check_bool(name, getattr(self, name))
        if self.compute_dtype is not None:
            check_choice("compute_dtype", self.compute_dtype, DTYPES)
        if self.lora is not None and not isinstance(self.lora, LoraConfig):
            raise InputError(f"lora must be a LoraConfig, got {self.lora!r}")
        self.packing(1)

    def packing(self, shards: int) -> PackConfig:
        """The rows of a micro-batch that is split over `shards` devices."""
        return PackConfig(
            row_tokens=self.row_tokens,
            rows=self.rows_per_device * shards,
            length_buckets=self.length_buckets,
            share_prefixes=self.share_prefixes,
        )

    @property
    def dtype(self) -> Any:
        """The dtype of the forward and backward pass."""
        dtype = self.compute_dtype
        if dtype is None:
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return jnp.dtype(dtype)


def make_schedule(config: LearnerConfig) -> optax.Schedule:
    """The learning rate of optimiser step 0, 1, ...; step 0 has 1 / warmup_steps."""
    rate, warmup = config.learning_rate, config.warmup_steps
    start = warmup if config.decay_from is None else config.decay_from
    parts: list[optax.Schedule] = []
    borders: list[int] = []
    if warmup:
        parts.append(optax.linear_schedule(rate / warmup, rate, max(1, warmup - 1)))
        borders.append(warmup)
    if start > warmup:
        parts.append(optax.constant_schedule(rate))
        borders.append(start)
    if config.decay_steps is None:  # schedule "constant"
        parts.append(optax.constant_schedule(rate))
    else:
        steps = config.decay_steps - start
        if config.schedule == "linear":
            fall = optax.linear_schedule(rate, rate * config.end_factor, steps)
        else:
            fall = optax.cosine_decay_schedule(rate, steps, config.end_factor)
        parts.append(fall)
    return optax.join_schedules(parts, borders)


def make_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimiser with its schedule."""
    schedule = make_schedule(config)
    if config.optimizer is not None:
        optimizer = config.optimizer(learning_rate=schedule)
    else:
        optimizer = optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=_decayed,
        )
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _decayed(params: Any) -> Any:
    """True for matrices. Layers are stacked, so names tell them from norms."""

    def matrix(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> bool:
        return path[-1].key not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(matrix, params)


def optimizer_shardings(
    opt_shapes: Any, trained_shapes: Any, trained_at: Any, everywhere: Any
) -> Any:
    """Where each entry of the optimiser's state lies.

    As the parameter whose name its path ends with, if it has its shape: Adam's moments
    do. Others, as Adam's count and the factors of Adafactor, are on every device.

    Args:
      opt_shapes: the state, abstract.
      trained_shapes: what is trained, abstract.
      trained_at: its shardings.
      everywhere: the sharding of the others.
    """
    known = {
        (_names(path), leaf.shape): sharding
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(trained_shapes),
            jax.tree.leaves(trained_at),
        )
    }

    def sharding(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        names = _names(path)
        for start in range(len(names)):
            if (found := known.get((names[start:], leaf.shape))) is not None:
                return found
        return everywhere

    return jax.tree_util.tree_map_with_path(sharding, opt_shapes)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(
        str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path
    )
