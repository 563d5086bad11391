"""The engine's memory by formula, whether it fits, and on how many devices.

Known before a weight is read or a program compiled. Weights, and keys and values of all
slots and trunks, are counted; the programs' temporaries come on top, so that an engine
that passes may still not fit.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import DATA, FSDP, TENSOR, device_memory, partition
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.sampling.config import EngineConfig

_LARGE = 4  # a cache of this part of the memory is worth a line


def engine_dtype(config: EngineConfig) -> str:
    """The dtype of weights and cache: float32 on CPU, else bfloat16, if none is set."""
    if config.dtype is not None:
        return config.dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def cache_bytes(
    shape: PolicyConfig, config: EngineConfig, dtype: Any, tensor: int = 1
) -> int:
    """2 N K H (S U + R T) b: keys and values of N layers with K heads of size H.

    S slots of U positions and R trunks of T; without trunks U is max_length. b bytes a
    number; sliding layers keep all positions too. On each of `tensor` devices, which
    the heads are split over where they divide.
    """
    heads = shape.num_key_value_heads
    heads = heads // tensor if heads % tensor == 0 else heads
    numbers = shape.num_hidden_layers * heads * shape.head_dim
    trunk, tail = config.pool_lengths
    positions = config.slots * tail + config.trunks * trunk
    return 2 * numbers * positions * jnp.dtype(dtype).itemsize


def weight_bytes(policy: Policy, dtype: Any, tensor: int = 1) -> int:
    """Bytes of all params in one dtype, on each of `tensor` devices."""
    sizes = {DATA: 1, FSDP: 1, TENSOR: tensor}
    shapes = policy.abstract_params()
    numbers = jax.tree.leaves(shard_sizes(shapes, policy.logical_axes(), sizes))
    return sum(numbers) * jnp.dtype(dtype).itemsize


def shard_sizes(shapes: Any, axes: Any, sizes: Mapping[str, int]) -> Any:
    """Numbers of each parameter that one device holds.

    Args:
      shapes: tree of jax.ShapeDtypeStruct.
      axes: the same tree of names, as of `Policy.logical_axes`.
      sizes: of each axis of the mesh.
    """

    def size(leaf: Any, names: Sequence[str]) -> int:
        split = partition(leaf.shape, names, sizes)
        return leaf.size // math.prod(sizes[axis] for axis in split if axis)

    return jax.tree.map(size, shapes, axes)


def choose_tensor(
    devices: Sequence[Any], need: Callable[[int], int], limit: int | None
) -> int:
    """The devices of one engine: as few as hold it, for many engines side by side.

    Args:
      devices: that engines are to run on.
      need: bytes on each device, from the devices of one engine.
      limit: bytes that a device has; None: unknown.

    Returns:
      The smallest power of two that divides every process's number of devices and fits;
      if none does the one that needs least.
    """
    counts = collections.Counter(device.process_index for device in devices)
    common = math.gcd(*counts.values())
    sizes = [1 << i for i in range(common.bit_length()) if common % (1 << i) == 0]
    fitting = (n for n in sizes if limit is None or need(n) <= limit)
    return next(fitting, None) or min(sizes, key=need)


def with_tensor(
    policy: Policy, config: EngineConfig, devices: Sequence[Any]
) -> EngineConfig:
    """The configuration with its `tensor`, for engines that have the devices alone."""
    if config.tensor is not None:
        return config
    dtype, limit = engine_dtype(config), _share(devices)

    def need(tensor: int) -> int:
        weights = weight_bytes(policy, dtype, tensor)
        return weights + cache_bytes(policy.config, config, dtype, tensor)

    return dataclasses.replace(config, tensor=choose_tensor(devices, need, limit))


def with_fitting_slots(
    policy: Policy, config: EngineConfig, devices: Sequence[Any]
) -> EngineConfig:
    """The configuration with fewer slots, where nobody has set them and they are many.

    Slots that are left at their default are halved until weights and cache fit, and on
    a CPU, whose memory others use too, until the cache is a quarter of it at most.

    Args:
      policy: without weights.
      config: sizes of an engine, with its `tensor`.
      devices: that engines are to run on.
    """
    limit = _share(devices)
    if limit is None or config.slots != type(config).slots:
        return config
    dtype, tensor = engine_dtype(config), config.tensor or 1
    room = limit - weight_bytes(policy, dtype, tensor)
    if devices[0].platform == "cpu":
        room = min(room, limit // _LARGE)
    while config.slots > 1 and cache_bytes(policy.config, config, dtype, tensor) > room:
        config = dataclasses.replace(config, slots=config.slots // 2)
    return config


def slots_note(
    policy: Policy, whole: EngineConfig, fitting: EngineConfig, devices: Sequence[Any]
) -> str | None:
    """A line where `with_fitting_slots` has taken slots from `whole`.

    Args:
      policy: without weights.
      whole, fitting: sizes of an engine, with `tensor`.
      devices: that engines run on.
    """
    if fitting.slots == whole.slots:
        return None
    return (
        f"{fitting.slots} slots, not the default, which takes too much "
        f"({size_note(policy, whole, devices) or 'more than there is'}); set "
        "EngineConfig.slots to have others"
    )


def size_note(
    policy: Policy, config: EngineConfig, devices: Sequence[Any]
) -> str | None:
    """A line on weights and cache, where the cache is a quarter of the memory or more.

    Args:
      policy: without weights.
      config: sizes of an engine, with its `tensor`.
      devices: that engines run on.
    """
    limit = _share(devices)
    dtype, tensor = engine_dtype(config), config.tensor or 1
    cache = cache_bytes(policy.config, config, dtype, tensor)
    if limit is None or _LARGE * cache < limit:
        return None
    weights = size_text(weight_bytes(policy, dtype, tensor))
    each = " of each device" if len(devices) > 1 else ""
    return (
        f"weights {weights}, cache {size_text(cache)} of {size_text(limit)} of memory"
        f"{each}: {config.slots} slots of {config.max_length} tokens"
    )


def _share(devices: Sequence[Any]) -> int | None:
    """Bytes that each of the devices may use; those of a CPU share the machine's."""
    limit = device_memory(devices[0])
    shared = limit is not None and devices[0].platform == "cpu"
    return limit // len(devices) if shared else limit


def check_engine_fits(
    policy: Policy,
    config: EngineConfig,
    dtype: Any = None,
    devices: Sequence[Any] | None = None,
    *,
    tensor: int | None = None,
    advice: str = "lower slots, or chunk_size and the budgets that max_length is for",
) -> None:
    """Refuses engines that cannot fit.

    Args:
      policy: without weights.
      config: sizes of an engine.
      dtype: of weights and cache; None: the configuration's.
      devices: that engines run on; None: the first.
      tensor: devices of each engine; None: all.
      advice: for the message.

    Raises:
      InputError: weights and cache exceed the memory.
    """
    dtype = jnp.dtype(engine_dtype(config) if dtype is None else dtype)
    devices = jax.local_devices()[:1] if devices is None else devices
    limit = device_memory(devices[0])
    if limit is None:
        return
    ways = len(devices) if tensor is None else tensor
    shape = policy.config
    weights = weight_bytes(policy, dtype, ways)
    cache = cache_bytes(shape, config, dtype, ways)
    shared = devices[0].platform == "cpu"  # one memory for all
    if (weights + cache) * (len(devices) if shared else 1) <= limit:
        return
    trunk, tail = config.pool_lengths
    held = f"{config.slots} slots x {tail} tokens"
    if config.trunks:
        held = f"({held} + {config.trunks} trunks x {trunk} tokens)"
    if weights > limit:
        advice = "take a smaller policy, a narrower dtype or more devices"
    each = " on each device" if len(devices) > 1 else ""
    split = f", split over {ways} devices" if ways > 1 else ""
    raise InputError(
        f"the engine needs {size_text(weights + cache)}{each}, more than the "
        f"{size_text(limit)} of memory: weights {size_text(weights)}, "
        f"keys and values {size_text(cache)} (2 x {shape.num_hidden_layers} layers x "
        f"{shape.num_key_value_heads} heads x {shape.head_dim} x {held} "
        f"x {dtype.itemsize} bytes{split}); {advice}"
    )


def size_text(size: int) -> str:
    """Bytes as text, e.g. "3.1 GiB"."""
    for unit, one in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 1024:.1f} KiB" if size >= 1024 else f"{size} B"
