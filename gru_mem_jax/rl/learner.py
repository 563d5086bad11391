"""The learner: packed rows to a better policy, as pure functions of arrays.

    learner = compile_learner(policy, objective, config, mesh)
    state, carry = learner.init(params), learner.begin()
    for rows in micro_batches:                    # forward and backward
        batch = Batch(rows, old_logprobs, ref_logprobs, count)
        carry = learner.accumulate(state.params, frozen, carry, batch)
    state, carry, report = learner.apply(state, carry)       # optimiser step

The functions of this module take a `LearnerSpec` first and say what is computed;
`compile_learner` (rl/compile.py) jits them with explicit shardings and adds nothing
else, so that each can be lowered on abstract arguments, for devices that nobody holds.

Params and optimiser are float32; each micro-batch casts them to the compute dtype, and
the cast's transpose gives float32 gradients. A micro-batch adds the gradient of its
share of one loss, total / (tokens of the whole optimiser step): how a batch is cut into
micro-batches or spread over devices changes rounding only.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from gru_mem_jax.parallelism import param_shardings
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.rl import lora
from gru_mem_jax.rl.logprobs import likeliest, row_logprobs
from gru_mem_jax.rl.objective import (
    ObjectiveConfig,
    TokenSum,
    dapo_objective,
    logprob_gap,
    nll,
    token_sum,
)
from gru_mem_jax.rl.optimizer import (
    LearnerConfig,
    make_optimizer,
    make_schedule,
)
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.rl.packing import PackedRows


class LearnerSpec(NamedTuple):
    """What the functions below are of; hashable, and holds no array.

    Attributes:
      policy: without weights.
      objective: constants of DAPO's objective; None: the negative log-likelihood of the
        completions, as in supervised training.
      config: optimiser and rows.
      temperature: that completions are sampled at; logprobs are those at it.
      mesh: that rows and heads are split over; None: one device.
    """

    policy: Policy
    objective: ObjectiveConfig | None
    config: LearnerConfig
    temperature: float = 1.0
    mesh: Mesh | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that an update changes.

    Attributes:
      step: int32 [], optimiser steps that were taken; skipped ones are not.
      params: what is trained, float32: params, or adapters with LoRA.
      opt_state: of the optax chain.
      skipped: int32 [], optimiser steps skipped since the start: loss, gradient or
        result were not finite.
      skipped_in_a_row: int32 [], since the last one that was taken.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A micro-batch of one optimiser step.

    Attributes:
      rows: packed rows of [B, L].
      old_logprobs: float32 [B, L] under the policy that sampled; None: it is the one
        that is trained, as it stands (on policy).
      ref_logprobs: float32 [B, L] under the KL's reference; None where beta is 0.
      count: float32 [], learned tokens of the whole optimiser step (`host_count`).
      supports: bool [M, V], sets of ids that `rows.support` names; None: all tokens
        were drawn from all ids.
    """

    rows: PackedRows
    old_logprobs: Array | None
    ref_logprobs: Array | None
    count: Array | np.float32
    supports: Array | None = None


class Carry(NamedTuple):
    """What micro-batches add up: gradients, float32, and what is reported.

    Attributes:
      grads: as the trained params.
      sums: of the objective, and "loss".
      gap, largest_gap: as of `RowLogprobs`, under the params that the gradient is of.
    """

    grads: Any
    sums: dict[str, TokenSum]
    gap: TokenSum
    largest_gap: jax.Array


class Report(NamedTuple):
    """One optimiser step.

    Attributes:
      sums: of the objective, and "loss".
      grad_norm: float32 [], before clipping.
      learning_rate: float32 [].
      taken: bool [], false if the step was skipped.
    """

    sums: dict[str, TokenSum]
    grad_norm: jax.Array
    learning_rate: jax.Array
    taken: jax.Array


class RowLogprobs(NamedTuple):
    """What a policy says of the learned tokens of packed rows.

    Attributes:
      logprobs, entropy: float32 [B, L], 0 on prompts, padding and forced tokens.
      gap: mean distance of logprobs and the sampler's, as a TokenSum.
      largest_gap: float32 [].
    """

    logprobs: jax.Array
    entropy: jax.Array
    gap: TokenSum
    largest_gap: jax.Array


def init(spec: LearnerSpec, params: Params) -> TrainState:
    """The state before the first step; shares no memory with `params`."""
    if spec.config.lora is not None:
        trained = lora.init_adapters(spec.policy, spec.config.lora)
    else:  # copied: the state is donated, and its arrays may be nobody else's
        trained = _copied(params, jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=trained,
        opt_state=make_optimizer(spec.config).init(trained),
        skipped=zero,
        skipped_in_a_row=zero,
    )


def freeze(spec: LearnerSpec, params: Params) -> Params:
    """What is not trained: with LoRA the params in the compute dtype, else {}."""
    if spec.config.lora is None:
        return {}
    return _copied(params, spec.config.dtype)


def full_params(spec: LearnerSpec, trained: Params, frozen: Params) -> Params:
    """The policy's params; adapters are merged."""
    if spec.config.lora is None:
        return trained
    return lora.merge(frozen, trained, spec.config.lora.scale)


def policy_params(
    spec: LearnerSpec, trained: Params, frozen: Params, dtype: Any = jnp.float32
) -> Params:
    """`full_params` in new arrays, which later updates leave alone."""
    return _copied(full_params(spec, trained, frozen), dtype)


def token_logprobs(
    spec: LearnerSpec,
    params: Params,
    rows: PackedRows,
    supports: Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Logprobs and entropies of learned tokens, float32 [B, L], under full params."""
    return row_logprobs(
        spec.policy,
        _compute_params(spec, params),
        rows,
        chunk=spec.config.logits_chunk,
        temperature=spec.temperature,
        remat=spec.config.remat,
        unroll=spec.config.unroll_layers,
        attention=spec.config.attention,
        supports=supports,
        mesh=spec.mesh,
    )


def logprobs(
    spec: LearnerSpec,
    params: Params,
    rows: PackedRows,
    supports: Array | None = None,
) -> RowLogprobs:
    """`token_logprobs`, and how far they are from the sampler's.

    Args:
      spec: the learner.
      params: full params.
      rows: a micro-batch [B, L].
      supports: bool [M, V], sets of ids that `rows.support` names; None: all tokens
        were drawn from all ids.
    """
    values, entropy = token_logprobs(spec, params, rows, supports)
    gap = logprob_gap(values, rows.sampler_logprobs, rows.completion_mask)
    return RowLogprobs(values, entropy, *gap)


def predicted(spec: LearnerSpec, params: Params, rows: PackedRows) -> jax.Array:
    """bool [B, L]: completion tokens that are the most likely ones, teacher-forced."""
    params = _compute_params(spec, params)
    hidden = spec.policy.hidden(
        params,
        jnp.asarray(rows.tokens),
        jnp.asarray(rows.positions),
        jnp.asarray(rows.reach),
        unroll=spec.config.unroll_layers,
        attention=spec.config.attention,
        mesh=spec.mesh,
    )
    return likeliest(
        spec.policy,
        params,
        hidden,
        rows.tokens,
        rows.completion_mask,
        chunk=spec.config.logits_chunk,
        mesh=spec.mesh,
    )


def loss(
    spec: LearnerSpec, trained: Params, frozen: Params, batch: Batch
) -> tuple[jax.Array, tuple[dict[str, TokenSum], TokenSum, jax.Array]]:
    """The micro-batch's share of the loss, and what `Carry` adds up beside gradients.

    Returns:
      float32 [], the sum over its tokens divided by `batch.count`; (sums, gap, largest
      gap) as of `Carry`.
    """
    rows = batch.rows
    params = full_params(spec, trained, frozen)
    values, entropy = token_logprobs(spec, params, rows, batch.supports)
    fixed = jax.lax.stop_gradient(values)
    if spec.objective is None:
        total = nll(values, rows.completion_mask)
        sums = {"entropy": token_sum(entropy, rows.completion_mask)}
    else:
        total, sums = dapo_objective(
            values,
            fixed if batch.old_logprobs is None else batch.old_logprobs,
            rows.advantages,
            rows.completion_mask,
            spec.objective,
            ref_logprobs=batch.ref_logprobs,
            entropy=entropy,
        )
    gap = logprob_gap(fixed, rows.sampler_logprobs, rows.completion_mask)
    return jnp.asarray(total.total) / batch.count, (sums | {"loss": total}, *gap)


def accumulate(
    spec: LearnerSpec, trained: Params, frozen: Params, carry: Carry, batch: Batch
) -> Carry:
    """Forward and backward pass of a micro-batch, added to what came before."""
    gradient = jax.grad(functools.partial(loss, spec), has_aux=True)
    grads, (sums, gap, largest) = gradient(trained, frozen, batch)
    largest = jnp.maximum(carry.largest_gap, largest)
    grads, sums, gap = jax.tree.map(jnp.add, carry[:3], (grads, sums, gap))
    return Carry(grads, sums, gap, largest)


def apply(
    spec: LearnerSpec, state: TrainState, carry: Carry
) -> tuple[TrainState, Report]:
    """One optimiser step; skipped where loss, gradient or result are not finite."""
    norm = optax.tree.norm(carry.grads)
    updates, opt_state = make_optimizer(spec.config).update(
        carry.grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    parts = (norm, carry.sums["loss"].total, params, opt_state)
    taken = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in _floats(parts)]))

    def chosen(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(taken, n, o), new, old)

    went = taken.astype(jnp.int32)
    new_state = TrainState(
        step=state.step + went,
        params=chosen(params, state.params),
        opt_state=chosen(opt_state, state.opt_state),
        skipped=state.skipped + 1 - went,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * (1 - went),
    )
    rate = jnp.asarray(make_schedule(spec.config)(state.step), jnp.float32)
    return new_state, Report(carry.sums, norm, rate, taken)


def host_count(batches: Sequence[PackedRows]) -> np.float32:
    """Learned tokens of one optimiser step, float32 []: what a loss is divided by.

    A token of another weight than 1 counts as much as it weighs.
    """
    return np.float32(sum(float(np.sum(rows.completion_mask)) for rows in batches))


def _compute_params(spec: LearnerSpec, params: Params) -> Params:
    """In the compute dtype; cast where they lie: the cast is what is gathered."""
    cast: Params = jax.tree.map(lambda x: x.astype(spec.config.dtype), params)
    if spec.mesh is not None and spec.mesh.size > 1:
        axes, shapes = spec.policy.logical_axes(), spec.policy.abstract_params()
        at = param_shardings(spec.mesh, axes, shapes)
        cast = jax.lax.with_sharding_constraint(cast, at)
    return cast


def _copied(params: Params, dtype: Any) -> Params:
    copied: Params = jax.tree.map(lambda x: jnp.array(x, dtype), params)
    return copied


def _floats(tree: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
