"""The engine's memory by formula, and whether it fits the device.

Known before a weight is read or a program compiled. Weights, and keys and values of all
slots and trunks, are counted; the programs' temporaries come on top, so that an engine
that passes may still not fit.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import device_memory
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.sampling.config import EngineConfig


def engine_dtype(config: EngineConfig) -> str:
    """The dtype of weights and cache: float32 on CPU, else bfloat16, if none is set."""
    if config.dtype is not None:
        return config.dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def cache_bytes(shape: PolicyConfig, config: EngineConfig, dtype: Any) -> int:
    """2 N K H (S U + R T) b: keys and values of N layers with K heads of size H.

    S slots of U positions and R trunks of T; without trunks U is max_length. b bytes a
    number; sliding layers keep all positions too.
    """
    numbers = shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    trunk, tail = config.pool_lengths
    positions = config.slots * tail + config.trunks * trunk
    return 2 * numbers * positions * jnp.dtype(dtype).itemsize


def weight_bytes(policy: Policy, dtype: Any) -> int:
    """Bytes of all params in one dtype."""
    leaves = jax.tree.leaves(policy.abstract_params())
    return sum(leaf.size for leaf in leaves) * jnp.dtype(dtype).itemsize


def check_engine_fits(
    policy: Policy,
    config: EngineConfig,
    dtype: Any = None,
    devices: Sequence[Any] | None = None,
    *,
    advice: str = "lower slots, or chunk_size and the budgets that max_length is for",
) -> None:
    """Refuses an engine that cannot fit.

    Args:
      policy: without weights.
      config: sizes.
      dtype: of weights and cache; None: the configuration's.
      devices: that it is sharded over; None: the first.
      advice: for the message.

    Raises:
      InputError: weights and cache exceed the memory.
    """
    dtype = jnp.dtype(engine_dtype(config) if dtype is None else dtype)
    devices = jax.devices()[:1] if devices is None else devices
    limit = device_memory(devices[0])
    if limit is None:
        return
    if devices[0].platform != "cpu":
        limit *= len(devices)
    shape = policy.config
    weights, cache = weight_bytes(policy, dtype), cache_bytes(shape, config, dtype)
    if weights + cache <= limit:
        return
    trunk, tail = config.pool_lengths
    held = f"{config.slots} slots x {tail} tokens"
    if config.trunks:
        held = f"({held} + {config.trunks} trunks x {trunk} tokens)"
    if weights > limit:
        advice = "take a smaller policy, a narrower dtype or more devices"
    raise InputError(
        f"the engine needs {size_text(weights + cache)}, more than the "
        f"{size_text(limit)} of memory: weights {size_text(weights)}, "
        f"keys and values {size_text(cache)} (2 x {shape.num_hidden_layers} layers x "
        f"{shape.num_key_value_heads} heads x {shape.head_dim} x {held} "
        f"x {dtype.itemsize} bytes); {advice}"
    )


def size_text(size: int) -> str:
    """Bytes as text, e.g. "3.1 GiB"."""
    for unit, one in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 1024:.1f} KiB" if size >= 1024 else f"{size} B"
