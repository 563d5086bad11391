"""Attention to a trunk that rows share and to each row's own keys: a cascade.

The keys of a trunk (the leading tokens that several rows have in common) are stored
once, in a pool. Both parts are softmax attention over some of the keys; they are merged
by their log-sum-exp, which is exact (Hydragen, arXiv 2402.05099; the online softmax is
FlashAttention's, arXiv 2205.14135).

The pool is read in *cells*: a block of a trunk's keys, and up to M rows that see it.
The host lists them, so that a block is read once for up to M rows, and nothing is read
of trunks that no row sees. One program serves any number of cells.

Dimensions: B rows, L queries, Q query heads, K key heads, H head dimension, R trunks of
at most T tokens, N cells.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_mem_jax.policy.attention import visible
from gru_mem_jax.policy.key_values import KeyValues

KEY_BLOCK = 512  # keys of a cell
_QUERY_BLOCK = 128  # queries whose scores over the own keys are computed together
# Leading columns of the cells' array.
ENTRY, FIRST = 0, 1
MEMBERS = 2


class Trunk(NamedTuple):
    """What rows see before their own keys.

    Attributes:
      pool: for each layer, KeyValues of [R, K, T, H].
      lengths: int32[B], tokens of each row's trunk; 0: it has none.
      cells: int32[N, 2 + M]: entry of the pool, position of the block's first key, then
        rows; B or more is padding.
      count: int32[], how many cells there are.
    """

    pool: tuple[KeyValues, ...]
    lengths: jax.Array
    cells: jax.Array
    count: jax.Array


class _Part(NamedTuple):
    """Softmax attention over a part of the keys.

    Attributes:
      top: float32 [..., M], the largest score.
      total: float32 [..., M], sum of exp(score - top).
      out: float32 [..., M, H], the values weighted by exp(score - top).
    """

    top: jax.Array
    total: jax.Array
    out: jax.Array

    def joined(self, other: "_Part") -> "_Part":
        """Attention over both parts."""
        top = jnp.maximum(self.top, other.top)
        mine, theirs = jnp.exp(self.top - top), jnp.exp(other.top - top)
        return _Part(
            top,
            self.total * mine + other.total * theirs,
            self.out * mine[..., None] + other.out * theirs[..., None],
        )


def cascade(
    query: jax.Array,
    own: KeyValues,
    positions: jax.Array,
    own_positions: jax.Array,
    trunk: Trunk,
    pool: KeyValues,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    keys_are_queries: bool = False,
) -> jax.Array:
    """Attends to the trunk and to the row's own keys; float32 inside.

    A query that sees nothing (padding) gets finite nonsense, never NaN.

    Args:
      query: [B, L, Q, H].
      own: the row's own keys and values, [B, K, C, H].
      positions: int32 [B, L], of the queries, counted from the trunk's end; padding is
        negative.
      own_positions: int32 [B, C], the same of the own keys.
      trunk: the rows' trunks.
      pool: of this layer, [R, K, T, H].
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None.
      window: how many positions back a query sees, its own included; None: all.
      keys_are_queries: own key i belongs to query i.

    Returns:
      [B, L, Q * H] in the dtype of `query`.
    """
    rows, length, heads, dim = query.shape
    kv_heads = pool.keys.shape[1]
    group = heads // kv_heads
    settings = {"scale": scale, "softcap": softcap, "group": group}
    # [B, K, G, L, H]: the queries of a key head are rows of one matrix product.
    query = query.reshape(rows, length, kv_heads, group, dim).transpose(0, 2, 3, 1, 4)
    shared = _trunk_part(query, positions, trunk, pool, window, settings)
    blocks = []
    for start in range(0, length, _QUERY_BLOCK):
        end = min(start + _QUERY_BLOCK, length)
        last = end if keys_are_queries else own.length
        mask = visible(positions[:, start:end], own_positions[:, :last], window)
        part = _attention(
            query[:, :, :, start:end].reshape(rows, kv_heads, -1, dim),
            KeyValues(own.keys[:, :, :last], own.values[:, :, :last]),
            mask[:, None],
            **settings,
        )
        before = jax.tree.map(
            lambda x, s=start, e=end: x[:, :, :, s:e].reshape(
                rows, kv_heads, -1, *x.shape[4:]
            ),
            shared,
        )
        part = before.joined(part)
        out = part.out / jnp.maximum(part.total, jnp.finfo(jnp.float32).tiny)[..., None]
        blocks.append(out.reshape(rows, kv_heads, group, -1, dim))
    out = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)
    out = out.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads * dim)
    return out.astype(query.dtype)


def _trunk_part(
    query: jax.Array,
    positions: jax.Array,
    trunk: Trunk,
    pool: KeyValues,
    window: int | None,
    settings: dict[str, Any],
) -> _Part:
    """Attention of queries [B, K, G, L, H] to the trunks, [B, K, G, L] of each."""
    rows, kv_heads, group, length, dim = query.shape
    size = min(KEY_BLOCK, pool.length)
    head_first = query.swapaxes(0, 1).reshape(kv_heads, rows, group * length, dim)

    def block(x, entry, start):
        part = jax.lax.dynamic_slice(
            x, (entry, 0, start, 0), (1, kv_heads, size, x.shape[3])
        )
        return part[0]

    def cell(i, state: _Part) -> _Part:
        entry, first = trunk.cells[i, ENTRY], trunk.cells[i, FIRST]
        members = trunk.cells[i, MEMBERS:]
        # The last block of a trunk begins earlier where the pool would end before it;
        # keys before `first` belong to the block before.
        start = jnp.minimum(first, pool.length - size)
        keys_at = (start + jnp.arange(size, dtype=jnp.int32))[None]
        lengths = trunk.lengths.at[members].get(mode="clip")[:, None]
        at = positions.at[members].get(mode="clip") + lengths
        keys_at = jnp.where((keys_at >= first) & (keys_at < lengths), keys_at, -1)
        mask = visible(at, keys_at, window)
        chosen = head_first.at[:, members].get(mode="clip")
        part = _attention(
            chosen.reshape(kv_heads, -1, dim),
            KeyValues(block(pool.keys, entry, start), block(pool.values, entry, start)),
            # [M, L, keys] for each query head of a key head, [1, M * G * L, keys].
            jnp.broadcast_to(
                mask[:, None], (len(members), group, length, size)
            ).reshape(1, -1, size),
            **(settings | {"group": 1}),
        )
        part = jax.tree.map(
            lambda x: x.reshape(kv_heads, len(members), group * length, *x.shape[2:]),
            part,
        )
        held = jax.tree.map(lambda x: x.at[:, members].get(mode="clip"), state)
        return jax.tree.map(
            lambda x, new: x.at[:, members].set(new, mode="drop"),
            state,
            held.joined(part),
        )

    shape = (kv_heads, rows, group * length)
    empty = _Part(
        jnp.full(shape, jnp.finfo(jnp.float32).min),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros((*shape, dim), jnp.float32),
    )
    state = jax.lax.fori_loop(0, trunk.count, cell, empty)
    return jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(rows, kv_heads, group, length, *x.shape[3:]),
        state,
    )


def _attention(
    query: jax.Array,
    seen: KeyValues,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None,
    group: int,
) -> _Part:
    """Queries [..., M, H] over keys and values [..., C, H], before the division.

    `mask` is bool [..., M / group, C], repeated for the query heads of a key head.
    """
    float32 = jnp.float32
    if query.shape[-2] <= group:
        # As in `attention`: with the keys on the left it takes half the time on CPU.
        scores = jnp.einsum(
            "...ch,...mh->...cm", seen.keys, query, preferred_element_type=float32
        )
        scores = jax.lax.optimization_barrier(scores).swapaxes(-1, -2)
    else:
        scores = jnp.einsum(
            "...mh,...ch->...mc", query, seen.keys, preferred_element_type=float32
        )
    scores = scores * scale
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    mask = jnp.tile(mask, (1,) * (mask.ndim - 2) + (group, 1))
    scores = jnp.where(mask, scores, jnp.finfo(float32).min)
    top = scores.max(-1)
    # Where nothing is seen every score is the least: the mask makes the weights 0.
    weights = jnp.where(mask, jnp.exp(scores - top[..., None]), 0.0)
    out = jnp.einsum(
        "...mc,...ch->...mh",
        weights.astype(seen.values.dtype),
        seen.values,
        preferred_element_type=float32,
    )
    return _Part(top, weights.sum(-1), out)
