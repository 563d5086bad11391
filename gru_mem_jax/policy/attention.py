"""Grouped-query attention, and the one mask rule.

Ainslie et al., "GQA", arXiv 2305.13245. Dimensions: B rows, Q query heads, K key/value
heads, G = Q / K, L queries, C keys, H head dimension.
"""

import functools

import jax
import jax.numpy as jnp

# Causal blocks of queries are several times faster than one masked score matrix, half
# of which is discarded. On CPU smaller is faster (4096 tokens: 128 queries 0.58 s,
# 512 queries 0.74 s), but each block adds to the program of every layer.
SMALLEST_BLOCK, LARGEST_BLOCK, MOST_BLOCKS = 128, 512, 16

NO_WINDOW = 2**31 - 1


def visible(
    query_positions: jax.Array,
    key_positions: jax.Array,
    window: int | jax.Array | None = None,
    query_segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
) -> jax.Array:
    """Which keys a query sees: not later, in the window, of its segment, no padding.

    Args:
      query_positions: int32 [B, L].
      key_positions: int32 [B, C]; padding has a negative position and is never seen.
      window: how many positions back a query sees, its own included; None: all.
      query_segments: int32 [B, L], or None when a row is one segment.
      key_segments: int32 [B, C], together with `query_segments`.

    Returns:
      bool [B, L, C].
    """
    query, key = query_positions[:, :, None], key_positions[:, None, :]
    mask = (key <= query) & (key >= 0)
    if window is not None:
        mask &= query - key < window
    if query_segments is not None:
        mask &= query_segments[:, :, None] == key_segments[:, None, :]
    return mask


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """Softmax attention of one block of queries; float32 inside.

    A query that sees nothing (padding) gets finite nonsense, never NaN.

    Args:
      query: [B, L, Q, H].
      key: [B, K, C, H].
      value: [B, K, C, H].
      mask: bool [B, L, C] of `visible`.
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None.

    Returns:
      [B, L, Q * H] in the dtype of `query`.
    """
    rows, length, heads, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    query = query.reshape(rows, length, kv_heads, group, dim)
    # One matrix product per row and key head: [G * L, H] with [C, H].
    query = query.transpose(0, 2, 3, 1, 4).reshape(rows, kv_heads, group * length, dim)
    wide_mask = jnp.tile(mask, (1, group, 1))[:, None]
    thin = length == 1
    if softcap is None:
        out = _softmax_attention(query, key, value, wide_mask, scale, thin)
    else:
        out, _ = _attention(query, key, value, wide_mask, scale, thin, softcap)
    out = out.reshape(rows, kv_heads, group, length, dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(rows, length, heads * dim).astype(query.dtype)


def _attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    scale: float,
    thin: bool,
    softcap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Query [B, K, M, H], key and value [B, K, C, H], mask [B, 1, M, C].

    Returns:
      The output [B, K, M, H] and the weights [B, K, M, C].
    """
    scores = _scores(query, key, thin) * scale
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum(
        "bkmc,bkch->bkmh", weights, value, preferred_element_type="float32"
    )
    return out, weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _softmax_attention(query, key, value, mask, scale, thin):
    """`_attention` without soft-cap and weights, with a gradient of its own.

    It goes through the weights once, where automatic differentiation goes through
    every step of the softmax: half the time on CPU.
    """
    return _attention(query, key, value, mask, scale, thin)[0]


def _softmax_attention_forward(query, key, value, mask, scale, thin):
    out, weights = _attention(query, key, value, mask, scale, thin)
    return out, (query, key, value, mask, weights, out)


def _softmax_attention_backward(scale, thin, saved, grad):
    del thin
    query, key, value, mask, weights, out = saved
    float32 = jnp.float32
    product = functools.partial(jnp.einsum, preferred_element_type=float32)
    grad_in = grad.astype(value.dtype)
    grad_value = product("bkmc,bkmh->bkch", weights, grad_in)
    grad_weights = product("bkmh,bkch->bkmc", grad_in, value)
    along = jnp.sum(grad * out, axis=-1, keepdims=True)
    grad_scores = weights.astype(float32) * (grad_weights - along) * scale
    grad_scores = jnp.where(mask, grad_scores, 0.0).astype(key.dtype)
    grad_query = product("bkmc,bkch->bkmh", grad_scores, key)
    grad_key = product("bkmc,bkmh->bkch", grad_scores, query)
    return (
        grad_query.astype(query.dtype),
        grad_key.astype(key.dtype),
        grad_value.astype(value.dtype),
        None,
    )


_softmax_attention.defvjp(_softmax_attention_forward, _softmax_attention_backward)


def _scores(query: jax.Array, key: jax.Array, thin: bool) -> jax.Array:
    """[B, K, M, H] and [B, K, C, H] to float32 [B, K, M, C]."""
    float32 = jnp.float32
    if not thin:
        return jnp.einsum("bkmh,bkch->bkmc", query, key, preferred_element_type=float32)
    # A few queries: with the keys on the left the product takes half the time on CPU.
    # The barrier keeps the compiler from swapping them back.
    scores = jnp.einsum("bkch,bkmh->bkcm", key, query, preferred_element_type=float32)
    return jax.lax.optimization_barrier(scores).swapaxes(2, 3)


def _block_size(length: int) -> int:
    size = SMALLEST_BLOCK * -(-length // (SMALLEST_BLOCK * MOST_BLOCKS))
    return min(size, LARGEST_BLOCK)


def attend_in_blocks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_positions: jax.Array,
    key_positions: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | jax.Array | None = None,
    segments: jax.Array | None = None,
    keys_are_queries: bool = False,
    contiguous: bool = False,
) -> jax.Array:
    """`attend` in blocks of queries, so that scores stay small.

    Args:
      query: [B, L, Q, H].
      key: [B, K, C, H].
      value: [B, K, C, H].
      query_positions: int32 [B, L].
      key_positions: int32 [B, C].
      scale, softcap: as in `attend`.
      window: as in `visible`.
      segments: int32 [B, L] of queries and keys alike, or None.
      keys_are_queries: key i belongs to query i, and no query sees a key right of it:
        a block then reads only the keys up to its own end.
      contiguous: as well, positions differ by as much as indices do: a block then
        reads only the keys that its window (an int) reaches back to.

    Returns:
      [B, L, Q * H].
    """
    length = query.shape[1]
    size = _block_size(length)
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        first, last = 0, key.shape[2]
        if keys_are_queries:
            last = end
        if contiguous and isinstance(window, int):
            first = max(0, start - window + 1)
        mask = visible(
            query_positions[:, start:end],
            key_positions[:, first:last],
            window,
            None if segments is None else segments[:, start:end],
            None if segments is None else segments[:, first:last],
        )
        block = attend(
            query[:, start:end],
            key[:, :, first:last],
            value[:, :, first:last],
            mask,
            scale=scale,
            softcap=softcap,
        )
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)
