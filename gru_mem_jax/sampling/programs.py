"""The engine's programs, compiled ahead of time for the few shapes that occur.

Engines of the same sizes share them: on the same devices the programs themselves, on
other devices what was compiled, loaded once more where it can be (see `rebinding`).
"""

import collections
import functools
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import DATA, FSDP
from gru_mem_jax.policy.cascade import Trunk
from gru_mem_jax.policy.functional import Cache, Policy
from gru_mem_jax.policy.kernels import (
    TRUE_LENGTHS,
    SamplerAttention,
    SamplerSizes,
    describe,
    sampler_attention,
)
from gru_mem_jax.sampling import constraints, sampler
from gru_mem_jax.sampling.cells import cells_shape
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.rebinding import Portable
from gru_mem_jax.sampling.shardings import sampler_shardings


class Programs:
    """Compiles each program of a pool of slots once, on abstract arguments.

    Args:
      policy, config, dtype: that decide the shapes.
      mesh: one tensor group; None: the default device.
      of_trunks: whether `config` is of a pool of trunks.

    Attributes:
      portable: what was compiled for any group of this size; engines share it.
      params: abstract sampling form, with shardings if there is a mesh.
      cache: the same of the cache.
      attention: what prefill and decode attend by, and why.
      trunks: the programs of the pool of trunks, if the slots hold tails.
    """

    def __init__(
        self,
        policy: Policy,
        config: EngineConfig,
        dtype: Any,
        mesh: Mesh | None = None,
        *,
        of_trunks: bool = False,
    ):
        if mesh is not None and mesh.shape[DATA] * mesh.shape[FSDP] > 1:
            raise InputError(
                f"an engine runs on one tensor group, a mesh of (1, 1, T) devices, not "
                f"on {tuple(mesh.shape.values())}: EnginePool has an engine for each"
            )
        self._policy = policy
        self._devices = None if mesh is None else list(mesh.devices.flat)
        self.portable = dict[tuple, Portable]()
        self._config = config.tail_pool
        self._mesh = mesh
        self._shardings = None
        self.attention = engine_attention(policy, config, dtype, mesh)
        self.trunks = None
        if config.trunks:
            pool = config.trunk_pool
            self.trunks = Programs(policy, pool, dtype, mesh, of_trunks=True)
        self.params = jax.eval_shape(
            lambda p: policy.sampling_params(p, dtype), policy.abstract_params()
        )
        size = (self._config.slots, self._config.max_length)
        self.cache = jax.eval_shape(lambda: policy.init_cache(*size, dtype))
        if mesh is not None:
            self._shardings = sampler_shardings(policy, mesh)
            self.params = jax.tree.map(_placed, self.params, self._shardings.params)
            self.cache = jax.tree.map(
                functools.partial(_placed, sharding=self._shardings.cache), self.cache
            )
        self._compiled: dict[tuple, Any] = {}
        self._lock = threading.Lock()  # engines in several threads share this
        self._compile_seconds = 0.0

    def lower_decode(self, attend: int, *tables: int) -> Any:
        """`trace_decode`, not compiled."""
        return self.trace_decode(attend, *tables).lower()

    def trace_decode(self, attend: int, *tables: int) -> Any:
        """(params, cache, rows, limits, trunk) -> (cache, results), traced.

        With `tables`, sizes of `constraints.table_shapes`, the arguments end with the
        rows' forms and tables of these sizes.
        """
        config, shardings = self._config, self._shardings
        function = functools.partial(
            sampler.decode,
            self._policy,
            config.decode_block,
            attend,
            shardings,
            attention=self.attention.decode.name,
            mesh=self._mesh,
        )
        rows = self._ints(config.slots, sampler.STOP_IDS + config.max_stop_ids)
        out = None if shardings is None else (shardings.cache, shardings.whole)
        trunk = self._trunk(config.slots, 1)
        arguments = [self.params, self.cache, rows, self._ints(2), trunk]
        if tables:
            arguments.append(self._ints(config.slots, constraints.FORM_WIDTH))
            arguments.append(self._tables(*tables))
        return jax.jit(function, donate_argnums=1, out_shardings=out).trace(*arguments)

    def lower_prefill(self, rows: int, length: int, attend: int) -> Any:
        """`trace_prefill`, not compiled."""
        return self.trace_prefill(rows, length, attend).lower()

    def trace_prefill(self, rows: int, length: int, attend: int) -> Any:
        """(params, cache, blocks, trunk) -> cache, traced."""
        function = functools.partial(
            sampler.prefill,
            self._policy,
            attend,
            attention=self.attention.prefill.name,
            mesh=self._mesh,
        )
        out = None if self._shardings is None else self._shardings.cache
        blocks, trunk = self._ints(rows, 2 + length), self._trunk(rows, length)
        arguments = (self.params, self.cache, blocks, trunk)
        return jax.jit(function, donate_argnums=1, out_shardings=out).trace(*arguments)

    def lower_copy(self, length: int) -> Any:
        """(cache, pairs, count) -> cache, not compiled."""
        function = functools.partial(sampler.copy_prefixes, length)
        out = None if self._shardings is None else self._shardings.cache
        arguments = (self.cache, self._ints(self._config.slots, 2), self._ints())
        return jax.jit(function, donate_argnums=0, out_shardings=out).lower(*arguments)

    def lower_read(self, length: int) -> Any:
        """(cache, slot) -> front, not compiled."""
        function = functools.partial(sampler.read_front, length)
        out = None if self._shardings is None else self._shardings.whole
        return jax.jit(function, out_shardings=out).lower(self.cache, self._ints())

    def lower_write(self, length: int) -> Any:
        """(cache, slot, front) -> cache, not compiled."""
        shardings, front = self._shardings, self._front(length)
        out = None if shardings is None else shardings.cache
        write = jax.jit(sampler.write_front, donate_argnums=0, out_shardings=out)
        return write.lower(self.cache, self._ints(), front)

    def decode(self, attend: int, *tables: int) -> Any:
        """Compiled `lower_decode`."""
        return self._get(self.lower_decode, attend, *tables)

    def prefill(self, rows: int, length: int, attend: int) -> Any:
        """Compiled `lower_prefill`."""
        return self._get(self.lower_prefill, rows, length, attend)

    def copy(self, length: int) -> Any:
        """Compiled `lower_copy`."""
        return self._get(self.lower_copy, length)

    def read(self, length: int) -> Any:
        """Compiled `lower_read`."""
        return self._get(self.lower_read, length)

    def write(self, length: int) -> Any:
        """Compiled `lower_write`."""
        return self._get(self.lower_write, length)

    def place(self, params: Any) -> Any:
        """Params in the programs' dtype and shardings; no copy if they are already."""

        def one(x, like):
            x = x.astype(like.dtype)
            return x if like.sharding is None else jax.device_put(x, like.sharding)

        return jax.tree.map(one, params, self.params)

    def replicate(self, arrays: Any) -> Any:
        """Arrays of the host, whole on each of the programs' devices."""
        sharding = None if self._shardings is None else self._shardings.whole
        return jax.device_put(arrays, sharding)

    @property
    def vocab(self) -> int:
        """Rows of the embedding."""
        return self._policy.config.vocab_size

    def new_cache(self) -> Cache:
        """An empty cache on its devices."""
        size = (self._config.slots, self._config.max_length)
        make = functools.partial(
            self._policy.init_cache, *size, jax.tree.leaves(self.cache)[0].dtype
        )
        if self._shardings is None:
            return make()
        return jax.jit(make, out_shardings=self._shardings.cache)()

    @property
    def attention_line(self) -> str:
        """What was chosen, and why."""
        return describe(self._mesh, sampler=self.attention)

    @property
    def decode_attends(self) -> tuple[int, ...]:
        """The sizes of `decode`: one, where the kernel reads true lengths."""
        if self.attention.decode.name in TRUE_LENGTHS:
            return (self._config.max_length,)
        return self._config.decode_attends

    @property
    def names(self) -> tuple[str, ...]:
        """The compiled programs, in order of compilation; those of trunks behind."""
        own = tuple(" ".join(map(str, key)) for key in list(self._compiled))
        theirs = () if self.trunks is None else self.trunks.names
        return (*own, *(f"trunk {name}" for name in theirs))

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling."""
        theirs = 0.0 if self.trunks is None else self.trunks.compile_seconds
        return self._compile_seconds + theirs

    def _get(self, lower: Any, *sizes: int) -> Any:
        key = (lower.__name__.removeprefix("lower_"), *sizes)
        program = self._compiled.get(key)
        if program is not None:
            return program
        with self._lock:
            if key not in self._compiled:
                start = time.perf_counter()
                self._compiled[key] = self._make(key, lower, sizes)
                self._compile_seconds += time.perf_counter() - start
            return self._compiled[key]

    def _make(self, key: tuple, lower: Any, sizes: tuple[int, ...]) -> Any:
        """Loads what was compiled for another group, or compiles."""
        if self._devices is None:
            return lower(*sizes).compile()
        portable = self.portable.get(key)
        program = None if portable is None else portable.on(self._devices)
        if program is None:
            program = lower(*sizes).compile()
            self.portable[key] = Portable(program, self._devices)
        return program

    def _ints(self, *shape: int) -> jax.ShapeDtypeStruct:
        sharding = None if self._shardings is None else self._shardings.whole
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)

    def _tables(self, *sizes: int) -> constraints.Tables:
        shapes = constraints.table_shapes(self.vocab, *sizes)
        if self._shardings is None:
            return shapes
        return jax.tree.map(lambda leaf: _placed(leaf, self._shardings.whole), shapes)

    def _front(self, length: int) -> jax.ShapeDtypeStruct:
        _, heads, _, dim = self.cache[0].keys.shape
        shape = (len(self.cache), 2, heads, length, dim)
        sharding = None if self._shardings is None else self._shardings.whole
        return jax.ShapeDtypeStruct(shape, self.cache[0].keys.dtype, sharding=sharding)

    def _trunk(self, rows: int, length: int) -> Trunk | None:
        if self.trunks is None:
            return None
        pool = self.trunks.cache
        entries, _, longest, _ = pool[0].keys.shape
        cells = self._ints(*cells_shape(rows, length, entries, longest))
        return Trunk(pool, self._ints(rows), cells, self._ints())


def engine_attention(
    policy: Policy, config: EngineConfig, dtype: Any, mesh: Mesh | None = None
) -> SamplerAttention:
    """What an engine of these sizes attends by, and why.

    Raises:
      InputError: EngineConfig.attention is not to be had.
    """
    pool = config.tail_pool
    sizes = SamplerSizes(
        slots=pool.slots,
        length=pool.max_length,
        dtype=jnp.dtype(dtype).name,
        trunks=config.trunks > 0,
    )
    return sampler_attention(config.attention, policy.config, sizes, mesh)


@functools.lru_cache(maxsize=64)
def programs(
    policy: Policy, config: EngineConfig, dtype: Any, mesh: Mesh | None = None
) -> Programs:
    """The programs that all engines of these sizes on this mesh share."""
    made = Programs(policy, config, dtype, mesh)
    if mesh is not None:
        shared = _portable(policy, config, dtype, mesh.size)
        made.portable = shared["slots"]
        if made.trunks is not None:
            made.trunks.portable = shared["trunks"]
    return made


@functools.lru_cache(maxsize=16)
def _portable(
    policy: Policy, config: EngineConfig, dtype: Any, devices: int
) -> dict[str, dict[tuple, Portable]]:
    """What was compiled for engines of these sizes on any group of so many devices."""
    return collections.defaultdict(dict)


def _placed(
    leaf: jax.ShapeDtypeStruct, sharding: NamedSharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
