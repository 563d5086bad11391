"""The learner: packed rows to a better policy, as a handful of pure jitted functions.

    state = learner.init(params)
    old   = [learner.score(params, rows) for rows in batches]      before the update
    carry = learner.begin()
    for rows, score in zip(batches, old):
        carry = learner.accumulate(
            state.params, frozen, carry, rows, score.logprobs, ref, n
        )
    state, carry, report = learner.apply(state, carry)

Where state.params are those that sampled (one optimiser step to a batch, on policy),
the first pass is not needed: `accumulate` takes None for the old logprobs.

Every function has explicit shardings and can be lowered on abstract arguments.

Params and optimiser are float32; each micro-batch casts them to the compute dtype, and
the cast's transpose gives float32 gradients. A micro-batch adds the gradient of its
share of one loss, total / (tokens of the whole optimiser step): how a batch is cut into
micro-batches or spread over devices changes rounding only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import (
    make_mesh,
    param_shardings,
    replicated,
    row_sharding,
    row_shards,
)
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.rl import lora
from gru_mem_jax.rl.logprobs import row_logprobs
from gru_mem_jax.rl.objective import (
    ObjectiveConfig,
    TokenSum,
    dapo_objective,
    logprob_gap,
)
from gru_mem_jax.rl.optimizer import (
    LearnerConfig,
    make_optimizer,
    make_schedule,
    optimizer_shardings,
)
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.rl.packing import PackConfig, PackedRows, abstract_rows

T = TypeVar("T")
Shardings = Any  # in the place of an array or a tree of arrays
Batch = tuple[PackedRows, Array | None, Array | None, Array]  # rows, old, ref, count
Reported = tuple[dict[str, TokenSum], TokenSum, jax.Array]  # sums, gap and largest_gap


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


class Carry(NamedTuple):
    """What micro-batches add up: gradients, float32, and what is reported.

    Attributes:
      grads: as the trained params.
      sums: of `dapo_objective`, and "loss".
      gap, largest_gap: as of `Score`, under the params that the gradient is of.
    """

    grads: Any
    sums: dict[str, TokenSum]
    gap: TokenSum
    largest_gap: jax.Array


class Report(NamedTuple):
    """One optimiser step.

    Attributes:
      sums: of `dapo_objective`, and "loss".
      grad_norm: float32 [], before clipping.
      learning_rate: float32 [].
      taken: bool [], false if the step was skipped.
    """

    sums: dict[str, TokenSum]
    grad_norm: jax.Array
    learning_rate: jax.Array
    taken: jax.Array


class Score(NamedTuple):
    """What a policy says of packed rows.

    Attributes:
      logprobs, entropy: float32 [B, L], 0 on prompts and padding.
      gap: mean distance of logprobs and the sampler's, as a TokenSum.
      largest_gap: float32 [].
    """

    logprobs: jax.Array
    entropy: jax.Array
    gap: TokenSum
    largest_gap: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """Jitted functions of one policy, objective, configuration and mesh.

    `frozen` below is what is not trained: the policy's params in the compute dtype with
    LoRA (of `freeze`), else {}.

    Attributes:
      policy, objective, config, mesh: what it was made of.
      packing: size of its rows.
      init: params -> TrainState. The state shares no memory with what it is given.
      freeze: params -> frozen.
      score: (params, rows) -> Score, under any full params.
      begin: () -> Carry of zeros.
      accumulate: (state.params, frozen, carry, rows, old_logprobs or None,
        ref_logprobs or None, count) -> Carry; None for the old ones: they are those of
        state.params. count is the number of sampled tokens of the whole optimiser
        step, float32 []. The carry is donated.
      apply: (state, carry) -> (state, Carry of zeros, Report). Both are donated.
      policy_params: (state.params, frozen, dtype) -> full params in new arrays.
    """

    policy: Policy
    objective: ObjectiveConfig
    config: LearnerConfig
    mesh: Mesh
    packing: PackConfig
    init: Callable[[Params], TrainState]
    freeze: Callable[[Params], Params]
    score: Callable[[Params, PackedRows], Score]
    begin: Callable[[], Carry]
    accumulate: Callable[..., Carry]
    apply: Callable[[TrainState, Carry], tuple[TrainState, Carry, Report]]
    policy_params: Callable[..., Params]
    shardings: TrainState
    params_sharding: Params

    def abstract_state(self) -> TrainState:
        """The state's shapes, dtypes and shardings, as of checkpoints."""
        shapes = jax.eval_shape(self.init, self.policy.abstract_params())
        return _placed(shapes, self.shardings)

    def abstract_params(self, dtype: Any = jnp.float32) -> Params:
        """The full params' shapes, dtypes and shardings."""
        return _placed(self.policy.abstract_params(dtype), self.params_sharding)

    def abstract_rows(self, length: int) -> PackedRows:
        """A micro-batch of rows of `length` tokens, to lower the functions with."""
        return abstract_rows((self.packing.rows, length), row_sharding(self.mesh))

    def put(self, params: Params) -> Params:
        """Places full params on the mesh, dtypes as they are."""
        placed: Params = jax.device_put(params, self.params_sharding)
        return placed


def make_learner(
    policy: Policy,
    objective: ObjectiveConfig | None = None,
    config: LearnerConfig | None = None,
    mesh: Mesh | None = None,
    *,
    temperature: float = 1.0,
) -> Learner:
    """The functions that train a policy.

    Args:
      policy: without weights.
      objective: constants of the loss.
      config: optimiser and rows.
      mesh: of `parallelism.make_mesh`; None: one device.
      temperature: that rollouts are sampled at; logprobs are those at it.
    """
    objective, config = objective or ObjectiveConfig(), config or LearnerConfig()
    mesh = mesh or make_mesh()
    if temperature <= 0:
        raise InputError(
            f"rollouts at temperature {temperature} have no logprobs to learn from"
        )
    optimizer, schedule = make_optimizer(config), make_schedule(config)
    everywhere: Shardings = replicated(mesh)
    rows_at: Shardings = row_sharding(mesh)
    full_shapes = policy.abstract_params()
    full_at = param_shardings(mesh, policy.logical_axes(), full_shapes)
    trained_shapes, trained_at, frozen_at = full_shapes, full_at, {}
    if config.lora is not None:
        trained_shapes = lora.abstract_adapters(policy, config.lora)
        axes = lora.adapter_axes(policy, config.lora)
        trained_at = param_shardings(mesh, axes, trained_shapes)
        frozen_at = full_at
    opt_shapes = jax.eval_shape(optimizer.init, trained_shapes)
    opt_at = optimizer_shardings(opt_shapes, trained_shapes, trained_at, everywhere)
    state_at = TrainState(
        step=everywhere,
        params=trained_at,
        opt_state=opt_at,
        skipped=everywhere,
        skipped_in_a_row=everywhere,
    )

    def init(params: Params) -> TrainState:
        if config.lora is not None:
            trained = lora.init_adapters(policy, config.lora)
        else:  # copied: the state is donated, and its arrays may be nobody else's
            trained = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            params=trained,
            opt_state=optimizer.init(trained),
            skipped=zero,
            skipped_in_a_row=zero,
        )

    def freeze(params: Params) -> Params:
        frozen = params if config.lora is not None else {}
        return _cast(frozen, config.dtype)

    def full(trained: Params, frozen: Params) -> Params:
        if config.lora is None:
            return trained
        return lora.merge(frozen, trained, config.lora.scale)

    def logprobs_of(params: Params, rows: PackedRows) -> tuple[jax.Array, jax.Array]:
        params = jax.tree.map(lambda x: x.astype(config.dtype), params)
        return row_logprobs(
            policy,
            params,
            rows,
            chunk=config.logits_chunk,
            temperature=temperature,
            remat=config.remat,
        )

    def score(params: Params, rows: PackedRows) -> Score:
        logprobs, entropy = logprobs_of(params, rows)
        gap = logprob_gap(logprobs, rows.sampler_logprobs, rows.completion_mask)
        return Score(logprobs, entropy, *gap)

    def loss(
        trained: Params, frozen: Params, *batch: *Batch
    ) -> tuple[jax.Array, Reported]:
        rows, old_logprobs, ref_logprobs, count = batch
        logprobs, entropy = logprobs_of(full(trained, frozen), rows)
        fixed = jax.lax.stop_gradient(logprobs)
        total, sums = dapo_objective(
            logprobs,
            fixed if old_logprobs is None else old_logprobs,
            rows.advantages,
            rows.completion_mask,
            objective,
            ref_logprobs=ref_logprobs,
            entropy=entropy,
        )
        gap = logprob_gap(fixed, rows.sampler_logprobs, rows.completion_mask)
        return jnp.asarray(total.total) / count, (sums | {"loss": total}, *gap)

    def accumulate(
        trained: Params, frozen: Params, carry: Carry, *batch: *Batch
    ) -> Carry:
        gradient = jax.grad(loss, has_aux=True)
        grads, (sums, gap, largest) = gradient(trained, frozen, *batch)
        largest = jnp.maximum(carry.largest_gap, largest)
        grads, sums, gap = jax.tree.map(jnp.add, carry[:3], (grads, sums, gap))
        return Carry(grads, sums, gap, largest)

    def begin() -> Carry:
        zeros: Carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry_shapes)
        return zeros

    def apply(state: TrainState, carry: Carry) -> tuple[TrainState, Carry, Report]:
        norm = optax.tree.norm(carry.grads)
        updates, opt_state = optimizer.update(
            carry.grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        parts = jax.tree.leaves((norm, carry.sums["loss"].total, params, opt_state))
        floats = [x for x in parts if jnp.issubdtype(x.dtype, jnp.floating)]
        taken = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))

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
        rate = jnp.asarray(schedule(state.step), jnp.float32)
        return new_state, begin(), Report(carry.sums, norm, rate, taken)

    def policy_params(
        trained: Params, frozen: Params, dtype: Any = jnp.float32
    ) -> Params:
        return _cast(full(trained, frozen), dtype)

    beta = objective.beta > 0
    frozen_shapes = {} if config.lora is None else full_shapes
    reported = _reported_shapes(loss, trained_shapes, frozen_shapes, beta)
    carry_shapes = Carry(trained_shapes, *reported)
    carry_at = Carry(trained_at, *jax.tree.map(lambda _: everywhere, reported))
    ref_at = rows_at if beta else None
    return Learner(
        policy=policy,
        objective=objective,
        config=config,
        mesh=mesh,
        packing=config.packing(row_shards(mesh)),
        init=jax.jit(init, out_shardings=state_at),
        freeze=jax.jit(freeze, out_shardings=frozen_at),
        score=jax.jit(
            score,
            in_shardings=(full_at, rows_at),
            out_shardings=Score(rows_at, rows_at, everywhere, everywhere),
        ),
        begin=jax.jit(begin, out_shardings=carry_at),
        accumulate=jax.jit(
            accumulate,
            in_shardings=(
                *(trained_at, frozen_at, carry_at),
                *(rows_at, rows_at, ref_at, everywhere),
            ),
            out_shardings=carry_at,
            donate_argnums=2,
        ),
        apply=jax.jit(
            apply,
            in_shardings=(state_at, carry_at),
            out_shardings=(state_at, carry_at, everywhere),
            donate_argnums=(0, 1),
        ),
        policy_params=jax.jit(policy_params, static_argnums=2, out_shardings=full_at),
        shardings=state_at,
        params_sharding=full_at,
    )


def host_count(batches: list[PackedRows]) -> np.float32:
    """Sampled tokens of one optimiser step, float32 []: what a loss is divided by."""
    return np.float32(sum(float(np.sum(rows.completion_mask)) for rows in batches))


def _reported_shapes(
    loss: Callable[..., Any], trained: Params, frozen: Params, beta: bool
) -> Reported:
    """Shapes of what the loss reports: a carry's but for the gradients."""
    rows = abstract_rows((1, 2))
    real = rows.advantages
    ref = real if beta else None
    count = jax.ShapeDtypeStruct((), jnp.float32)
    shapes: Reported = jax.eval_shape(loss, trained, frozen, rows, real, ref, count)[1]
    return shapes


def _cast(params: Params, dtype: Any) -> Params:
    """A copy in new arrays."""
    copied: Params = jax.tree.map(lambda x: jnp.array(x, dtype), params)
    return copied


def _placed(shapes: Any, shardings: T) -> T:
    """A tree of jax.ShapeDtypeStruct with its shardings."""
    tree: T = jax.tree.map(
        lambda x, at: x.update(sharding=at, weak_type=False), shapes, shardings
    )
    return tree
