"""Weights from the learner to the engines: one program, then views without a copy.

The learner holds stacked float32 params on its mesh, cut over all of its devices. The
engines want the sampling form in their dtype, cut over the T devices of a tensor group
and the same in each group. One jitted program makes that of this: it casts, lays out
and reshards, so that nothing larger than the result is held, and on several processes
it is the same call on each. Its result lies on a mesh of all groups, (R, 1, T). A
group's view of it is made of the very buffers on the group's devices: engines have
bit-equal weights, and nothing is left to synchronise.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import DATA, FSDP, TENSOR
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.sampling.shardings import sampler_shardings


def group_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """The devices of a mesh as tensor groups, each within one process.

    Args:
      mesh: any, e.g. the learner's.
      tensor: T, devices of a group.

    Returns:
      A mesh of (R, 1, T), in the order of `mesh` where its runs of T devices are groups
      of one process; else ordered by process.

    Raises:
      InputError: the devices of a process are no whole groups.
    """
    devices = list(mesh.devices.flat)
    if len(devices) % tensor == 0:
        by_process = sorted(devices, key=lambda d: (d.process_index, d.id))
        for order in (devices, by_process):
            groups = np.asarray(order, dtype=object).reshape(-1, 1, tensor)
            if all(len({d.process_index for d in group.flat}) == 1 for group in groups):
                return Mesh(groups, (DATA, FSDP, TENSOR))
    counts: dict[int, int] = {}
    for device in devices:
        counts[device.process_index] = counts.get(device.process_index, 0) + 1
    raise InputError(
        f"EngineConfig.tensor is {tensor}, and an engine's devices must be of one "
        f"process: they have {_listed(sorted(set(counts.values())))} devices each; set "
        "a divisor of that"
    )


def own_groups(groups: Mesh) -> list[Mesh]:
    """The groups of this process, each a mesh of (1, 1, T)."""
    own = jax.process_index()
    return [
        Mesh(group[None], groups.axis_names)
        for group in groups.devices
        if group.flat[0].process_index == own
    ]


@functools.lru_cache(maxsize=8)
def program(policy: Policy, dtype: Any, mesh: Mesh, groups: Mesh) -> Any:
    """The jitted function from params to the sampling form on all groups.

    Each array of the result is sent by itself, cast: else XLA may gather whole stacks,
    in float32. Where a group cuts it in ways that the learner does not, it is cut over
    the groups too on the way, so that none gathers more than the part that it keeps.

    Args:
      policy: the policy.
      dtype: of the result.
      mesh: that the params lie on.
      groups: of `group_mesh`, the same devices in the same order.
    """
    meshes = [mesh]
    if groups.shape[TENSOR] > mesh.shape[TENSOR]:
        meshes.append(Mesh(groups.devices.swapaxes(0, 1), groups.axis_names))

    def of(params: Params) -> Params:
        form = policy.sampling_params(params, dtype)
        for each in meshes:
            cut = sampler_shardings(policy, each).params
            form = jax.lax.with_sharding_constraint(form, cut)
        return form

    return jax.jit(of, out_shardings=sampler_shardings(policy, groups).params)


def hand_over(policy: Policy, params: Params, dtype: Any, groups: Mesh) -> Params:
    """The sampling form on all groups, in arrays that no update of params touches.

    Args:
      policy: the policy.
      params: either form, any float dtype. On the devices of `groups` in their order:
        one program. Elsewhere, e.g. on one device as they were read: cast there first.
        What this function has made is returned as it is.
      dtype: of the result.
      groups: of `group_mesh`.
    """
    at = sampler_shardings(policy, groups).params
    if jax.tree.structure(params) == jax.tree.structure(at) and all(
        leaf.dtype == dtype and getattr(leaf, "sharding", None) == sharding
        for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(at))
    ):
        return params
    mesh = _mesh_of(params)
    if mesh is not None and np.array_equal(
        mesh.devices.ravel(), groups.devices.ravel()
    ):
        return program(policy, jnp.dtype(dtype), mesh, groups)(params)
    return jax.device_put(policy.sampling_params(params, dtype), at)


def view(policy: Policy, params: Params, group: Mesh) -> Params:
    """One group's replica, of the same buffers.

    Args:
      policy: the policy.
      params: of `hand_over`.
      group: of `own_groups`.
    """

    def one(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        held = {shard.device: shard.data for shard in leaf.addressable_shards}
        return jax.make_array_from_single_device_arrays(
            leaf.shape, sharding, [held[device] for device in group.devices.flat]
        )

    return jax.tree.map(one, params, sampler_shardings(policy, group).params)


def _mesh_of(params: Params) -> Mesh | None:
    """The one mesh that all params lie on."""
    shardings = {getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)}
    meshes = {s.mesh if isinstance(s, NamedSharding) else None for s in shardings}
    return meshes.pop() if len(meshes) == 1 else None


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
