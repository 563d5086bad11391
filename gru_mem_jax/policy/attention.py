"""Grouped-query attention to a cache, and the one mask rule.

Ainslie et al., "GQA", arXiv 2305.13245. Dimensions: B rows, Q query heads, K key/value
heads, G = Q / K, L queries, C keys, H head dimension. Rows that are trained on have
`policy.row_attention`.
"""

import jax
import jax.numpy as jnp

# Causal blocks of queries are several times faster than one masked score matrix, half
# of which is discarded. On CPU smaller is faster (4096 tokens: 128 queries 0.58 s,
# 512 queries 0.74 s), but each block adds to the program of every layer.
SMALLEST_BLOCK, LARGEST_BLOCK, MOST_BLOCKS = 128, 512, 16


def visible(
    query: jax.Array,
    key: jax.Array,
    window: int | jax.Array | None = None,
    reach: jax.Array | None = None,
    *,
    query_positions: jax.Array | None = None,
    key_positions: jax.Array | None = None,
) -> jax.Array:
    """Which keys a query sees. With i and j the places of query and key:

        0 <= j <= i < reach[j]    and    position_i - position_j < window

    In a cache, places are positions, and no key has a reach. In a packed row a place is
    an index, and reach[j] is one past the last place of the conversations that token j
    belongs to: the ancestor test as an interval (FlashMask, arXiv 2410.01359).

    Args:
      query: int32 [B, L], places.
      key: int32 [B, C], places; padding of a cache has a negative one.
      window: how many positions back a query sees, its own included; None: all.
      reach: int32 [B, C]; None: every later query of the row sees the key.
      query_positions, key_positions: int32 [B, L] and [B, C], positions in the
        conversation; None: the places.

    Returns:
      bool [B, L, C].
    """
    i, j = query[:, :, None], key[:, None, :]
    mask = (j <= i) & (j >= 0)
    if reach is not None:
        mask &= i < reach[:, None, :]
    if window is not None:
        of_query = query if query_positions is None else query_positions
        of_key = key if key_positions is None else key_positions
        mask &= of_query[:, :, None] - of_key[:, None, :] < window
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
    scores = _scores(query, key, thin) * scale
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    scores = jnp.where(wide_mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum(
        "bkmc,bkch->bkmh", weights, value, preferred_element_type=jnp.float32
    )
    out = out.reshape(rows, kv_heads, group, length, dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(rows, length, heads * dim).astype(query.dtype)


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
