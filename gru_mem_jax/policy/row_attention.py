"""Attention within packed rows, in blocks: what nobody sees is not computed.

A row may hold many conversations behind one prefix, and most blocks of its [L, L]
scores are empty. For each block of queries the blocks of keys that it sees are listed,
and a loop runs over that list with a running maximum and sum (online softmax; Dao et
al., "FlashAttention", arXiv 2205.14135), forward and backward. The lists follow from
`reach` as data: one program serves all rows.

On CPU both passes run at the speed of the matrix products alone. Dimensions: B rows, L
tokens, Q query heads, K key/value heads, G = Q / K, H head dimension.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_mem_jax.policy.attention import visible

NO_WINDOW = 2**31 - 1
_NOT_SEEN = -1e30  # a score; finite, so that a row of them gives no NaN


def _static():
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Who sees whom in packed rows, for all layers. Made by `row_layout`.

    Attributes:
      positions, reach: int32 [B, N], N tokens: L rounded up to whole blocks.
      windows: int32 [W], the distinct windows of layers, or None if there is no window.
      window_index: static; for each layer, which of `windows`.
      key_blocks: int32 [W, I, J]: for each of I blocks of queries the blocks of keys,
        those first that some query of some row sees.
      counts: int32 [W, I], how many these are.
      size: static; queries of a block, keys of a block.
    """

    positions: jax.Array
    reach: jax.Array
    windows: jax.Array | None
    window_index: tuple[int, ...] = _static()
    key_blocks: jax.Array
    counts: jax.Array
    size: tuple[int, int] = _static()


def block_size(length: int) -> tuple[int, int]:
    """Queries and keys of a block in rows of `length` tokens.

    On 2 CPU cores, with 8 query heads of 64, 128 by 256 is fastest for rows of 1110
    tokens and 256 by 128 for trees of 2580 and 4260; 128 by 128 for rows of 256. Longer
    rows would have many small steps.
    """
    if length <= 512:
        return 128, 128
    if length <= 2048:
        return 128, 256
    return (256, 128) if length <= 8192 else (256, 512)


def whole_blocks(length: int) -> int:
    """`length` rounded up to whole blocks, a multiple of 128."""
    size = max(block_size(length))
    return -(-length // size) * size


def row_layout(
    positions: jax.Array,
    reach: jax.Array | None,
    windows: Sequence[int | None],
) -> RowLayout:
    """Which blocks must be computed.

    Args:
      positions: int32 [B, L], -1 on padding.
      reach: int32 [B, L]; None: each row is one conversation.
      windows: of each layer; None: no window.
    """
    length = positions.shape[1]
    place = jnp.arange(length, dtype=jnp.int32)
    if reach is None:
        reach = jnp.where(positions >= 0, length, place + 1)
    size, whole = block_size(length), whole_blocks(length)
    positions = _padded(jnp.asarray(positions), whole, 1, -1)
    reach = _padded(jnp.asarray(reach), whole, 1, 0)
    numbers = [NO_WINDOW if w is None else w for w in windows]
    distinct = sorted(set(numbers))
    seen = _seen_blocks(reach, *size)
    lists, counts = [], []
    for window in distinct:
        near = seen & _near_blocks(positions, window, *size)
        near = near.any(axis=0)
        order = jnp.argsort(~near, axis=1, stable=True)
        lists.append(order.astype(jnp.int32))
        counts.append(near.sum(axis=1, dtype=jnp.int32))
    return RowLayout(
        positions=positions,
        reach=reach,
        windows=None if distinct == [NO_WINDOW] else jnp.asarray(distinct, jnp.int32),
        window_index=tuple(
            distinct.index(NO_WINDOW if w is None else w) for w in windows
        ),
        key_blocks=jnp.stack(lists),
        counts=jnp.stack(counts),
        size=size,
    )


def _seen_blocks(reach: jax.Array, queries: int, keys: int) -> jax.Array:
    """bool [B, I, J]: some query of block I sees some key of block J, by `reach`."""
    rows, length = reach.shape
    first = jnp.arange(0, length, queries, dtype=jnp.int32)[:, None]
    # The first query of a block that comes no earlier than a key.
    query = jnp.maximum(first, jnp.arange(length, dtype=jnp.int32)[None])
    seen = (query < first + queries)[None] & (query[None] < reach[:, None])
    return seen.reshape(rows, len(first), length // keys, keys).any(axis=-1)


def _near_blocks(
    positions: jax.Array, window: int, queries: int, keys: int
) -> jax.Array:
    """bool [B, I, J]: false where all keys lie before the windows of all queries."""
    if window == NO_WINDOW:
        return jnp.ones((1, 1, 1), bool)
    rows = positions.shape[0]
    of_query = jnp.where(positions < 0, NO_WINDOW, positions)
    earliest = of_query.reshape(rows, -1, queries).min(axis=-1)
    latest = positions.reshape(rows, -1, keys).max(axis=-1)
    return earliest[:, :, None] - latest[:, None] < window


def attend_in_rows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    layout: RowLayout,
    window_index: jax.Array | int = 0,
    *,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """Softmax attention of tokens to those of their row that they see; float32 inside.

    Args:
      query: [B, L, Q, H].
      key, value: [B, L, K, H].
      layout: of `row_layout`.
      window_index: which of the layout's windows.
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None.

    Returns:
      [B, L, Q * H] in the dtype of `query`; finite nonsense for a query that sees
      nothing.
    """
    rows, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    whole, queries = layout.reach.shape[1], layout.size[0]
    tiles = _padded(query, whole, 1).reshape(
        rows, whole // queries, queries, kv_heads, group, dim
    )
    # One matrix product per row and key head: [G * queries, H] with [keys, H].
    tiles = tiles.transpose(1, 0, 3, 4, 2, 5)
    tiles = tiles.reshape(whole // queries, rows, kv_heads, group * queries, dim)
    seen = _Seen(
        layout.positions,
        layout.reach,
        None if layout.windows is None else layout.windows[window_index],
        layout.key_blocks[window_index],
        layout.counts[window_index],
    )
    spec = _Spec(scale, softcap, *layout.size)
    key, value = (_padded(x, whole, 1).swapaxes(1, 2) for x in (key, value))
    out = _attention(spec, tiles, key, value, seen)
    out = out.reshape(-1, rows, kv_heads, group, queries, dim)
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(rows, whole, heads * dim)
    return out[:, :length]


class _Spec(NamedTuple):
    scale: float
    softcap: float | None
    queries: int
    keys: int


class _Seen(NamedTuple):
    """Of one layer; as in `RowLayout`."""

    positions: jax.Array
    reach: jax.Array
    window: jax.Array | None
    key_blocks: jax.Array
    counts: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    spec: _Spec, tiles: jax.Array, key: jax.Array, value: jax.Array, seen: _Seen
) -> jax.Array:
    """Tiles [I, B, K, M, H], M = G * queries; key, value [B, K, N, H] -> like tiles."""
    return _forward(spec, tiles, key, value, seen)[0]


def _forward(spec: _Spec, tiles, key, value, seen: _Seen):
    def block(_, scanned):
        tile, i, key_blocks, count = scanned

        def attend(n, carry):
            highest, total, out = carry
            j = key_blocks[n]
            scores, _ = _scores(spec, tile, _block(key, j, spec.keys), seen, i, j)
            top = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
            weights, shrink = jnp.exp(scores - top), jnp.exp(highest - top)
            values = _block(value, j, spec.keys)
            out = out * shrink + _product(
                "bkmc,bkch->bkmh", weights.astype(value.dtype), values
            )
            total = total * shrink + weights.sum(axis=-1, keepdims=True)
            return top, total, out

        start = jnp.zeros((*tile.shape[:-1], 1), jnp.float32)
        none = jnp.zeros(tile.shape, jnp.float32)
        highest, total, out = jax.lax.fori_loop(
            0, count, attend, (start + _NOT_SEEN, start, none)
        )
        total = jnp.maximum(total, 1e-30)
        return None, ((out / total).astype(tile.dtype), highest + jnp.log(total))

    index = jnp.arange(tiles.shape[0], dtype=jnp.int32)
    scanned = (tiles, index, seen.key_blocks, seen.counts)
    _, (out, log_total) = jax.lax.scan(block, None, scanned)
    return out, (tiles, key, value, seen, out, log_total)


def _backward(spec: _Spec, saved, grad):
    """The gradient of O = softmax(s) v with s = scale q k, block by block again:

    p = exp(s - log total),  ds = scale p (dO v - sum(dO O)),  dq = ds k,  dk = ds q
    """
    tiles, key, value, seen, out, log_total = saved
    along = jnp.sum(
        grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True
    )

    def block(carry, scanned):
        tile, grad_out, along, log_total, i, key_blocks, count = scanned

        def attend(n, carry):
            grad_key, grad_value, grad_tile = carry
            j = key_blocks[n]
            keys, values = _block(key, j, spec.keys), _block(value, j, spec.keys)
            scores, slope = _scores(spec, tile, keys, seen, i, j)
            weights = jnp.exp(scores - log_total)
            grad_weights = _product("bkmh,bkch->bkmc", grad_out, values)
            grad_scores = weights * (grad_weights - along) * spec.scale
            if slope is not None:
                grad_scores *= slope
            grad_scores = grad_scores.astype(key.dtype)
            grad_tile += _product("bkmc,bkch->bkmh", grad_scores, keys)
            more_key = _product("bkmc,bkmh->bkch", grad_scores, tile)
            more_value = _product(
                "bkmc,bkmh->bkch", weights.astype(value.dtype), grad_out
            )
            grad_key = _add_block(grad_key, j, more_key)
            grad_value = _add_block(grad_value, j, more_value)
            return grad_key, grad_value, grad_tile

        start = (*carry, jnp.zeros(tile.shape, jnp.float32))
        *carry, grad_tile = jax.lax.fori_loop(0, count, attend, start)
        return tuple(carry), grad_tile.astype(tile.dtype)

    none = jnp.zeros(key.shape, jnp.float32)
    index = jnp.arange(tiles.shape[0], dtype=jnp.int32)
    scanned = (tiles, grad, along, log_total, index, seen.key_blocks, seen.counts)
    (grad_key, grad_value), grad_tiles = jax.lax.scan(block, (none, none), scanned)
    return grad_tiles, grad_key.astype(key.dtype), grad_value.astype(value.dtype), None


_attention.defvjp(_forward, _backward)


def _scores(
    spec: _Spec, tile: jax.Array, keys: jax.Array, seen: _Seen, i: Any, j: Any
) -> tuple[jax.Array, jax.Array | None]:
    """Scores of blocks i and j, float32 [B, K, M, keys]; the soft-cap's slope there."""
    scores = _product("bkmh,bkch->bkmc", tile, keys) * spec.scale
    slope = None
    if spec.softcap is not None:
        share = jnp.tanh(scores / spec.softcap)
        scores, slope = share * spec.softcap, 1 - jnp.square(share)

    def places(block, size):
        return (block * size + jnp.arange(size, dtype=jnp.int32))[None]

    mask = visible(
        places(i, spec.queries),
        places(j, spec.keys),
        seen.window,
        _block(seen.reach, j, spec.keys, 1),
        query_positions=_block(seen.positions, i, spec.queries, 1),
        key_positions=_block(seen.positions, j, spec.keys, 1),
    )
    group = tile.shape[2] // spec.queries
    mask = jnp.tile(mask, (1, group, 1))[:, None]
    return jnp.where(mask, scores, _NOT_SEEN), slope


def _product(formula: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)


def _block(x: jax.Array, index: Any, size: int, axis: int = 2) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis)


def _add_block(x: jax.Array, index: Any, more: jax.Array) -> jax.Array:
    size = more.shape[2]
    total = _block(x, index, size) + more
    return jax.lax.dynamic_update_slice_in_dim(x, total, index * size, axis=2)


def _padded(x: jax.Array, length: int, axis: int, fill: int = 0) -> jax.Array:
    missing = [(0, 0)] * x.ndim
    missing[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, missing, constant_values=fill)
