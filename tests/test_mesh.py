"""Which device of the mesh is where, and what is said of sizes that do not suit."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import (
    MeshConfig,
    fsdp_note,
    global_rows,
    local_row_shards,
    make_mesh,
    pin,
    pin_rows,
    row_sharding,
)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device of a topology."""

    id: int
    process_index: int
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    slice_index: int = 0


def torus(width, height, slices=1):
    """Slices of `width` by `height` chips, four on a host, host after host."""
    found = []
    for number in range(slices):
        corners = [(x, y) for y in range(0, height, 2) for x in range(0, width, 2)]
        for host, (x, y) in enumerate(corners):
            for dy, dx in np.ndindex(2, 2):
                found.append(
                    Device(
                        id=len(found),
                        process_index=host + number * len(corners),
                        coords=(x + dx, y + dy, 0),
                        slice_index=number,
                    )
                )
    return found


def box(devices):
    coords = np.asarray([device.coords for device in devices])
    return tuple((coords.max(axis=0) - coords.min(axis=0) + 1).tolist())


@pytest.mark.parametrize("sizes", [(8, 32, 1), (1, 64, 4), (4, 32, 2), (256, 1, 1)])
def test_rows_of_a_process_follow_one_another_and_tensor_groups_are_neighbours(sizes):
    devices = torus(16, 16)
    names = ("data", "fsdp", "tensor")
    mesh = make_mesh(MeshConfig(**dict(zip(names, sizes))), devices)
    assert mesh.devices.shape == sizes
    assert {d.id for d in mesh.devices.flat} == set(range(256))
    groups = mesh.devices.reshape(-1, sizes[2])
    assert all(len({d.process_index for d in group}) == 1 for group in groups)
    owners = [group[0].process_index for group in groups]
    assert owners == sorted(owners)
    if sizes[2] > 1:
        wired = {2: {(2, 1, 1), (1, 2, 1)}, 4: {(2, 2, 1)}}[sizes[2]]
        assert {box(group) for group in groups} <= wired
    if sizes == (8, 32, 1):  # 8 hosts in a line
        assert {box(group) for group in mesh.devices[:, :, 0]} == {(16, 2, 1)}


@pytest.mark.parametrize("sizes", [(8, 32, 1), (4, 32, 2), (2, 32, 4)])
def test_groups_over_data_are_lines(sizes):
    """In the same place of each host: libtpu has no routes for groups that are not.

    `mesh_utils` makes a ring of the host at the origin, and of no other.
    """
    names = ("data", "fsdp", "tensor")
    mesh = make_mesh(MeshConfig(**dict(zip(names, sizes))), torus(16, 16))
    step = 16 // sizes[0]
    for group in mesh.devices.reshape(sizes[0], -1).T:
        coords = np.asarray([device.coords for device in group])
        np.testing.assert_array_equal(
            np.diff(coords, axis=0), [[0, step, 0]] * (sizes[0] - 1)
        )


def test_slices_are_apart():
    """Weights are gathered within a slice: data is split over slices first."""
    devices = torus(4, 4, slices=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=16), devices[::-1])
    assert [{d.slice_index for d in group.flat} for group in mesh.devices] == [{0}, {1}]


def test_a_tensor_group_does_not_cross_processes():
    with pytest.raises(
        InputError, match="tensor 8 does not divide the 4 devices of proc"
    ):
        make_mesh(MeshConfig(data=2, tensor=8), torus(4, 4))
    one_host = [dataclasses.replace(d, process_index=0) for d in torus(4, 2)]
    assert make_mesh(MeshConfig(tensor=8), one_host).devices.shape == (1, 1, 8)


def test_some_devices_of_a_process():
    """The first ones, in order where they are no box."""
    mesh = make_mesh(MeshConfig(fsdp=3), torus(4, 4))
    assert [d.id for d in mesh.devices.flat] == [0, 1, 2]
    mesh = make_mesh(MeshConfig(data=3, fsdp=2))
    assert [d.id for d in mesh.devices.flat] == [d.id for d in jax.devices()[:6]]
    with pytest.raises(InputError, match="needs 16 devices, there are 8"):
        make_mesh(MeshConfig(fsdp=16))


@pytest.mark.parametrize(
    ("width", "sizes", "says"),
    [
        (3584, (2, 32, 1), None),
        (3584, (1, 64, 1), "leaves a device 56 .* prefer data 2, fsdp 32"),
        (3584, (1, 128, 1), "leaves a device 28 .* prefer data 4, fsdp 32"),
        (896, (1, 8, 1), None),
        (896, (1, 16, 1), "leaves a device 56 .* prefer data 2, fsdp 8"),
        (
            100,
            (2, 8, 1),
            "does not divide the hidden size 100.* prefer data 16, fsdp 1",
        ),
        (100, (16, 1, 1), None),
    ],
)
def test_weights_that_do_not_split_well(width, sizes, says):
    names = ("data", "fsdp", "tensor")
    mesh = make_mesh(MeshConfig(**dict(zip(names, sizes))), torus(16, 16))
    note = fsdp_note(width, mesh)
    if says is None:
        assert note is None
    else:
        assert re.search(says, note)


def test_on_cpu_weights_need_no_tiles():
    mesh = make_mesh(MeshConfig(fsdp=8))
    assert fsdp_note(16, mesh) is None
    assert "prefer data 4, fsdp 2" in fsdp_note(18, mesh)


def test_rows_of_one_process_are_all_rows():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert local_row_shards(mesh) == 4
    rows = {"a": np.arange(24).reshape(8, 3), "b": np.ones(8, np.float32)}
    whole = global_rows(mesh, rows)
    for name, array in rows.items():
        np.testing.assert_array_equal(whole[name], array)
        assert whole[name].sharding == row_sharding(mesh)
    elsewhere = make_mesh(MeshConfig(data=4), torus(2, 2))
    assert local_row_shards(elsewhere) == 4
    other = [dataclasses.replace(d, process_index=1) for d in torus(2, 2)]
    with pytest.raises(InputError, match="no device of process 0"):
        local_row_shards(make_mesh(MeshConfig(data=4), other))


def test_what_does_not_divide_is_not_pinned():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows, few = jnp.ones((8, 4)), jnp.ones((6, 4))
    assert pin_rows(rows, mesh).sharding == row_sharding(mesh)
    assert pin_rows(few, mesh) is few
    assert pin_rows(few, None) is few
    assert pin(few, mesh, "data", "tensor").sharding.shard_shape((6, 4)) == (3, 2)
