"""The learner's functions, jitted for a mesh: shardings are added, and nothing else."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import (
    make_mesh,
    param_shardings,
    replicated,
    row_sharding,
    row_shards,
)
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.policy.kernels import describe, row_attention
from gru_mem_jax.rl import learner, lora
from gru_mem_jax.rl.learner import (
    Batch,
    Carry,
    LearnerSpec,
    Report,
    RowLogprobs,
    TrainState,
)
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import (
    LearnerConfig,
    make_optimizer,
    optimizer_shardings,
)
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.rl.packing import PackConfig, PackedRows
from gru_mem_jax.rl.supports import check_supports

T = TypeVar("T")
Shardings = Any  # in the place of an array or of a tree of arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """The functions of `rl.learner`, jitted for a mesh.

    Attributes:
      spec, mesh: what it was made of.
      attention: a line on the kernel that was chosen for its rows.
      packing: size of its rows.
      init: params -> TrainState.
      freeze: params -> frozen.
      score: (params, rows, supports or None) -> RowLogprobs, under any full params; see
        `logprobs`.
      predicted: (params, rows) -> bool [B, L].
      begin: () -> Carry of zeros.
      accumulate: (state.params, frozen, carry, Batch) -> Carry. The carry is donated.
      apply: (state, carry) -> (state, Carry of zeros, Report). Both are donated.
      policy_params: (state.params, frozen, dtype) -> full params in new arrays.
      shardings: of a TrainState.
      params_sharding: of full params.
    """

    spec: LearnerSpec
    mesh: Mesh
    attention: str
    packing: PackConfig
    init: Callable[[Params], TrainState]
    freeze: Callable[[Params], Params]
    score: Callable[[Params, PackedRows, Any], RowLogprobs]
    predicted: Callable[[Params, PackedRows], jax.Array]
    begin: Callable[[], Carry]
    accumulate: Callable[[Any, Params, Carry, Batch], Carry]
    apply: Callable[[TrainState, Carry], tuple[TrainState, Carry, Report]]
    policy_params: Callable[..., Params]
    shardings: TrainState
    params_sharding: Params

    @property
    def config(self) -> LearnerConfig:
        """Optimiser and rows."""
        return self.spec.config

    def logprobs(
        self, params: Params, rows: PackedRows, supports: Array | None = None
    ) -> RowLogprobs:
        """What any policy of this kind says of the learned tokens of rows.

        Args:
          params: full params.
          rows: a micro-batch [B, L].
          supports: bool [M, V] of `put_supports`, sets of ids that `rows.support`
            names: the logprob is that among them. A table of another size is another
            program, and the update's stays as it is. None: all ids.
        """
        return self.score(params, rows, supports)

    def abstract_state(self) -> TrainState:
        """The state's shapes, dtypes and shardings, as of checkpoints."""
        shapes = jax.eval_shape(self.init, self.spec.policy.abstract_params())
        return _placed(shapes, self.shardings)

    def abstract_params(self, dtype: Any = jnp.float32) -> Params:
        """The full params' shapes, dtypes and shardings."""
        shapes = self.spec.policy.abstract_params(dtype)
        return _placed(shapes, self.params_sharding)

    def abstract_rows(self, length: int) -> PackedRows:
        """A micro-batch of rows of `length` tokens, to lower the functions with."""
        return _abstract_rows((self.packing.rows, length), row_sharding(self.mesh))

    def abstract_supports(self, number: int) -> jax.ShapeDtypeStruct:
        """A table of so many supports, to lower the functions with."""
        shape, at = (number, self.spec.policy.config.vocab_size), replicated(self.mesh)
        return jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=at)

    def put_supports(self, supports: Array) -> jax.Array:
        """Places a table of supports, bool [M, V], whole on every device.

        Raises:
          InputError: the first is not of all V ids, or one has none.
        """
        table = check_supports(supports, self.spec.policy.config.vocab_size)
        at = replicated(self.mesh)
        return jax.make_array_from_callback(table.shape, at, table.__getitem__)

    def put(self, params: Params) -> Params:
        """Places full params on the mesh, dtypes as they are."""
        placed: Params = jax.device_put(params, self.params_sharding)
        return placed


def compile_learner(
    policy: Policy,
    objective: ObjectiveConfig | None = None,
    config: LearnerConfig | None = None,
    mesh: Mesh | None = None,
    *,
    temperature: float = 1.0,
) -> Learner:
    """The functions that train a policy, jitted with their shardings.

    Args:
      policy: without weights.
      objective: constants of the loss; None: negative log-likelihood.
      config: optimiser and rows.
      mesh: of `parallelism.make_mesh`; None: one device.
      temperature: that completions are sampled at.

    Raises:
      InputError: the temperature is not above 0, or the mesh cannot have the attention.
    """
    if temperature <= 0:
        raise InputError(
            f"rollouts at temperature {temperature} have no logprobs to learn from"
        )
    mesh = mesh or make_mesh()
    spec = LearnerSpec(policy, objective, config or LearnerConfig(), temperature, mesh)
    attention = row_attention(spec.config.attention, mesh)
    everywhere: Shardings = replicated(mesh)
    rows_at: Shardings = row_sharding(mesh)
    state_at, full_at = _state_shardings(spec, mesh, everywhere)
    frozen_at = {} if spec.config.lora is None else full_at
    shapes = _carry_shapes(spec)
    carry_at = Carry(
        state_at.params, *jax.tree.map(lambda _: everywhere, tuple(shapes[1:]))
    )
    ref_at = rows_at if objective is not None and objective.beta > 0 else None

    def of(function: Callable[..., T]) -> Callable[..., T]:
        return functools.partial(function, spec)

    def begin() -> Carry:
        zeros: Carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return zeros

    def apply_and_begin(
        state: TrainState, carry: Carry
    ) -> tuple[TrainState, Carry, Report]:
        new_state, report = learner.apply(spec, state, carry)
        return new_state, begin(), report

    return Learner(
        spec=spec,
        mesh=mesh,
        attention=describe(mesh, rows=attention),
        packing=spec.config.packing(row_shards(mesh)),
        init=jax.jit(of(learner.init), out_shardings=state_at),
        freeze=jax.jit(of(learner.freeze), out_shardings=frozen_at),
        score=jax.jit(
            of(learner.logprobs),
            in_shardings=(full_at, rows_at, everywhere),
            out_shardings=RowLogprobs(rows_at, rows_at, everywhere, everywhere),
        ),
        predicted=jax.jit(
            of(learner.predicted),
            in_shardings=(full_at, rows_at),
            out_shardings=rows_at,
        ),
        begin=jax.jit(begin, out_shardings=carry_at),
        accumulate=jax.jit(
            of(learner.accumulate),
            in_shardings=(
                *(state_at.params, frozen_at, carry_at),
                Batch(rows_at, rows_at, ref_at, everywhere, everywhere),
            ),
            out_shardings=carry_at,
            donate_argnums=2,
        ),
        apply=jax.jit(
            apply_and_begin,
            in_shardings=(state_at, carry_at),
            out_shardings=(state_at, carry_at, everywhere),
            donate_argnums=(0, 1),
        ),
        policy_params=jax.jit(
            of(learner.policy_params), static_argnums=2, out_shardings=full_at
        ),
        shardings=state_at,
        params_sharding=full_at,
    )


def _state_shardings(
    spec: LearnerSpec, mesh: Mesh, everywhere: Shardings
) -> tuple[TrainState, Params]:
    """Where a TrainState and the full params lie."""
    policy, adapters = spec.policy, spec.config.lora
    full_shapes = policy.abstract_params()
    full_at = param_shardings(mesh, policy.logical_axes(), full_shapes)
    shapes, trained_at = full_shapes, full_at
    if adapters is not None:
        shapes = lora.abstract_adapters(policy, adapters)
        axes = lora.adapter_axes(policy, adapters)
        trained_at = param_shardings(mesh, axes, shapes)
    opt_shapes = jax.eval_shape(make_optimizer(spec.config).init, shapes)
    opt_at = optimizer_shardings(opt_shapes, shapes, trained_at, everywhere)
    state_at = TrainState(
        step=everywhere,
        params=trained_at,
        opt_state=opt_at,
        skipped=everywhere,
        skipped_in_a_row=everywhere,
    )
    return state_at, full_at


def _carry_shapes(spec: LearnerSpec) -> Carry:
    """A carry, abstract."""
    full = spec.policy.abstract_params()
    frozen = {} if spec.config.lora is None else full
    trained = full
    if spec.config.lora is not None:
        trained = lora.abstract_adapters(spec.policy, spec.config.lora)
    rows = _abstract_rows((1, 2))
    real = rows.advantages
    beta = spec.objective is not None and spec.objective.beta > 0
    count: Any = jax.ShapeDtypeStruct((), jnp.float32)
    batch = Batch(rows, real, real if beta else None, count)
    reported = jax.eval_shape(
        functools.partial(learner.loss, spec), trained, frozen, batch
    )[1]
    return Carry(trained, *reported)


def _abstract_rows(shape: tuple[int, int], sharding: Any = None) -> PackedRows:
    integers = ("tokens", "positions", "reach", "support", "conversation")
    arrays: dict[str, Any] = {
        field.name: jax.ShapeDtypeStruct(
            shape,
            jnp.int32 if field.name in integers else jnp.float32,
            sharding=sharding,
        )
        for field in dataclasses.fields(PackedRows)
    }
    return PackedRows(**arrays)


def _placed(shapes: Any, shardings: T) -> T:
    """Abstract arrays with their shardings."""

    def placed(shape: jax.ShapeDtypeStruct, at: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=at)

    tree: T = jax.tree.map(placed, shapes, shardings)
    return tree
