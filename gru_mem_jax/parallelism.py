"""The mesh of devices, shardings of parameters and rows, and pmap over groups."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gru_mem_jax import machine
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import plain_numbers

ROLLOUTS = "rollouts"
DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
_TILE = 16  # rows of a tile of bfloat16 on TPU

# Axis of a parameter to axis of the mesh; axes not listed are replicated.
PARAM_RULES = {
    "vocab": TENSOR,
    "embed": FSDP,
    "heads": TENSOR,
    "kv_heads": TENSOR,
    "ffw": TENSOR,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The number of devices along each axis of the mesh; the first devices are used.

    Attributes:
      data: rows are split, weights are replicated.
      fsdp: rows are split, and weights too, gathered when they are needed.
      tensor: heads, feed-forward and vocabulary are split; what it does not divide is
        whole on each of its devices, as the attention of a policy whose query or key
        heads it does not divide.
      One of them may be -1: all devices that the others leave.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        plain_numbers(self)
        sizes = dataclasses.astuple(self)
        whole = all(type(n) is int and (n >= 1 or n == -1) for n in sizes)
        if not whole or sizes.count(-1) > 1:
            raise InputError(
                f"mesh sizes must be whole numbers of at least 1, one of them may be "
                f"-1, got (data, fsdp, tensor) = {sizes}"
            )


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of axes (data, fsdp, tensor).

    Process by process, so that the rows of a process follow one another and no tensor
    group crosses processes; within each in the same order, by the chips' coordinates.
    So tensor groups are neighbours, and devices of a group over data or fsdp lie in the
    same places of their hosts: libtpu has no routes for groups that do not. One process
    alone is left to `mesh_utils`, whose groups over tensor may cross hosts.

    Args:
      config: its sizes.
      devices: e.g. of a topology; None: those of all processes.

    Raises:
      InputError: there are not enough devices, or tensor does not divide those of a
        process.
    """
    sizes = list(dataclasses.astuple(config or MeshConfig()))
    devices = list(jax.devices() if devices is None else devices)
    if -1 in sizes:
        rest = int(-np.prod(sizes))
        sizes[sizes.index(-1)] = max(1, len(devices) // rest)
    needed = int(np.prod(sizes))
    if needed > len(devices):
        raise InputError(
            f"the mesh (data, fsdp, tensor) = {tuple(sizes)} needs {needed} devices, "
            f"there are {len(devices)}"
        )
    owned: dict[tuple[int, int], list[Any]] = {}
    devices.sort(key=_owner)
    for device in devices[:needed]:
        owned.setdefault(_owner(device), []).append(device)
    _check_tensor(sizes[2], owned.values())
    if len(owned) > 1:
        devices = [d for own in owned.values() for d in sorted(own, key=_place)]
        grid = np.asarray(devices, dtype=object).reshape(sizes)
    else:
        grid = _wired(devices[:needed], sizes)
    return Mesh(grid, (DATA, FSDP, TENSOR))


def _owner(device: Any) -> tuple[int, int]:
    """Slice and process of a device; slices first, as they are far from each other."""
    return getattr(device, "slice_index", None) or 0, device.process_index


def _place(device: Any) -> tuple[int, ...]:
    """Where a TPU's device is; of others nothing, which leaves their order."""
    if device.platform != "tpu":
        return ()
    return (*device.coords, device.core_on_chip)


def _check_tensor(tensor: int, owned: Iterable[Sequence[Any]]) -> None:
    for devices in owned:
        if len(devices) % tensor:
            raise InputError(
                f"MeshConfig.tensor {tensor} does not divide the {len(devices)} "
                f"devices of process {devices[0].process_index} in the mesh, and a "
                "tensor group must lie in one process: lower tensor, and raise fsdp or "
                "data instead"
            )


def _wired(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Those of one process as an array of `sizes`, along the links between them."""
    try:
        grid: np.ndarray = mesh_utils.create_device_mesh(
            sizes, devices, allow_split_physical_axes=True
        )
    except (AssertionError, NotImplementedError, ValueError):  # no box of chips
        grid = np.asarray(devices, dtype=object).reshape(sizes)
    return grid


def fsdp_note(width: int, mesh: Mesh) -> str | None:
    """A line where weights do not split well over the mesh's fsdp; None: they do.

    TPUs hold bfloat16 in tiles of 16 rows. Parts that are no whole tiles are gathered
    by adding up padded weights, and their gradients added up whole, in bfloat16.

    Args:
      width: D of the policy.
      mesh: of `make_mesh`.
    """
    data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
    tile = _TILE if mesh.devices.flat[0].platform == "tpu" else 1
    good = [n for n in range(1, fsdp + 1) if fsdp % n == 0 and width % (n * tile) == 0]
    best = max(good, default=1)
    if best == fsdp:
        return None
    if width % fsdp:
        problem = f"does not divide the hidden size {width}: weights are not split"
    else:
        problem = (
            f"leaves a device {width // fsdp} of the hidden size {width}, no multiple "
            f"of {tile}, the tile of a TPU: weights are exchanged padded"
        )
    return f"fsdp {fsdp} {problem}; prefer data {data * fsdp // best}, fsdp {best}"


def device_memory(device: Any = None) -> int | None:
    """Bytes of memory of a device; None: it does not state them.

    An accelerator states its limit. Devices of a CPU share the memory of the machine,
    or of its container.

    Args:
      device: of `jax.devices()`; None: the first.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform == "cpu":
        return machine.memory()
    try:
        limit = (device.memory_stats() or {}).get("bytes_limit")
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return None
    return limit or None


def partition(
    shape: Sequence[int], names: Sequence[str], mesh_shape: Mapping[str, int]
) -> tuple[str | None, ...]:
    """The axis of the mesh that each dimension of a parameter is split over.

    Args:
      shape: its sizes.
      names: its axes' names.
      mesh_shape: size of each axis of the mesh.
    """
    rules = [PARAM_RULES.get(name) for name in names]
    return tuple(
        rule if rule and size % mesh_shape[rule] == 0 else None
        for rule, size in zip(rules, shape, strict=True)
    )


def param_shardings(mesh: Mesh, axes: Any, abstract: Any) -> Any:
    """The sharding of each parameter.

    Args:
      mesh: of `make_mesh`.
      axes: tree of tuples of axis names, as of `Policy.logical_axes`.
      abstract: the same tree of jax.ShapeDtypeStruct.

    Returns:
      The same tree of NamedSharding; axes that the mesh does not divide are replicated.
    """

    def sharding(leaf: jax.ShapeDtypeStruct, names: Sequence[str]) -> NamedSharding:
        spec = partition(leaf.shape, names, mesh.shape)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding, abstract, axes)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of rows `[B, ...]`: split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicated: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh) -> int:
    """The number of parts that rows are split into; B must be a multiple of it."""
    shape: Mapping[str, int] = mesh.shape
    return shape[DATA] * shape[FSDP]


def local_row_shards(mesh: Mesh) -> int:
    """The number of parts of rows that this process holds.

    Raises:
      InputError: it holds none.
    """
    own = jax.process_index()
    groups = mesh.devices.reshape(row_shards(mesh), -1)
    count = sum(int(group[0].process_index == own) for group in groups)
    if not count:
        raise InputError(
            f"the mesh (data, fsdp, tensor) = {tuple(mesh.devices.shape)} has no "
            f"device of process {own}: raise MeshConfig.data or fsdp until all "
            f"{jax.device_count()} devices are used"
        )
    return count


def global_rows(mesh: Mesh, local_rows: Any) -> Any:
    """Rows of all processes as arrays on the mesh.

    Args:
      mesh: of `make_mesh`.
      local_rows: tree of numpy arrays [b, ...] of this process, b the same multiple of
        its `local_row_shards` everywhere.

    Returns:
      The same tree of arrays [B, ...].
    """
    at = row_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(at, np.asarray(x)), local_rows
    )


def pin(x: jax.Array, mesh: Mesh, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Pins an array in a program to the mesh.

    Args:
      x: of any shape.
      mesh: of `make_mesh`.
      axes: of the mesh, that each dimension is split over; None and what is missing:
        over none. The array is left alone if they do not divide it.
    """
    if mesh.size == 1:
        return x
    for size, axis in zip(x.shape, axes):
        names = (axis,) if isinstance(axis, str) else axis or ()
        if size % int(np.prod([mesh.shape[name] for name in names])):
            return x
    pinned: jax.Array = jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, PartitionSpec(*axes))
    )
    return pinned


def pin_rows(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Pins an activation `[B, ...]` to the devices of its rows.

    Weights that are split over fsdp meet rows that are, too: left to itself, the
    compiler may split the activations like the weights and copy the rows everywhere.

    Args:
      x: of any shape.
      mesh: None: one device, nothing to pin.
    """
    return x if mesh is None else pin(x, mesh, (DATA, FSDP))


def pmap_groups(
    fn: Callable[..., Any],
    *,
    split: Literal["questions", "rollouts"] = "questions",
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """Maps a function of arrays `[P, G, ...]` over devices, with `jax.pmap`.

    With split "questions" each device has whole groups: P is padded (with copies of
    the last question) to a multiple of the number of devices, and cut again. With
    "rollouts" the rollouts of a group are split over as many devices as divide G
    evenly: `fn` is called with `axis_name=ROLLOUTS`, for its means over a group.

    Args:
      fn: from trees of arrays [P, G, ...] to a tree of arrays [P, G, ...] (with
        "questions": of [P, ...]). It sees the P and G of one device.
      split: the axis that is split over devices.
      devices: None: all of this process.

    Returns:
      A function of numpy or jax arrays that returns numpy arrays. It compiles once for
      each shape: make it once and reuse it.

    Raises:
      InputError: on a call without arrays, or with arrays that differ in P or G.
    """
    if split not in ("questions", "rollouts"):
        raise InputError(f"split must be questions or rollouts, got {split!r}")
    devices = tuple(jax.local_devices() if devices is None else devices)

    @functools.cache
    def mapped(count: int) -> Callable[..., Any]:
        # Devices are named, so that on many hosts each maps over its own.
        if split == "questions":
            over: Callable[..., Any] = jax.pmap(fn, devices=devices[:count])
        else:
            shared = functools.partial(fn, axis_name=ROLLOUTS)
            over = jax.pmap(shared, axis_name=ROLLOUTS, devices=devices[:count])
        return over

    def over_questions(*trees: Any) -> Any:
        questions, _ = _groups(trees)
        count = len(devices)
        padding = -questions % count

        def spread(x: jax.Array | np.ndarray) -> np.ndarray:
            x = np.asarray(x)
            x = np.concatenate([x, np.repeat(x[-1:], padding, axis=0)])
            return x.reshape(count, len(x) // count, *x.shape[1:])

        def gather(x: jax.Array | np.ndarray) -> np.ndarray:
            x = np.asarray(x)
            return x.reshape(count * x.shape[1], *x.shape[2:])[:questions]

        return jax.tree.map(gather, mapped(count)(*jax.tree.map(spread, trees)))

    def over_rollouts(*trees: Any) -> Any:
        questions, rollouts = _groups(trees)
        count = max(n for n in range(1, len(devices) + 1) if rollouts % n == 0)

        def spread(x: jax.Array | np.ndarray) -> np.ndarray:
            x = np.asarray(x)
            return x.reshape(
                questions, count, rollouts // count, *x.shape[2:]
            ).swapaxes(0, 1)

        def gather(x: jax.Array | np.ndarray) -> np.ndarray:
            x = np.asarray(x).swapaxes(0, 1)
            return x.reshape(questions, rollouts, *x.shape[3:])

        return jax.tree.map(gather, mapped(count)(*jax.tree.map(spread, trees)))

    return over_questions if split == "questions" else over_rollouts


def _groups(trees: Any) -> tuple[int, int]:
    """P and G, the leading sizes of all arrays."""
    sizes = {np.shape(leaf)[:2] for leaf in jax.tree.leaves(trees)}
    if len(sizes) != 1 or len(size := sizes.pop()) != 2 or 0 in size:
        raise InputError(
            "all arrays must begin with the same [P, G], neither of them 0"
        )
    return size
