"""How weights are spread over safetensors files; a file that is written in parts."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gru_mem_jax.policy.files import WEIGHTS
from gru_mem_jax.policy.hf_names import TensorSpec

SHARD_BYTES = 2 << 30


def split_weights(
    table: Mapping[str, TensorSpec], itemsize: int, shard_bytes: int = SHARD_BYTES
) -> dict[str, list[str]]:
    """Names by file: of at most `shard_bytes`, or of one tensor where it is larger."""
    shards: list[list[str]] = []
    size = 0
    for name, spec in table.items():
        nbytes = math.prod(spec.shape) * itemsize
        if not shards or size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    count = len(shards)
    if count == 1:
        return {WEIGHTS: shards[0]}
    return {
        f"model-{number:05d}-of-{count:05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def weights_index(
    shards: Mapping[str, list[str]], table: Mapping[str, TensorSpec], itemsize: int
) -> dict[str, Any]:
    """The contents of model.safetensors.index.json."""
    size = sum(math.prod(spec.shape) for spec in table.values())
    weight_map = {name: file for file, names in shards.items() for name in names}
    return {"metadata": {"total_size": size * itemsize}, "weight_map": weight_map}


def write_in_parts(
    path: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    parts: Iterable[np.ndarray],
) -> None:
    """Writes a safetensors file without holding a whole tensor.

    The safetensors library takes all tensors of a file at once.

    Args:
      path: of the file.
      shapes: of the tensors, in their order in the file.
      dtype: of all: float32 or bfloat16.
      parts: their values, tensor after tensor, each in one or more arrays whose bytes
        are those of the file.

    Raises:
      OSError: as the file system gives it.
      ValueError: the parts are more or fewer than the shapes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    short, itemsize = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}[dtype]
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * itemsize
        header[name] = {
            "dtype": short,
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    written = 0
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            data = np.ascontiguousarray(part)
            file.write(data.view(np.uint8).data)
            written += data.nbytes
    if written != end:
        raise ValueError(f"{path}: {written} bytes of weights, expected {end}")
