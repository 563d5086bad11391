"""The compiled programs of the engine: read prompts, copy prefixes, decode.

Three kinds, each a pure function that takes and returns the (donated) cache of a pool
of slots; where the slots hold only tails, it reads the pool of trunks as well:

* `prefill` writes keys and values of prompt blocks. It computes no logits: the last
  token of a prompt is left to the decode loop, where every draw is made.
* `copy_prefixes` copies the front of a slot to another slot. (`read_front` and
  `write_front` do so to and from the host.)
* `decode` feeds each row its last token and draws the next one, until rows end:
  `cond` / `step` / `finish` over one state record, without the host.

`programs` compiles them. Integers and floats of a call are passed in one int32 array
(floats as their bits): for small models transfers cost more than arithmetic.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gru_mem_jax.policy.cascade import Trunk
from gru_mem_jax.policy.functional import Cache, Policy
from gru_mem_jax.policy.kernels import BLOCKS
from gru_mem_jax.sampling import constraints
from gru_mem_jax.sampling.draw import draw

# Columns of the int32[S, 8 + M] array that describes the rows of a decode block.
TOKEN, POSITION, BUDGET, SEED_HIGH, SEED_LOW, TOP_K, TEMPERATURE, TOP_P = range(8)
STOP_IDS = 8

# Rows of the int32 array that a decode block returns, before 3 x [T, S] of tokens, and
# behind these the rows' states and what is left of their segments' budgets.
COUNT, STOPPED, STEPS = range(3)
HEADER = 3


class DecodeState(NamedTuple):
    """The state of the decode loop.

    Attributes:
      cache: KeyValues of [S, K, C, H] for each layer.
      tokens: int32[S], the token to feed next.
      positions: int32[S], its position; -1: the row is idle or has ended.
      budgets: int32[S], tokens that the row may still draw.
      counts: int32[S], tokens that the row has drawn in this block.
      stopped: bool[S], the row drew a stop id.
      step: int32[], steps done.
      form: of the rows, if any is constrained; else None.
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
    form: constraints.Form | None
    ids: jax.Array
    logprobs: jax.Array
    sampling_logprobs: jax.Array


def decode(
    policy: Policy,
    block: int,
    attend: int,
    shardings,
    params,
    cache,
    rows,
    limits,
    trunk: Trunk | None = None,
    forms=None,
    tables: constraints.Tables | None = None,
    *,
    attention: str = BLOCKS,
    mesh: Mesh | None = None,
):
    """Draws up to `block` tokens for every row.

    Args:
      policy: the policy.
      block: T, static.
      attend: static, more than every index of the cache that is reached; all of them
        where `attention` reads true lengths.
      shardings: static, of `sampler_shardings`; None on one device.
      params: sampling form.
      cache: donated.
      rows: int32[S, 8 + M], columns as named above; unused stop ids are -1, and idle
        rows have position -1.
      limits: int32[2]: most steps (<= T), and the number of ended rows that ends the
        block.
      trunk: of the rows, if the slots hold tails.
      forms: int32[S, 6], see `constraints`; None if all rows are free.
      tables: of the grammars of constrained rows.
      attention, mesh: static, as in `Policy.extend`.

    Returns:
      The cache and int32[3 + 3 T, S]: counts, stopped, steps; then ids, logprobs and
      sampling logprobs, [T, S] each. With forms three rows more: state and tokens left.
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
            trunk=trunk,
            attention=attention,
            mesh=mesh,
        )
        logits = policy.logits(params, hidden[:, 0])
        if shardings is not None:
            # The head stays split: what is gathered is [S, V], once, for the draw.
            logits = jax.lax.with_sharding_constraint(logits, shardings.logits)
            logits = jax.lax.with_sharding_constraint(logits, shardings.whole)

        def pick(logits):
            return draw(logits, seeds, state.positions + 1, *settings)

        if tables is None:
            drawn, form = pick(logits), None
        else:
            drawn, form = constraints.constrained_draw(
                tables, state.form, active, logits, pick
            )
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
            form=form,
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
        parts = [header, state.ids]
        parts += [bits(state.logprobs), bits(state.sampling_logprobs)]
        if state.form is not None:
            parts += [state.form.states[None], state.form.left.T]
        return state.cache, jnp.concatenate(parts)

    start = DecodeState(
        cache=cache,
        tokens=rows[:, TOKEN],
        positions=rows[:, POSITION],
        budgets=rows[:, BUDGET],
        counts=jnp.zeros((slots,), jnp.int32),
        stopped=jnp.zeros((slots,), bool),
        step=jnp.int32(0),
        form=None if tables is None else constraints.form(forms),
        ids=jnp.zeros((block, slots), jnp.int32),
        logprobs=jnp.zeros((block, slots), jnp.float32),
        sampling_logprobs=jnp.zeros((block, slots), jnp.float32),
    )
    return finish(jax.lax.while_loop(cond, step, start))


def prefill(
    policy: Policy,
    attend: int,
    params,
    cache,
    blocks,
    trunk: Trunk | None = None,
    *,
    attention: str = BLOCKS,
    mesh: Mesh | None = None,
):
    """Writes keys and values of blocks of prompts.

    Args:
      policy: the policy.
      attend: static, more than every index of the cache in `blocks`; 0 if all blocks
        start at index 0.
      params: sampling form.
      cache: donated.
      blocks: int32[R, 2 + L]: slot, first index, then tokens; -1 is padding, on the
        right. A slot may have several blocks here: all keys of a layer are written
        before any is read.
      trunk: of the rows, if the slots hold tails.
      attention, mesh: static, as in `Policy.extend`.

    Returns:
      The cache.
    """
    slots, starts, tokens = blocks[:, 0], blocks[:, 1:2], blocks[:, 2:]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    before = 0 if trunk is None else trunk.lengths[:, None]
    positions = jnp.where(tokens >= 0, starts + index + before, -1)
    _, cache = policy.extend(
        params,
        cache,
        jnp.maximum(tokens, 0),
        positions,
        slots,
        attend=attend or tokens.shape[1],
        fresh=attend == 0,
        trunk=trunk,
        attention=attention,
        mesh=mesh,
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
        return tuple(layer.copied(source, target, length) for layer in cache)

    return jax.lax.fori_loop(0, count, copy, cache)


def read_front(length: int, cache, slot):
    """The first `length` (static) positions of a slot, [N, 2, K, length, H]."""
    return jnp.stack([layer.read(slot, length) for layer in cache])


def write_front(cache, slot, front):
    """The (donated) cache with `front` [N, 2, K, L, H] as the first L of a slot."""
    return tuple(layer.written(slot, new) for layer, new in zip(cache, front))
