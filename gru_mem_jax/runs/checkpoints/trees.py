"""Trees of arrays as flat dicts, named, compared and checked.

A checkpoint stores flat dicts from a dotted path to an array. The containers of a tree
(dicts, optax's named tuples) are known only to the code that restores it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_mem_jax.errors import InputError, RunError


def flatten(tree: Any) -> dict[str, Any]:
    """Dotted path to leaf; leaves must have a shape and a dtype.

    Raises:
      InputError: a leaf is not an array, or two paths have one name.
    """
    flat = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise InputError(f"{name}: expected an array, got {type(leaf).__name__}")
        if name in flat:
            raise InputError(f"{name}: two leaves of a tree have this name")
        flat[name] = leaf
    return flat


def unflatten(flat: Mapping[str, Any], like: Any) -> Any:
    """The tree of `like` with the leaves of `flat`."""
    leaves = [flat[name] for name in flatten(like)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)


def abstract(flat: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes alone."""
    return {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in flat.items()}


def signatures(flat: Mapping[str, Any]) -> dict[str, str]:
    """Path to e.g. "float32[64, 8]"."""
    return {
        name: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for name, leaf in flat.items()
    }


def from_signatures(names: Mapping[str, str]) -> dict[str, jax.ShapeDtypeStruct]:
    """The flat abstract tree of `signatures`; only for trusted files."""
    flat = {}
    for name, text in names.items():
        dtype, _, shape = text.removesuffix("]").partition("[")
        sizes = tuple(int(size) for size in shape.split(",") if size)
        flat[name] = jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
    return flat


def nbytes(flat: Mapping[str, Any]) -> int:
    """Bytes of all leaves."""
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in flat.values())


def check_finite(flat: Mapping[str, Any]) -> None:
    """Raises RunError if a floating-point leaf holds NaN or an infinity."""
    floats = {
        name: leaf
        for name, leaf in flat.items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    for name, finite in jax.device_get(_all_finite(floats)).items():
        if not finite:
            raise RunError(f"{name} holds a number that is not finite; not saved")


@jax.jit
def _all_finite(flat: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.isfinite(leaf).all() for name, leaf in flat.items()}
