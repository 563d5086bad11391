"""Shardings of the sampler's arrays on a mesh of (data, fsdp, tensor).

An engine has a tensor group: a mesh of (1, 1, T) devices. Weights, the heads of the
cache and the vocabulary of the logits are split over tensor; axes that do not divide
evenly are replicated. Slots are never split: a copied prefix would cross devices, and
each would compute every prefill. Weights are first laid on a mesh of all groups,
(R, 1, T), where each has a replica: see `hand_over`.
"""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gru_mem_jax.parallelism import TENSOR, partition, replicated
from gru_mem_jax.policy.functional import Policy


class SamplerShardings(NamedTuple):
    """Shardings of the arguments of the sampler's programs.

    Attributes:
      params: tree as the sampling form.
      cache: of every array of the cache, [S, K, C, H].
      logits: of [S, V], before the draw, which needs whole rows.
      whole: replicated, for arrays from and to the host.
    """

    params: Any
    cache: NamedSharding
    logits: NamedSharding
    whole: NamedSharding


def sampler_shardings(policy: Policy, mesh: Mesh) -> SamplerShardings:
    """The shardings of an engine's arrays on `mesh`."""
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
    config, ways = policy.config, mesh.shape[TENSOR]
    heads = TENSOR if config.num_key_value_heads % ways == 0 else None
    vocab = TENSOR if config.vocab_size % ways == 0 else None
    layers = (tree["layers"],) * config.num_hidden_layers
    return SamplerShardings(
        params={"ends": tree["ends"], "layers": layers},
        cache=NamedSharding(mesh, PartitionSpec(None, heads)),
        logits=NamedSharding(mesh, PartitionSpec(None, vocab)),
        whole=replicated(mesh),
    )
