"""Loads the tensors of a checkpoint one by one into params on their devices."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.parallelism import device_memory, param_shardings
from gru_mem_jax.policy.checkpoint_files import StoredTensor
from gru_mem_jax.policy.functional import Params, Policy

ReadFn = Callable[[tuple[slice, ...]], np.ndarray]
Path = tuple[str, ...]


class ParamsLoader:
    """Builds params tensor by tensor.

    A stacked leaf is allocated once, with zeros, and each layer is written into it in
    place, cast and transposed on the device: only one further tensor is held.
    """

    def __init__(self, policy: Policy, dtype: str, mesh: Mesh | None, form: str):
        self._policy = policy
        self._dtype = jnp.dtype(dtype)
        self._stacked = form == "stacked"
        self._abstract = _by_path(policy.abstract_params(dtype))
        self._shardings: dict[Path, Sharding | None] = dict.fromkeys(self._abstract)
        if mesh is not None:
            tree = param_shardings(
                mesh, policy.logical_axes(), policy.abstract_params()
            )
            self._shardings = _by_path(tree)
        self._leaves: dict[tuple[Path, int | None], jax.Array] = {}
        self._finite: list[tuple[StoredTensor, jax.Array]] = []

    def check_memory(self, where: pathlib.Path) -> None:
        """Raises PolicyError if the weights could never fit this machine (CPU)."""
        total = device_memory()
        if jax.default_backend() != "cpu" or total is None:
            return
        sizes = (np.prod(leaf.shape) for leaf in self._abstract.values())
        needed = int(sum(sizes)) * self._dtype.itemsize
        if needed > total:
            raise PolicyError(
                f"{where}: the weights take {needed / 1e9:.1f} GB in "
                f"{self._dtype.name}, this machine has {total / 1e9:.1f} GB"
            )

    def add(self, tensor: StoredTensor, read: ReadFn) -> None:
        """Adds one tensor; `read` returns slices of it."""
        spec = tensor.spec
        sharding = self._file_sharding(spec.path, spec.layer, spec.transposed)
        stored = _to_device(spec.shape, read, sharding)
        key = (spec.path, None if self._stacked else spec.layer)
        if self._stacked and spec.layer is not None:
            leaf = self._leaves.pop(key, None)
            if leaf is None:
                leaf = self._zeros(spec.path)
            leaf, finite = _write(leaf, stored, spec.layer, spec.transposed)
        else:
            # Linear kernels of the sampling form have the file's layout.
            transposed = spec.transposed and self._stacked
            leaf, finite = _convert(stored, self._dtype, transposed)
        self._leaves[key] = leaf
        self._finite.append((tensor, finite))

    def finish(self) -> tuple[Params, list[StoredTensor]]:
        """The params, and the tensors that hold NaN or infinity."""
        bad = [tensor for tensor, finite in self._finite if not bool(finite)]
        params: Params = {}
        depth = self._policy.config.num_hidden_layers
        layers: list[Params] = [{} for _ in range(depth)]
        for (path, layer), leaf in self._leaves.items():
            root = params if layer is None else layers[layer]
            names = path if layer is None else path[1:]
            for name in names[:-1]:
                root = root.setdefault(name, {})
            root[names[-1]] = leaf
        if not self._stacked:
            params["layers"] = tuple(layers)
        return params, bad

    def _zeros(self, path: Path) -> jax.Array:
        shape = self._abstract[path].shape
        return _make_zeros(shape, self._dtype, self._shardings[path])

    def _file_sharding(
        self, path: Path, layer: int | None, transposed: bool
    ) -> Sharding | None:
        """Sharding of the tensor in the file's layout."""
        sharding = self._shardings[path]
        if not isinstance(sharding, NamedSharding):
            return sharding
        spec = tuple(sharding.spec)
        spec += (None,) * (len(self._abstract[path].shape) - len(spec))
        if layer is not None:
            spec = spec[1:]
        return NamedSharding(
            sharding.mesh, PartitionSpec(*(spec[::-1] if transposed else spec))
        )


def _by_path(tree: Params) -> dict[Path, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(entry.key for entry in path): leaf for path, leaf in leaves}


def _to_device(shape, read: ReadFn, sharding: Sharding | None) -> jax.Array:
    if sharding is None:
        return jax.device_put(read(tuple(slice(0, size) for size in shape)))
    return jax.make_array_from_callback(shape, sharding, lambda index: read(index))


def _make_zeros(shape, dtype, sharding: Sharding | None) -> jax.Array:
    make = functools.partial(jnp.zeros, shape, dtype)
    return jax.jit(make, out_shardings=sharding)()


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _write(leaf, stored, layer, transposed):
    new = stored.T if transposed else stored
    leaf = jax.lax.dynamic_update_index_in_dim(leaf, new.astype(leaf.dtype), layer, 0)
    return leaf, jnp.isfinite(stored).all()


@functools.partial(jax.jit, static_argnums=(1, 2))
def _convert(stored, dtype, transposed):
    new = stored.T if transposed else stored
    return new.astype(dtype), jnp.isfinite(stored).all()
