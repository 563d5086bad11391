"""Weights on their way from the learner's mesh to the engines."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh, param_shardings
from gru_mem_jax.planning.collectives import read_collectives
from gru_mem_jax.sampling.footprint import weight_bytes
from gru_mem_jax.sampling.hand_over import (
    group_mesh,
    hand_over,
    own_groups,
    program,
    view,
)

MESHES = [MeshConfig(data=8), MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)]


def learner_params(small, mesh):
    at = param_shardings(
        mesh, small.policy.logical_axes(), small.policy.abstract_params()
    )
    # From the host: the fixture's own arrays are not to be donated.
    return jax.device_put(jax.tree.map(np.array, small.params), at)


def pointers(leaf):
    return {
        shard.device.id: shard.data.unsafe_buffer_pointer()
        for shard in leaf.addressable_shards
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize(
    "config", MESHES, ids=lambda c: f"{c.data}x{c.fsdp}x{c.tensor}"
)
def test_all_engines_have_the_learners_weights_bit_for_bit(
    small, config, tensor, dtype
):
    mesh = make_mesh(config)
    params = learner_params(small, mesh)
    groups = group_mesh(mesh, tensor)
    laid = hand_over(small.policy, params, dtype, groups)
    expected = small.policy.sampling_params(small.params, dtype)
    views = [view(small.policy, laid, group) for group in own_groups(groups)]
    assert len(views) == 8 // tensor
    for leaves in zip(*map(jax.tree.leaves, (expected, laid, *views)), strict=True):
        truth, whole, *parts = leaves
        assert whole.dtype == dtype
        for part in parts:
            assert len(part.devices()) == tensor
            np.testing.assert_array_equal(np.asarray(part), np.asarray(truth))
            # A view is of the very buffers: no copy, and nothing to synchronise.
            assert pointers(part).items() <= pointers(whole).items()
    # What was made is not made again.
    again = hand_over(small.policy, laid, dtype, groups)
    assert all(map(lambda a, b: a is b, jax.tree.leaves(again), jax.tree.leaves(laid)))


def test_an_update_in_place_does_not_reach_the_engines(small):
    """The learner donates its params to each update: none may be an engine's too."""
    for config in (MeshConfig(), MeshConfig(fsdp=2)):
        mesh = make_mesh(config)
        params = learner_params(small, mesh)
        laid = hand_over(small.policy, params, "float32", group_mesh(mesh, 1))
        before = [np.asarray(leaf) for leaf in jax.tree.leaves(laid)]
        used = {p for leaf in jax.tree.leaves(params) for p in pointers(leaf).values()}
        for leaf in jax.tree.leaves(laid):
            assert used.isdisjoint(pointers(leaf).values())
        update = jax.jit(
            lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0
        )
        update(params)
        for leaf, old in zip(jax.tree.leaves(laid), before, strict=True):
            np.testing.assert_array_equal(np.asarray(leaf), old)


@pytest.mark.parametrize("tensor", [1, 2])
def test_the_hand_over_holds_little_beside_its_result(small, tensor):
    mesh = make_mesh(MeshConfig(fsdp=8))
    params = learner_params(small, mesh)
    groups = group_mesh(mesh, tensor)
    made = program(small.policy, jnp.dtype("float32"), mesh, groups)
    compiled = made.lower(params).compile()
    out = weight_bytes(small.policy, "float32", tensor)
    memory = compiled.memory_analysis()
    assert memory.output_size_in_bytes == pytest.approx(out, rel=0.01)
    assert memory.temp_size_in_bytes < out / 2
    # Nobody is sent much more than it keeps.
    assert read_collectives(compiled.as_text()).total < 1.25 * out


def test_a_mesh_in_another_order_of_devices(small):
    """As `mesh_utils` makes them of a torus."""
    order = np.asarray(jax.devices())[[0, 4, 1, 5, 2, 6, 3, 7]].reshape(1, 8, 1)
    mesh = Mesh(order, ("data", "fsdp", "tensor"))
    params = learner_params(small, mesh)
    for groups in (group_mesh(mesh, 2), group_mesh(make_mesh(MESHES[0]), 2)):
        laid = hand_over(small.policy, params, "float32", groups)
        expected = small.policy.sampling_params(small.params, "float32")
        for group in own_groups(groups):
            part = view(small.policy, laid, group)
            jax.tree.map(np.testing.assert_array_equal, part, expected)


def device(number, process):
    return types.SimpleNamespace(id=number, process_index=process)


def fake_mesh(processes):
    """Device i is of process processes[i]."""
    devices = [device(i, process) for i, process in enumerate(processes)]
    grid = np.asarray(devices, dtype=object).reshape(1, -1, 1)
    return types.SimpleNamespace(devices=grid)


@pytest.mark.parametrize(
    ("processes", "tensor", "expected"),
    [
        ([0, 0, 1, 1], 2, [[0, 1], [2, 3]]),
        ([0, 1, 0, 1], 2, [[0, 2], [1, 3]]),  # ordered by process
        ([0, 1, 0, 1], 1, [[0], [1], [2], [3]]),  # any order will do
        ([1, 1, 0, 0], 2, [[0, 1], [2, 3]]),
    ],
)
def test_a_group_is_of_one_process(monkeypatch, processes, tensor, expected):
    monkeypatch.setattr("gru_mem_jax.sampling.hand_over.Mesh", lambda grid, names: grid)
    grid = group_mesh(fake_mesh(processes), tensor)
    assert [[d.id for d in group.flat] for group in grid] == expected


@pytest.mark.parametrize(
    ("processes", "tensor", "text"),
    [
        ([0, 0, 1, 1], 4, "is 4, and .* they have 2 devices each"),
        ([0, 0, 0], 2, "they have 3 devices each"),
        ([0, 0, 1], 2, "they have 1 or 2 devices each"),
    ],
)
def test_groups_that_would_cross_processes_are_refused(processes, tensor, text):
    with pytest.raises(InputError, match=text):
        group_mesh(fake_mesh(processes), tensor)
