"""Attention within packed rows by JAX's TPU kernel, "splash" (sparse flash) attention.

The kernel skips blocks of scores that nobody sees, computes full ones without a mask,
and reads a mask only where a block is seen in part. Which is which follows from `reach`
and positions as data: one program serves all rows, and all heads and layers (of a
window) share the masks.

The kernel holds a mask as int32: 1 MiB for a block of 512 by 512. Of short rows all
masks are stored that there may be, of longer ones more than packed turns need: should
rows ever need more still, the same program computes them by `row_attention`.

Dimensions: B rows, N tokens (L rounded up to whole blocks), I blocks in a row, P stored
masks, W windows, Q query heads, K key/value heads, H head dimension.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)

from gru_mem_jax.policy.attention import visible
from gru_mem_jax.policy.row_attention import (
    NO_WINDOW,
    RowLayout,
    attend_in_rows,
    whole_blocks,
)

_EMPTY, _PARTIAL, _FULL = 0, 1, 2  # the kernel's numbers
# Blocks of a row up to which all masks take less memory than a second branch does: for
# 28 heads of 128, 541 and 651 MB with 18 blocks, 1637 and 1175 MB with 32.
_SHORT = 20
# Trees of turns of 280 to 7000 tokens in rows of 9216 to 32768 have at most 3.8 blocks
# seen in part for each block of queries; a window adds two.
_MASKS_PER_BLOCK = 6
_KERNEL = {
    "is_mqa": False,
    "mask_value": kernels.DEFAULT_MASK_VALUE,
    "mask_function": None,
    "residual_checkpoint_name": None,
}


class _Masks(NamedTuple):
    """What is computed of a row's scores, and how.

    Attributes:
      blocks: int8 [I, I]: block i of queries sees nothing (0), a part (1) or all (2) of
        block j of keys.
      index: int32 [I, I], which of `stored` masks a block seen in part.
      stored: bool [P, size, size], queries by keys.
    """

    blocks: jax.Array
    index: jax.Array
    stored: jax.Array


class SplashLayout(NamedTuple):
    """Who sees whom in packed rows, for the kernel. Made by `splash_layout`.

    Attributes:
      rows: the same for `row_attention`.
      masks: of each window and row: leading axes [W, B].
      fits: bool [], whether there is room for all masks; None: there always is.
    """

    rows: RowLayout
    masks: _Masks
    fits: jax.Array | None


def block_size(length: int) -> int:
    """Queries and keys of a block in rows of `length` tokens, a multiple of 128."""
    return next(size for size in (512, 256, 128) if length % size == 0)


def mask_room(blocks: int) -> int:
    """P, masks that are stored of a row of so many blocks."""
    if blocks <= _SHORT:  # those on and below the diagonal
        return blocks * (blocks + 1) // 2
    return _MASKS_PER_BLOCK * blocks


def mask_bytes(length: int) -> int:
    """Of a row of `length` tokens: the masks as bool, and as int32 both ways round."""
    length = whole_blocks(length)
    size = block_size(length)
    return 9 * mask_room(length // size) * size**2


def splash_layout(rows: RowLayout) -> SplashLayout:
    """Which blocks are computed, and the masks of those that are seen in part."""
    length = rows.reach.shape[1]
    size = block_size(length)
    blocks = length // size
    room = mask_room(blocks)

    def of_window(window: jax.Array | int) -> _Masks:
        of_row = functools.partial(_masks, window=window, size=size, room=room)
        return jax.vmap(of_row)(rows.positions, rows.reach)

    windows = [NO_WINDOW] if rows.windows is None else list(rows.windows)
    masks = jax.tree.map(lambda *each: jnp.stack(each), *map(of_window, windows))
    fits = None
    if blocks > _SHORT:
        fits = (masks.blocks == _PARTIAL).sum(axis=(2, 3)).max() <= room
    return SplashLayout(rows, masks, fits)


def _masks(
    positions: jax.Array,
    reach: jax.Array,
    *,
    window: jax.Array | int,
    size: int,
    room: int,
) -> _Masks:
    """Of a row: positions and reach int32 [N]."""
    place = jnp.arange(len(reach), dtype=jnp.int32)
    # Padding sees itself: the kernel would make NaN of a query that sees nothing.
    reach = jnp.maximum(reach, place + 1)
    place, positions, reach = (x.reshape(-1, size) for x in (place, positions, reach))
    # [I, 1], of blocks of queries; transposed, of keys.
    lowest, highest = (
        [extreme(x, axis=1, keepdims=True) for x in (place, positions, reach)]
        for extreme in (jnp.min, jnp.max)
    )
    (first, near, ends_first), (last, far, ends_last) = lowest, highest
    below = first > last.T
    some = below & (first < ends_last.T)
    full = below & (last < ends_first.T)
    # Padding has position -1, as near as can be: at worst a block is kept in vain.
    some &= near - far.T < window
    full &= far - near.T < window
    on_diagonal = first == first.T
    partial = on_diagonal | (some & ~full)
    blocks = jnp.where(partial, _PARTIAL, jnp.where(full, _FULL, _EMPTY))
    (flat,) = jnp.nonzero(partial.ravel(), size=room, fill_value=0)
    i, j = flat // len(blocks), flat % len(blocks)
    stored = visible(
        place[i],
        place[j],
        window,
        reach[j],
        query_positions=positions[i],
        key_positions=positions[j],
    )
    index = jnp.cumsum(partial.ravel()).reshape(partial.shape) - 1
    index = jnp.where(partial, index, 0)
    return _Masks(blocks.astype(jnp.int8), index.astype(jnp.int32), stored)


def splash_in_rows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    layout: SplashLayout,
    window_index: jax.Array | int = 0,
    *,
    scale: float,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """What `attend_in_rows` computes, and its gradient, by the kernel.

    Args:
      query: [B, L, Q, H].
      key, value: [B, L, K, H].
      layout: of `splash_layout`.
      window_index: which of the layout's windows.
      scale: factor of the scores.
      softcap: c of c * tanh(score / c), or None.
      interpret: run the kernel step by step, slowly, on any device.

    Returns:
      [B, L, Q * H] in the dtype of `query`.
    """
    rows, length, heads, dim = query.shape
    # The kernel has no scale. A scale in bfloat16 would be off by the same everywhere.
    query = (query.astype(jnp.float32) * scale).astype(query.dtype)
    missing = ((0, 0), (0, layout.rows.reach.shape[1] - length), (0, 0), (0, 0))
    arrays = (jnp.pad(x, missing).swapaxes(1, 2) for x in (query, key, value))
    spec = _Spec(softcap, interpret)
    out = _attention(spec, *arrays, layout, window_index)
    return out.swapaxes(1, 2)[:, :length].reshape(rows, length, heads * dim)


class _Spec(NamedTuple):
    softcap: float | None
    interpret: bool


# Its own rule for gradients: that of a condition keeps what either branch needs.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(spec: _Spec, query, key, value, layout: SplashLayout, window_index):
    """Scaled query [B, Q, N, H]; key, value [B, K, N, H] -> like query."""
    return _forward(spec, query, key, value, layout, window_index, save=False)[0]


def _forward(spec: _Spec, query, key, value, layout, window_index, *, save=True):
    def kernel(*arrays):
        run = jax.vmap(functools.partial(_kernel_forward, spec, save))
        return run(_of_window(layout, window_index), *arrays)

    def row_attention(*arrays):
        out = _row_attention(spec, layout, window_index)(*arrays)
        return out, jnp.zeros(out.shape[:-1], jnp.float32) if save else None

    out, log_total = _if_it_fits(layout, kernel, row_attention, query, key, value)
    return out, (query, key, value, layout, window_index, out, log_total)


def _backward(spec: _Spec, saved, grad):
    query, key, value, layout, window_index, out, log_total = saved

    def kernel(*arrays):
        run = jax.vmap(functools.partial(_kernel_backward, spec))
        return run(_of_window(layout, window_index), *arrays, out, log_total, grad)

    def row_attention(*arrays):
        return jax.vjp(_row_attention(spec, layout, window_index), *arrays)[1](grad)

    grads = _if_it_fits(layout, kernel, row_attention, query, key, value)
    return (*grads, None, None)


_attention.defvjp(_forward, _backward)


def _if_it_fits(layout: SplashLayout, kernel: Callable, other: Callable, *arrays):
    if layout.fits is None:
        return kernel(*arrays)
    return jax.lax.cond(layout.fits, kernel, other, *arrays)


def _row_attention(spec: _Spec, layout: SplashLayout, window_index) -> Callable:
    """`attend_in_rows` of arrays as `_attention` has them."""

    def attend(query, key, value):
        swapped = (x.swapaxes(1, 2) for x in (query, key, value))
        out = attend_in_rows(
            *swapped, layout.rows, window_index, scale=1.0, softcap=spec.softcap
        )
        batch, heads, length, dim = query.shape
        return out.reshape(batch, length, heads, dim).swapaxes(1, 2)

    return attend


def _of_window(layout: SplashLayout, window_index) -> _Masks:
    return jax.tree.map(lambda x: x[window_index], layout.masks)


def _kernel_forward(spec: _Spec, save: bool, masks: _Masks, query, key, value):
    """Of a row: [Q, N, H] and, if `save`, the logarithm of each sum of weights."""
    of_queries, of_keys = _mask_infos(masks)
    kernel = kernels.SplashAttentionKernel(
        of_queries,
        of_queries,
        of_keys,
        block_sizes=_block_sizes(masks),
        save_residuals=save,
        attn_logits_soft_cap=spec.softcap,
        interpret=spec.interpret,
        **_KERNEL,
    )
    out = kernel(query, key, value)
    return (out[0], out[1][0]) if save else (out, None)


def _kernel_backward(
    spec: _Spec, masks: _Masks, query, key, value, out, log_total, grad
):
    """Gradients of a row's query, key and value.

    By the kernel's own rule, which has no public name; jax is held below 0.11.
    """
    infos = _mask_infos(masks)
    grads = kernels._splash_attention_bwd(
        save_residuals=False,
        block_sizes=_block_sizes(masks),
        attn_logits_soft_cap=spec.softcap,
        interpret=spec.interpret,
        res=(query, key, value, None, None, out, log_total, *infos),
        do=grad,
        **_KERNEL,
    )
    return grads[3:6]


def _block_sizes(masks: _Masks) -> kernels.BlockSizes:
    size = masks.stored.shape[-1]
    return kernels.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )


def _mask_infos(masks: _Masks) -> tuple[mask_info.MaskInfo, mask_info.MaskInfo]:
    """For the keys of each block of queries, and for the queries of each of keys."""
    block = jnp.arange(len(masks.blocks), dtype=jnp.int32)

    def info(loaded: jax.Array, stored: jax.Array) -> mask_info.MaskInfo:
        return mask_info.MaskInfo(
            data_next=jnp.where(masks.blocks == _EMPTY, 0, loaded)[None],
            mask_next=masks.index[None],
            block_mask=masks.blocks[None],
            partial_mask_blocks=stored,
            q_sequence=None,
            is_dynamic_mask=True,
        )

    of_keys = info(block[:, None], masks.stored.swapaxes(1, 2))
    return info(block, masks.stored), of_keys
