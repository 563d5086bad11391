"""Checksums of arrays, equal on a device and on the host.

For an array of 32-bit words w (shorter elements count as one word each, 64-bit ones as
two), row r of its leading axes and place j of its last:

    sum over r, j of (2 a r + 1) (2 b j + 1) w[r, j]    modulo 2^32

and a second sum with w shifted right by half an element, so that faults in high bits
alone do not cancel. All weights are odd: the change of a single bit, or a swap of rows
or places, changes the sums. They detect accidents; the sha256 list beside each
checkpoint is for attacks.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ROW, _PLACE = 0x85EBCA77, 0x9E3779B1
_BLOCK = 1 << 16  # elements: fits the host's caches


def checksums(flat: Mapping[str, Any]) -> dict[str, str]:
    """16 hex digits for each array.

    Arrays on the host are read in place; others are reduced on their devices, sharded
    or not, and only the sums are fetched.
    """
    on_host = {name: leaf for name, leaf in flat.items() if _is_on_host(leaf)}
    others = {name: leaf for name, leaf in flat.items() if name not in on_host}
    sums = {name: host_sums(np.asarray(leaf)) for name, leaf in on_host.items()}
    sums |= jax.device_get({name: device_sums(leaf) for name, leaf in others.items()})
    return {name: "".join(f"{int(s):08x}" for s in sums[name]) for name in flat}


def host_sums(array: np.ndarray) -> tuple[int, int]:
    """Both sums of one array, by numpy."""
    words, half = _host_words(np.ascontiguousarray(array))
    with np.errstate(over="ignore"):
        places = _odd(np.arange(words.shape[1], dtype=np.uint32), _PLACE, np)
        rows = _odd(np.arange(words.shape[0], dtype=np.uint32), _ROW, np)
    step = max(1, _BLOCK // max(1, words.shape[1]))
    sums = np.zeros(2, np.uint32)
    for start in range(0, words.shape[0], step):
        block = words[start : start + step].astype(np.uint32, copy=False)
        weights = rows[start : start + step]
        for i, part in enumerate((block, block >> half)):
            each = np.einsum("rj,j->r", part, places)
            sums[i : i + 1] += np.einsum("r,r->", each, weights)
    return int(sums[0]), int(sums[1])


@jax.jit
def device_sums(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both sums of one array, by XLA."""
    words, half = _device_words(array)
    shape = words.shape
    place = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    row = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape) - 1)):
        at = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        row += at * np.uint32(stride % 2**32)
        stride *= shape[axis]
    weights = _odd(row, _ROW, jnp) * _odd(place, _PLACE, jnp)
    return tuple(
        jnp.sum(part * weights, dtype=jnp.uint32) for part in (words, words >> half)
    )


def _odd(index: Any, multiplier: int, lib: Any) -> Any:
    """2 * multiplier * index + 1, modulo 2^32."""
    return index * lib.uint32(2 * multiplier % 2**32) + lib.uint32(1)


def _host_words(array: np.ndarray) -> tuple[np.ndarray, np.uint32]:
    """[rows, places] unsigned words, and half the bits of one."""
    size = min(array.dtype.itemsize, 4)
    words = array.reshape(array.shape or (1,)).view(f"u{size}")
    places = words.shape[-1]
    rows = int(np.prod(words.shape[:-1]))
    return words.reshape(rows, places), np.uint32(4 * size)


def _device_words(array: jax.Array) -> tuple[jax.Array, np.uint32]:
    """uint32 of one axis at least, and half the bits of one element."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    size = min(array.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"u{size}"))
    if array.ndim == 0:
        words = words.reshape(-1)
    elif array.dtype.itemsize > 4:  # two words each, along the last axis
        words = words.reshape(*array.shape[:-1], -1)
    return words.astype(jnp.uint32), np.uint32(4 * size)


def _is_on_host(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    devices = leaf.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"
