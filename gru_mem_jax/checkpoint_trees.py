"""Trees of arrays as flat dicts, named, compared and checked.

A checkpoint stores flat dicts from a dotted path to an array. What kind of containers
a tree is made of (dicts, optax's named tuples) is known by the code that restores it,
never by the file.
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
      InputError: a leaf is no array, or two paths have one name.
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
    """The flat abstract tree of `signatures`: for one's own runs, whose shapes are
    trusted.
    """
    flat = {}
    for name, text in names.items():
        dtype, _, shape = text.removesuffix("]").partition("[")
        sizes = tuple(int(size) for size in shape.split(",") if size)
        flat[name] = jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
    return flat


def first_difference(have: Any, want: Any, name: str = "") -> str | None:
    """The first difference between two JSON-like values, in words; None if equal.

    Example: "learner.alpha is 0.9, expected 0.5".
    """
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        for key in sorted({*have, *want}):
            inner = f"{name}.{key}" if name else str(key)
            if key not in have:
                return f"{inner} is absent, expected {_short(want[key])}"
            if key not in want:
                return f"{inner} is {_short(have[key])}, expected absent"
            found = first_difference(have[key], want[key], inner)
            if found is not None:
                return found
        return None
    if isinstance(have, (list, tuple)) and isinstance(want, (list, tuple)):
        if len(have) != len(want):
            return f"{name} has {len(have)} elements, expected {len(want)}"
        for i, (a, b) in enumerate(zip(have, want)):
            found = first_difference(a, b, f"{name}[{i}]")
            if found is not None:
                return found
        return None
    if type(have) is type(want) and have == want:
        return None
    return f"{name} is {_short(have)}, expected {_short(want)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
