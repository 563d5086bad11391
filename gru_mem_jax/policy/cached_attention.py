"""Attention of new tokens to a cache: by `blocks`, or by a kernel.

Kernels for decoding (one new token a slot) read true lengths: of each slot what it
holds, and no more, so that one program serves all. They see the cache [S, K, C, H] as
S * K sequences of one key head, whose query heads are those that share it: no key is
moved or copied. On a mesh each device attends in its own slots and heads. Which kernel
is taken, and when none is: `policy.kernels`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention
from jax.sharding import Mesh, PartitionSpec

from gru_mem_jax.policy.attention import attend_in_blocks
from gru_mem_jax.policy.cascade import Trunk, cascade
from gru_mem_jax.policy.kernels import (
    CUDNN,
    PAGED,
    SPLASH,
    heads_axis,
    page_length,
    rows_axes,
)
from gru_mem_jax.policy.key_values import KeyValues
from gru_mem_jax.policy.splash_prefill import splash_prefill


def attend_to_cache(
    query: jax.Array,
    new: KeyValues,
    cache: KeyValues,
    positions: jax.Array,
    slots: jax.Array | None,
    *,
    attend: int,
    fresh: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
    trunk: tuple[Trunk, KeyValues] | None = None,
    attention: str,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Attention of new tokens to what their slots hold; see `Policy.extend`.

    Args:
      query: [B, L, Q, H].
      new: keys and values of the same tokens, [B, L, K, H].
      cache: the layer's, [S, K, C, H], which holds them already.
      positions: int32 [B, L], index of each token in its slot; padding is negative.
      slots, attend, fresh, attention, mesh: as in `Policy.extend`.
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None.
      window: how many positions back a query sees, its own included; None: all.
      trunk: what the rows see before, and the pool of this layer.

    Returns:
      [B, L, Q * H] in the dtype of `query`.
    """
    scores = {"scale": scale, "softcap": softcap}
    if trunk is None and attention in (PAGED, CUDNN):
        if query.shape[1] == 1 and slots is None and not fresh:
            return decode_attention(
                attention, query, cache, positions, mesh=mesh, **scores
            )
        if fresh and attention == CUDNN:
            return fresh_attention(query, new, scale=scale, window=window, mesh=mesh)
    if fresh:
        seen, seen_at = KeyValues(*(x.swapaxes(1, 2) for x in new)), positions
    else:
        seen = cache.front(attend, slots)
        seen_at = jnp.arange(attend, dtype=jnp.int32)[None]
        seen_at = jnp.broadcast_to(seen_at, (len(seen.keys), attend))
    seen = KeyValues(*(x.astype(query.dtype) for x in seen))
    if trunk is None and attention == SPLASH:
        return _prefill_on_mesh(query, seen, positions, mesh, window=window, **scores)
    scores |= {"window": window, "keys_are_queries": fresh}
    if trunk is None:
        return attend_in_blocks(
            query, *seen, positions, seen_at, contiguous=fresh, **scores
        )
    return cascade(query, seen, positions, seen_at, *trunk, **scores)


def decode_attention(
    name: str,
    query: jax.Array,
    cache: KeyValues,
    positions: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    mesh: Mesh | None = None,
    implementation: str = "cudnn",
) -> jax.Array:
    """What `attend_in_blocks` gives for one query a slot, without a window.

    Args:
      name: "paged" or "cudnn".
      query: [S, 1, Q, H].
      cache: keys and values [S, K, C, H].
      positions: int32 [S, 1], index of each query in its slot; the keys up to it are
        seen. An idle slot has -1: it reads its first key, and its output is arbitrary.
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None; "cudnn" has none.
      mesh: that slots and heads are split over; None: one device.
      implementation: of `jax.nn.dot_product_attention`, for "cudnn".

    Returns:
      [S, 1, Q * H] in the dtype of `query`.
    """
    if name == PAGED:
        kernel = functools.partial(_paged, softcap=softcap)
    else:
        kernel = functools.partial(_cudnn, implementation=implementation)

    def local(query, keys, values, positions):
        slots, kv_heads, length, dim = keys.shape
        shape = (slots * kv_heads, query.shape[2] // kv_heads, dim)
        lengths = jnp.repeat(jnp.maximum(positions[:, 0], 0) + 1, kv_heads)
        keys, values = (x.reshape(-1, length, dim) for x in (keys, values))
        out = kernel(query.reshape(shape), keys, values, lengths, scale=scale)
        return out.reshape(slots, 1, -1).astype(query.dtype)

    if mesh is None or mesh.size == 1:
        return local(query, *cache, positions)
    slots = rows_axes(mesh, len(query))
    heads = heads_axis(mesh, query.shape[2], cache.keys.shape[1])
    of_query, of_cache = PartitionSpec(slots, None, heads), PartitionSpec(slots, heads)
    on_mesh = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(of_query, of_cache, of_cache, PartitionSpec(slots)),
        out_specs=of_query,
        check_vma=False,
    )
    return on_mesh(query, *cache, positions)


def _paged(query, keys, values, lengths, *, scale, softcap):
    """Queries [N, G, H] to keys and values [N, C, H], of which `lengths` are seen.

    By JAX's TPU kernel, for which the pages of a sequence may lie anywhere: here they
    lie one behind the other. It reads keys and values as bfloat16.
    """
    sequences, length, dim = keys.shape
    page = page_length(length)
    pages = length // page
    table = jnp.arange(sequences * pages, dtype=jnp.int32).reshape(sequences, pages)
    return paged_attention(
        # The kernel has no scale, and sums in the dtype of the query.
        query.astype(jnp.float32) * scale,
        keys.reshape(1, sequences * pages, page, dim),
        values.reshape(1, sequences * pages, page, dim),
        lengths,
        table,
        attn_logits_soft_cap=softcap,
        pages_per_compute_block=1,
    )


def _cudnn(query, keys, values, lengths, *, scale, implementation):
    """The same by `jax.nn.dot_product_attention`."""
    out = jax.nn.dot_product_attention(
        query[:, None].astype(keys.dtype),
        keys[:, :, None],
        values[:, :, None],
        scale=scale,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out[:, 0]


def fresh_attention(
    query: jax.Array,
    new: KeyValues,
    *,
    scale: float,
    window: int | None = None,
    mesh: Mesh | None = None,
    implementation: str = "cudnn",
) -> jax.Array:
    """Causal attention of tokens that begin their slots, to each other.

    Padding is on the right, where nothing else sees it.

    Args:
      query: [B, L, Q, H].
      new: keys and values [B, L, K, H].
      scale: factor of the scores.
      window: how many positions back a query sees, its own included; None: all.
      mesh: that heads are split over; None: one device.
      implementation: of `jax.nn.dot_product_attention`.

    Returns:
      [B, L, Q * H] in the dtype of `query`.
    """

    def local(query, keys, values):
        out = jax.nn.dot_product_attention(
            query.astype(keys.dtype),
            keys,
            values,
            scale=scale,
            is_causal=True,
            # Without is_causal cuDNN would look ahead (jax issue 39576).
            local_window_size=None if window is None else (window - 1, 0),
            implementation=implementation,
        )
        return out.reshape(*out.shape[:2], -1).astype(query.dtype)

    if mesh is None or mesh.size == 1:
        return local(query, *new)
    heads = heads_axis(mesh, query.shape[2], new.keys.shape[2])
    spec = PartitionSpec(None, None, heads)
    on_mesh = jax.shard_map(
        local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )
    return on_mesh(query, *new)


def _prefill_on_mesh(query, seen, positions, mesh: Mesh | None, **scores):
    """`splash_prefill`; on a mesh each device has its own heads of all rows."""
    if mesh is None or mesh.size == 1:
        return splash_prefill(query, seen, positions, **scores)

    def local(query, keys, values, positions):
        return splash_prefill(query, KeyValues(keys, values), positions, **scores)

    heads = heads_axis(mesh, query.shape[2], seen.keys.shape[1])
    of_query, of_keys = PartitionSpec(None, None, heads), PartitionSpec(None, heads)
    on_mesh = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(of_query, of_keys, of_keys, PartitionSpec()),
        out_specs=of_query,
        check_vma=False,
    )
    return on_mesh(query, *seen, positions)
