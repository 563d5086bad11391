"""Attention of a block of a prompt to its slot, by JAX's TPU kernel "splash".

A block of queries sees all keys before it and, of the blocks of keys around its own
place, a part: the masks of these are computed, for the rest the kernel needs none and
skips what lies behind. See `policy.splash`, which does the same for rows and gradients.

Dimensions: B rows, L queries, C keys, Q query heads, K key heads, H head dimension.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)

from gru_mem_jax.policy.attention import visible
from gru_mem_jax.policy.key_values import KeyValues

_LANES, _TILE, _BLOCK = 128, 16, 512
_EMPTY, _PARTIAL, _FULL = 0, 1, 2  # the kernel's numbers


def splash_prefill(
    query: jax.Array,
    seen: KeyValues,
    positions: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """What `attend_in_blocks` gives for keys at 0, 1, 2, ...

    Args:
      query: [B, L, Q, H].
      seen: keys and values [B, K, C, H]; key j has position j.
      positions: int32 [B, L], which rise by 1 in a row, below C; padding, on the right,
        is negative.
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None.
      window: how many positions back a query sees, its own included; None: all.
      interpret: run the kernel step by step, slowly, on any device.

    Returns:
      [B, L, Q * H] in the dtype of `query`.
    """
    rows, length, heads, dim = query.shape
    of_queries = _block(length, _TILE)
    of_keys = _block(seen.length, _LANES)
    # Padding sees what the last query sees: of nothing the kernel would make NaN.
    last = jnp.maximum(positions.max(axis=1, keepdims=True), 0)
    positions = jnp.where(positions < 0, last, positions)
    missing = -length % of_queries
    positions = jnp.concatenate(
        [positions, jnp.broadcast_to(last, (rows, missing))], axis=1
    )
    # The kernel has no scale.
    query = (query.astype(jnp.float32) * scale).astype(seen.keys.dtype)
    query = _padded(query.swapaxes(1, 2), missing)
    keys, values = (_padded(x, -seen.length % of_keys) for x in seen)

    def of_row(query, keys, values, positions):
        infos = _masks(positions, keys.shape[1], window, of_queries, of_keys)
        kernel = splash_kernel.SplashAttentionKernel(
            infos,
            None,
            None,
            is_mqa=False,
            mask_value=splash_kernel.DEFAULT_MASK_VALUE,
            mask_function=None,
            residual_checkpoint_name=None,
            save_residuals=False,
            block_sizes=splash_kernel.BlockSizes(block_q=of_queries, block_kv=of_keys),
            attn_logits_soft_cap=softcap,
            interpret=interpret,
        )
        return kernel(query, keys, values)

    out = jax.vmap(of_row)(query, keys, values, positions).swapaxes(1, 2)
    return out[:, :length].reshape(rows, length, heads * dim).astype(query.dtype)


def _block(length: int, tile: int) -> int:
    """Size of a block: all of them, in whole tiles, or 512."""
    whole = -(-length // tile) * tile
    if whole <= _BLOCK:
        return whole
    return next((n for n in (_BLOCK, 256, 128) if whole % n == 0), _BLOCK)


def _padded(x: jax.Array, missing: int) -> jax.Array:
    """[B, heads, N, H] with more zeros behind its N."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0)))


def _masks(
    positions: jax.Array, keys: int, window: int | None, of_queries: int, of_keys: int
) -> mask_info.MaskInfo:
    """Of a row: positions int32 [N] of its queries, none negative."""
    place = positions.reshape(-1, of_queries)
    first, last = place.min(axis=1)[:, None], place.max(axis=1)[:, None]
    start = jnp.arange(0, keys, of_keys, dtype=jnp.int32)[None]
    end = start + of_keys - 1
    some, full = start <= last, end <= first
    if window is not None:
        some &= first - end < window
        full &= last - start < window
    partial = some & ~full
    blocks = jnp.where(partial, _PARTIAL, jnp.where(some, _FULL, _EMPTY))
    # A block of queries lies over so many blocks of keys; so does its window's start.
    edges = (-(-of_queries // of_keys) + 1) * (1 if window is None else 2)
    room = partial.shape[0] * min(partial.shape[1], edges)
    (flat,) = jnp.nonzero(partial.ravel(), size=room, fill_value=0)
    i, j = flat // partial.shape[1], flat % partial.shape[1]
    at = jnp.arange(of_keys, dtype=jnp.int32)[None] + (j * of_keys)[:, None]
    index = jnp.cumsum(partial.ravel()).reshape(partial.shape) - 1
    column = jnp.arange(partial.shape[1], dtype=jnp.int32)[None]
    return mask_info.MaskInfo(
        data_next=jnp.where(blocks == _EMPTY, 0, column)[None],
        mask_next=jnp.where(partial, index, 0).astype(jnp.int32)[None],
        block_mask=blocks.astype(jnp.int8)[None],
        partial_mask_blocks=visible(place[i], at.astype(jnp.int32), window),
        q_sequence=None,
        is_dynamic_mask=True,
    )
