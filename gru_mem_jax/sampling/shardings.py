"""Shardings of the sampler's arrays on a mesh of (data, fsdp, tensor).

Weights are split as in training; the cache's slots over data and fsdp (trunks, which
any slot may see, are replicated there), its heads over tensor. Axes that do not divide
evenly are replicated.
"""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gru_mem_jax.parallelism import (
    DATA,
    FSDP,
    TENSOR,
    partition,
    replicated,
    row_shards,
)
from gru_mem_jax.policy.functional import Policy


class SamplerShardings(NamedTuple):
    """Shardings of the arguments of the sampler's programs.

    Attributes:
      params: tree as the sampling form.
      cache: of every array of the cache, [S, K, C, H].
      logits: of [S, V]; V is not split, since a draw needs whole rows.
      whole: replicated, for arrays from and to the host.
    """

    params: Any
    cache: NamedSharding
    logits: NamedSharding
    whole: NamedSharding


def sampler_shardings(
    policy: Policy, mesh: Mesh, slots: int | None
) -> SamplerShardings:
    """The shardings for a pool of `slots` on `mesh`; None: of trunks."""
    axes, stacked = policy.logical_axes(), policy.abstract_params()

    def sharding(path, leaf, names):
        shape, names = leaf.shape, names
        if path[0].key == "layers":
            shape, names = shape[1:], names[1:]
        spec = partition(shape, names, mesh.shape)
        # Kernels of the sampling form are [out, in].
        spec = spec[::-1] if path[-1].key == "kernel" else spec
        return NamedSharding(mesh, PartitionSpec(*spec))

    tree = jax.tree_util.tree_map_with_path(sharding, stacked, axes)
    layers = (tree["layers"],) * policy.config.num_hidden_layers
    split = slots is not None and slots % row_shards(mesh) == 0
    rows = (DATA, FSDP) if split else None
    heads = policy.config.num_key_value_heads
    heads = TENSOR if heads % mesh.shape[TENSOR] == 0 else None
    return SamplerShardings(
        params={"ends": tree["ends"], "layers": layers},
        cache=NamedSharding(mesh, PartitionSpec(rows, heads)),
        logits=NamedSharding(mesh, PartitionSpec(rows)),
        whole=replicated(mesh),
    )
