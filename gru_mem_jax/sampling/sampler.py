"""The compiled programs of the engine: read prompts, copy prefixes, decode.

Three kinds, each a pure function that takes and returns the (donated) cache:

* `prefill` writes keys and values of prompt blocks. It computes no logits: the last
  token of a prompt is left to the decode loop, where every draw is made.
* `copy_prefixes` copies the front of a slot to another slot.
* `decode` feeds each row its last token and draws the next one, until rows end:
  `cond` / `step` / `finish` over one state record, without the host.

`Programs` compiles them ahead of time for the few shapes that `EngineConfig` allows; no
other shape occurs. Integers and floats of a call are passed in one int32 array (floats
as their bits): for small models transfers cost more than arithmetic.
"""

import functools
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.draw import draw
from gru_mem_jax.sampling.shardings import sampler_shardings

# Columns of the int32[S, 8 + M] array that describes the rows of a decode block.
TOKEN, POSITION, BUDGET, SEED_HIGH, SEED_LOW, TOP_K, TEMPERATURE, TOP_P = range(8)
STOP_IDS = 8

# Rows of the int32 array that a decode block returns, before 3 x [T, S] of tokens.
COUNT, STOPPED, STEPS = range(3)
HEADER = 3

Cache = Any


class DecodeState(NamedTuple):
    """The state of the decode loop.

    Attributes:
      cache: tuple over layers of (key, value), [S, K, C, H] each.
      tokens: int32[S], the token to feed next.
      positions: int32[S], its position; -1: the row is idle or has ended.
      budgets: int32[S], tokens that the row may still draw.
      counts: int32[S], tokens that the row has drawn in this block.
      stopped: bool[S], the row drew a stop id.
      step: int32[], steps done.
      ids: int32[T, S], drawn tokens; valid where t < counts.
      logprobs: float32[T, S].
      sampling_logprobs: float32[T, S].
    """

    cache: Cache
    tokens: jax.Array
    positions: jax.Array
    budgets: jax.Array
    counts: jax.Array
    stopped: jax.Array
    step: jax.Array
    ids: jax.Array
    logprobs: jax.Array
    sampling_logprobs: jax.Array


def decode(
    policy: Policy,
    block: int,
    attend: int,
    logits_sharding,
    params,
    cache,
    rows,
    limits,
):
    """Draws up to `block` tokens for every row.

    Args:
      policy: the policy.
      block: T, static.
      attend: static, more than every position that is reached.
      logits_sharding: static, of [S, V]; None on one device.
      params: sampling form.
      cache: donated.
      rows: int32[S, 8 + M], columns as named above; unused stop ids are -1, and idle
        rows have position -1.
      limits: int32[2]: most steps (<= T), and the number of ended rows that ends the
        block.

    Returns:
      The cache and int32[3 + 3 T, S]: counts, stopped, steps; then ids, logprobs and
      sampling logprobs, [T, S] each.
    """
    slots = rows.shape[0]
    seeds = jax.lax.bitcast_convert_type(rows[:, SEED_HIGH : SEED_LOW + 1], jnp.uint32)
    floats = jax.lax.bitcast_convert_type(rows[:, TEMPERATURE : TOP_P + 1], jnp.float32)
    settings = (floats[:, 0], rows[:, TOP_K], floats[:, 1])
    stop_ids = rows[:, STOP_IDS:]
    running = (rows[:, POSITION] >= 0).sum()

    def cond(state: DecodeState):
        left = (state.positions >= 0).sum()
        ended = running - left
        return (state.step < limits[0]) & (left > 0) & (ended < limits[1])

    def step(state: DecodeState):
        active = state.positions >= 0
        hidden, cache = policy.extend(
            params,
            state.cache,
            state.tokens[:, None],
            state.positions[:, None],
            None,
            attend=attend,
        )
        logits = policy.logits(params, hidden[:, 0])
        if logits_sharding is not None:
            logits = jax.lax.with_sharding_constraint(logits, logits_sharding)
        drawn = draw(logits, seeds, state.positions + 1, *settings)
        stop = active & (drawn.tokens[:, None] == stop_ids).any(-1)
        going = active & ~stop & (state.budgets > 1)
        put = functools.partial(
            jax.lax.dynamic_update_index_in_dim, index=state.step, axis=0
        )
        return DecodeState(
            cache=cache,
            tokens=jnp.where(going, drawn.tokens, 0),
            positions=jnp.where(going, state.positions + 1, -1),
            budgets=state.budgets - 1,
            counts=state.counts + active,
            stopped=state.stopped | stop,
            step=state.step + 1,
            ids=put(state.ids, drawn.tokens),
            logprobs=put(state.logprobs, drawn.logprobs),
            sampling_logprobs=put(state.sampling_logprobs, drawn.sampling_logprobs),
        )

    def finish(state: DecodeState):
        def bits(x):
            return jax.lax.bitcast_convert_type(x, jnp.int32)

        header = jnp.stack(
            [
                state.counts,
                state.stopped.astype(jnp.int32),
                jnp.full((slots,), state.step),
            ]
        )
        tokens = (state.ids, bits(state.logprobs), bits(state.sampling_logprobs))
        return state.cache, jnp.concatenate([header, *tokens])

    start = DecodeState(
        cache=cache,
        tokens=rows[:, TOKEN],
        positions=rows[:, POSITION],
        budgets=rows[:, BUDGET],
        counts=jnp.zeros((slots,), jnp.int32),
        stopped=jnp.zeros((slots,), bool),
        step=jnp.int32(0),
        ids=jnp.zeros((block, slots), jnp.int32),
        logprobs=jnp.zeros((block, slots), jnp.float32),
        sampling_logprobs=jnp.zeros((block, slots), jnp.float32),
    )
    return finish(jax.lax.while_loop(cond, step, start))


def prefill(policy: Policy, attend: int, params, cache, blocks):
    """Writes keys and values of blocks of prompts.

    Args:
      policy: the policy.
      attend: static, more than every position in `blocks`; 0 if all blocks start at
        position 0.
      params: sampling form.
      cache: donated.
      blocks: int32[R, 2 + L]: slot, first position, then tokens; -1 is padding, on the
        right. A slot may have several blocks here: all keys of a layer are written
        before any is read.

    Returns:
      The cache.
    """
    slots, starts, tokens = blocks[:, 0], blocks[:, 1:2], blocks[:, 2:]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    positions = jnp.where(tokens >= 0, starts + index, -1)
    _, cache = policy.extend(
        params,
        cache,
        jnp.maximum(tokens, 0),
        positions,
        slots,
        attend=attend or tokens.shape[1],
        fresh=attend == 0,
    )
    return cache


def copy_prefixes(length: int, cache, pairs, count):
    """Copies the first `length` positions of slots, one pair after the other.

    Args:
      length: static.
      cache: donated.
      pairs: int32[S, 2] of (from, to).
      count: int32[], how many pairs there are.

    Returns:
      The cache.
    """

    def copy(i, cache):
        source, target = pairs[i, 0], pairs[i, 1]

        def one(x):
            size = (1, x.shape[1], length, x.shape[3])
            front = jax.lax.dynamic_slice(x, (source, 0, 0, 0), size)
            return jax.lax.dynamic_update_slice(x, front, (target, 0, 0, 0))

        return jax.tree.map(one, cache)

    return jax.lax.fori_loop(0, count, copy, cache)


class Programs:
    """Compiles each program once, on abstract arguments.

    Attributes:
      params: abstract sampling form, with shardings if there is a mesh.
      cache: the same of the cache.
      compile_seconds: time spent compiling.
    """

    def __init__(
        self, policy: Policy, config: EngineConfig, dtype: Any, mesh: Mesh | None = None
    ):
        self._policy = policy
        self._config = config
        self._shardings = None
        self.params = jax.eval_shape(
            lambda p: policy.sampling_params(p, dtype), policy.abstract_params()
        )
        self.cache = jax.eval_shape(
            lambda: policy.init_cache(config.slots, config.max_length, dtype)
        )
        if mesh is not None:
            self._shardings = sampler_shardings(policy, mesh, config.slots)
            self.params = jax.tree.map(_placed, self.params, self._shardings.params)
            self.cache = jax.tree.map(
                functools.partial(_placed, sharding=self._shardings.cache), self.cache
            )
        self._compiled: dict[tuple, Any] = {}
        self._lock = threading.Lock()  # engines in several threads share this
        self.compile_seconds = 0.0

    def lower_decode(self, attend: int) -> Any:
        """(params, cache, rows, limits) -> (cache, results), before compilation."""
        config, shardings = self._config, self._shardings
        function = functools.partial(
            decode,
            self._policy,
            config.decode_block,
            attend,
            None if shardings is None else shardings.logits,
        )
        rows = self._ints(config.slots, STOP_IDS + config.max_stop_ids)
        out = None if shardings is None else (shardings.cache, shardings.whole)
        arguments = (self.params, self.cache, rows, self._ints(2))
        return jax.jit(function, donate_argnums=1, out_shardings=out).lower(*arguments)

    def lower_prefill(self, rows: int, length: int, attend: int) -> Any:
        """(params, cache, blocks) -> cache, before compilation."""
        function = functools.partial(prefill, self._policy, attend)
        out = None if self._shardings is None else self._shardings.cache
        arguments = (self.params, self.cache, self._ints(rows, 2 + length))
        return jax.jit(function, donate_argnums=1, out_shardings=out).lower(*arguments)

    def lower_copy(self, length: int) -> Any:
        """(cache, pairs, count) -> cache, before compilation."""
        function = functools.partial(copy_prefixes, length)
        out = None if self._shardings is None else self._shardings.cache
        arguments = (self.cache, self._ints(self._config.slots, 2), self._ints())
        return jax.jit(function, donate_argnums=0, out_shardings=out).lower(*arguments)

    def decode(self, attend: int) -> Any:
        """Compiled `lower_decode`."""
        return self._get(self.lower_decode, attend)

    def prefill(self, rows: int, length: int, attend: int) -> Any:
        """Compiled `lower_prefill`."""
        return self._get(self.lower_prefill, rows, length, attend)

    def copy(self, length: int) -> Any:
        """Compiled `lower_copy`."""
        return self._get(self.lower_copy, length)

    def place(self, params: Any) -> Any:
        """Params in the programs' dtype and shardings; no copy if they are already."""

        def one(x, like):
            x = x.astype(like.dtype)
            return x if like.sharding is None else jax.device_put(x, like.sharding)

        return jax.tree.map(one, params, self.params)

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
    def names(self) -> tuple[str, ...]:
        """The compiled programs, in order of compilation."""
        return tuple(" ".join(map(str, key)) for key in list(self._compiled))

    def _get(self, lower: Any, *sizes: int) -> Any:
        key = (lower.__name__.removeprefix("lower_"), *sizes)
        program = self._compiled.get(key)
        if program is not None:
            return program
        with self._lock:
            if key not in self._compiled:
                start = time.perf_counter()
                self._compiled[key] = lower(*sizes).compile()
                self.compile_seconds += time.perf_counter() - start
            return self._compiled[key]

    def _ints(self, *shape: int) -> jax.ShapeDtypeStruct:
        sharding = None if self._shardings is None else self._shardings.whole
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)


@functools.lru_cache(maxsize=16)
def programs(
    policy: Policy, config: EngineConfig, dtype: Any, mesh: Mesh | None = None
) -> Programs:
    """The programs that all engines of these sizes share."""
    return Programs(policy, config, dtype, mesh)


def _placed(
    leaf: jax.ShapeDtypeStruct, sharding: NamedSharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
