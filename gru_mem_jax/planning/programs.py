"""The programs of a run, ready to be compiled for a topology."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import TENSOR, MeshConfig, make_mesh
from gru_mem_jax.planning.costs import mean_key_blocks
from gru_mem_jax.policy import splash
from gru_mem_jax.policy.cascade import KEY_BLOCK
from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.policy.kernels import TRUE_LENGTHS, page_length
from gru_mem_jax.policy.row_attention import block_size, whole_blocks
from gru_mem_jax.rl.compile import Learner, compile_learner
from gru_mem_jax.rl.learner import Batch
from gru_mem_jax.sampling import hand_over
from gru_mem_jax.sampling.config import EngineConfig, smallest_at_least
from gru_mem_jax.sampling.programs import Programs
from gru_mem_jax.train.config import TrainConfig

UPDATE, SCORE, APPLY = "update", "score", "apply"
PREFILL, PREFILL_TRUNK, DECODE, HAND_OVER = (
    "prefill",
    "prefill trunk",
    "decode",
    "hand-over",
)


class Program(NamedTuple):
    """A program of a run.

    Attributes:
      name: one of those above.
      trace: to `jax.stages.Traced`, for all devices that take part.
      devices: how many these are.
      tokens: of a call: of the rows of all devices, or steps of decoding.
      share: a call as it mostly is, with the rows of one device alone: the bytes of its
        products are a device's own; None: the program has no products to speak of.
      ways: devices that the products of `share` are split over.
      held: bytes on each device that are no argument of it and stay while it runs.
      loops, seen, read: as of `costs.program_cost`.
      key: what decides the program: equal ones need not be compiled twice.
    """

    name: str
    trace: Callable[[], Any]
    devices: int
    tokens: int
    share: Callable[[], Any] | None
    ways: int
    held: int
    loops: tuple[float, ...]
    seen: float
    read: float
    key: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPrograms:
    """All programs of a run on some devices.

    Attributes:
      programs: by name, in the order of a step.
      learner: of the whole mesh.
      sampler: of one engine.
      engine: its sizes.
      engines: how many there are.
      tensor: devices of each.
      host_devices: of the topology's first host, which an engine stays within.
      held: bytes on a device, of what outlives a program, by name.
    """

    programs: tuple[Program, ...]
    learner: Learner
    sampler: Programs
    engine: EngineConfig
    engines: int
    tensor: int
    host_devices: int
    held: dict[str, int]


def run_programs(
    config: TrainConfig,
    policy: Policy,
    engine: EngineConfig,
    devices: Sequence[Any],
    filled: int,
) -> RunPrograms:
    """The programs of a run of reinforcement learning.

    Args:
      config: of the run; dtypes are set.
      policy: without weights.
      engine: sizes of one engine, as the budgets lower them.
      devices: all of a topology.
      filled: tokens that a slot holds on average while it decodes.

    Raises:
      InputError: the mesh or the engines do not go with the devices.
    """
    mesh = _whole_mesh(config.mesh, devices)
    learner = _learner(config, policy, mesh)
    tensor = engine.tensor or 1
    groups = hand_over.group_mesh(mesh, tensor)
    # The last: without a slice, libtpu fails on groups that have its first device.
    group = Mesh(groups.devices[-1:], groups.axis_names)
    dtype = jnp.dtype(engine.dtype)
    sampler = Programs(policy, engine, dtype, group)
    held = _held(config, learner, sampler)
    made = [
        *_learning(config, policy, learner, devices, held, engine),
        *_sampling(engine, sampler, tensor, held, filled),
        _hand_over(policy, learner, tensor, dtype, held),
    ]
    return RunPrograms(
        programs=tuple(made),
        learner=learner,
        sampler=sampler,
        engine=engine,
        engines=len(devices) // tensor,
        tensor=tensor,
        host_devices=sum(d.process_index == devices[0].process_index for d in devices),
        held=held,
    )


def _whole_mesh(config: MeshConfig, devices: Sequence[Any]) -> Mesh:
    mesh = make_mesh(config, devices)
    if mesh.size != len(devices):
        sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
        raise InputError(
            f"the mesh ({sizes}) has {mesh.size} devices and the topology "
            f"{len(devices)}: set MeshConfig so that data x fsdp x tensor is "
            f"{len(devices)}"
        )
    return mesh


def _learner(config: TrainConfig, policy: Policy, mesh: Mesh) -> Learner:
    agent = config.agent
    temperature = 1.0 if agent is None else agent.sampling.temperature
    return compile_learner(
        policy, config.objective, config.learner, mesh, temperature=temperature
    )


def _held(config: TrainConfig, learner: Learner, sampler: Programs) -> dict[str, int]:
    state = learner.abstract_state()
    copy = device_bytes(learner.abstract_params(config.learner.dtype))
    held = {
        "params": device_bytes(state.params),
        "optimizer": device_bytes(state.opt_state),
        "sampler_params": device_bytes(sampler.params),
        "sampler_cache": device_bytes(sampler.cache),
    }
    if sampler.trunks is not None:
        held["sampler_trunks"] = device_bytes(sampler.trunks.cache)
    if config.learner.lora is not None:
        held["frozen"] = copy
    if config.objective.beta > 0 and config.learner.lora is None:
        held["reference"] = copy
    if config.rollouts.overlap:
        held["behaviour"] = device_bytes(learner.abstract_params())
    return held


def _besides(held: dict[str, int], *own: str) -> int:
    """Bytes of all but a program's own arguments."""
    return sum(size for name, size in held.items() if name not in own)


def _learning(
    config: TrainConfig,
    policy: Policy,
    learner: Learner,
    devices: Sequence[Any],
    held: dict[str, int],
    engine: EngineConfig,
) -> list[Program]:
    if not engine.resident:
        held = {k: v for k, v in held.items() if not k.startswith("sampler_")}
    settings, length = config.learner, config.learner.row_tokens
    tensor = learner.mesh.shape[TENSOR]
    alone = _learner(config, policy, make_mesh(MeshConfig(), devices[:1]))
    whole = whole_blocks(length)
    tile = splash.block_size(whole)
    attention = {
        "loops": (mean_key_blocks(whole, *block_size(length)),),
        "seen": mean_key_blocks(whole, tile, tile) / (whole // tile),
        "read": 1.0,
        "ways": tensor,
        "devices": learner.mesh.size,
        "tokens": learner.packing.rows * length,
    }
    several = settings.optimizer_steps_per_batch > 1 or config.rollouts.overlap
    beta = config.objective.beta > 0
    key = (policy, settings, config.objective, tuple(learner.mesh.shape.items()))

    def update(of: Learner) -> Any:
        rows, state = of.abstract_rows(length), of.abstract_state()
        frozen = {} if settings.lora is None else of.abstract_params(settings.dtype)
        real = rows.advantages
        count: Any = jax.ShapeDtypeStruct((), jnp.float32)
        batch = Batch(rows, real if several else None, real if beta else None, count)
        carry = jax.eval_shape(of.begin)
        return of.accumulate.trace(state.params, frozen, carry, batch)

    def score(of: Learner) -> Any:
        params = of.abstract_params(settings.dtype)
        return of.score.trace(params, of.abstract_rows(length), None)

    def apply() -> Any:
        return learner.apply.trace(
            learner.abstract_state(), jax.eval_shape(learner.begin)
        )

    made = []
    if several or beta:
        score_held = _besides(held, "reference" if beta else "params")
        made.append(
            Program(
                name=SCORE,
                trace=functools.partial(score, learner),
                share=functools.partial(score, alone),
                held=score_held,
                key=(SCORE, *key),
                **attention,
            )
        )
    made.append(
        Program(
            name=UPDATE,
            trace=functools.partial(update, learner),
            share=functools.partial(update, alone),
            held=_besides(held, "params", "frozen"),
            key=(UPDATE, several, *key),
            **attention,
        )
    )
    made.append(
        Program(
            name=APPLY,
            trace=apply,
            share=None,
            held=_besides(held, "params", "optimizer"),
            key=(APPLY, *key),
            **attention,
        )
    )
    return made


def _sampling(
    engine: EngineConfig,
    sampler: Programs,
    tensor: int,
    held: dict[str, int],
    filled: int,
) -> list[Program]:
    """Of one engine: its largest prefill of each pool, and decode at full length."""
    tail = engine.tail_pool
    # Blocks of the trunks' keys that a full engine reads, its rows evenly on trunks.
    blocks = math.ceil(engine.pool_lengths[0] / KEY_BLOCK)
    cells = min(engine.trunks, engine.slots) * blocks
    shared = {"devices": tensor, "ways": tensor, "seen": 0.5}
    true_lengths = sampler.attention.decode.name in TRUE_LENGTHS
    if true_lengths:  # then there are no trunks, and a kernel reads pages
        cells = math.ceil(filled / (page_length(tail.max_length) or tail.max_length))

    def program(
        name: str,
        trace: Callable[..., Any],
        sizes: tuple[int, ...],
        tokens: int,
        own: str,
        *loops: float,
        usual: tuple[int, ...] | None = None,
        read: float = 1.0,
    ) -> Program:
        arguments = ["sampler_params", own]
        if engine.trunks and own == "sampler_cache":
            arguments.append("sampler_trunks")
        return Program(
            name=name,
            trace=functools.partial(trace, *sizes),
            tokens=tokens,
            share=functools.partial(trace, *(usual or sizes)),
            held=_besides(held, *arguments),
            loops=loops,
            read=read,
            key=(name, repr(sampler.params), engine, tensor),
            **shared,
        )

    made = []
    if sampler.trunks is not None:
        sizes = _largest_prefill(engine.trunk_pool)
        trace, tokens = sampler.trunks.trace_prefill, sizes[0] * sizes[1]
        made.append(program(PREFILL_TRUNK, trace, sizes, tokens, "sampler_trunks"))
    sizes = _largest_prefill(tail)
    made.append(
        program(
            *(PREFILL, sampler.trace_prefill, sizes, sizes[0] * sizes[1]),
            *("sampler_cache", float(sizes[0] * blocks)),
        )
    )
    made.append(
        program(
            *(DECODE, sampler.trace_decode, tail.decode_attends[-1:]),
            *(engine.decode_block, "sampler_cache"),
            *(float(engine.decode_block), float(cells)),
            usual=None
            if true_lengths
            else (smallest_at_least(tail.decode_attends, filled),),
            read=filled / tail.max_length if true_lengths else 1.0,
        )
    )
    return made


def _largest_prefill(engine: EngineConfig) -> tuple[int, int, int]:
    """(rows, block length, attend) with most tokens, and of those the longest reads."""
    shapes = engine.prefill_shapes(engine.max_length)
    return max(shapes, key=lambda s: (s[0] * s[1], s[2]))


def _hand_over(
    policy: Policy, learner: Learner, tensor: int, dtype: Any, held: dict[str, int]
) -> Program:
    """The learner's params to the form and places of the engines', in one program."""
    groups = hand_over.group_mesh(learner.mesh, tensor)
    function = hand_over.program(policy, dtype, learner.mesh, groups)
    return Program(
        name=HAND_OVER,
        trace=lambda: function.trace(learner.abstract_params()),
        devices=learner.mesh.size,
        tokens=0,
        share=None,
        ways=1,
        held=_besides(held, "params", "sampler_params"),
        loops=(),
        seen=1.0,
        read=1.0,
        key=(HAND_OVER, policy, tuple(learner.mesh.shape.items()), tensor, dtype),
    )


def device_bytes(tree: Any) -> int:
    """Bytes on one device of abstract arrays with shardings."""

    def size(leaf: Any) -> int:
        shape = leaf.shape
        if leaf.sharding is not None:
            shape = leaf.sharding.shard_shape(shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))
