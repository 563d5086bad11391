"""A GGUF file written as a Hugging Face directory."""

import dataclasses
import importlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gru_mem_jax.durable_files import whole_folder
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import CONFIG, WEIGHTS_INDEX
from gru_mem_jax.policy.gguf.config import read_config
from gru_mem_jax.policy.gguf.header import read_header
from gru_mem_jax.policy.gguf.tokenizer import tokenizer_files
from gru_mem_jax.policy.gguf.weights import GGUFWeights
from gru_mem_jax.policy.shards import (
    SHARD_BYTES,
    split_weights,
    weights_index,
    write_in_parts,
)

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """What was imported.

    Attributes:
      family: of the policy.
      parameters: how many weights it has.
      quantisations: that the file holds, "F32", "Q4_1", ..., sorted.
      has_template: whether there is a chat template, which `gru-mem ask` needs.
    """

    family: str
    parameters: int
    quantisations: tuple[str, ...]
    has_template: bool


def import_gguf(
    file: str | os.PathLike[str],
    location: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[int, int], None] = lambda done, count: None,
) -> Imported:
    """Writes the policy of a GGUF file as a directory that `load_policy` reads.

    It is written aside and renamed: whole, or not at all. Everything in the file is
    checked before the first weight is read; a few blocks of rows are held at a time.

    Args:
      file: of architecture llama, mistral3, qwen2, qwen3 or gemma3.
      location: a directory that does not exist yet, or is empty.
      dtype: of the stored weights: float32 or bfloat16.
      shard_bytes: most bytes of one weight file.
      on_tensor: called with how many tensors are written, and how many there are.

    Returns:
      What was imported.

    Raises:
      PolicyError: the file cannot be read, is damaged or not supported; says why.
      InputError: the target is not empty, the dtype is another, or the gguf package is
        missing.
      RunError: writing failed.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    try:
        importlib.import_module("gguf")
    except ImportError as error:
        raise InputError(
            f"GGUF files are read with the gguf package ({error}): pip install "
            "'gru_mem_jax[gguf]'"
        ) from None
    header = read_header(os.path.expanduser(file))
    config = read_config(header)
    weights = GGUFWeights(header, config)
    files = tokenizer_files(header, config)
    with whole_folder(location) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        _write_json(folder / CONFIG, config.to_hf(dtype))
        _write_weights(weights, folder, dtype, shard_bytes, on_tensor)
    return Imported(
        family=config.family,
        parameters=sum(math.prod(spec.shape) for spec in weights.table.values()),
        quantisations=tuple(sorted({t.quantisation for t in header.tensors.values()})),
        has_template="chat_template.jinja" in files,
    )


def _write_weights(
    weights: GGUFWeights,
    folder: pathlib.Path,
    dtype: str,
    shard_bytes: int,
    on_tensor: Callable[[int, int], None],
) -> None:
    table, itemsize = weights.table, {"float32": 4, "bfloat16": 2}[dtype]
    shards = split_weights(table, itemsize, shard_bytes)
    done = 0

    def blocks(names: list[str]) -> Iterator[np.ndarray]:
        nonlocal done
        for name in names:
            for block in weights.blocks(name):
                yield block if dtype == "float32" else _bfloat16(block)
            done += 1
            on_tensor(done, len(table))

    for file, names in shards.items():
        shapes = {name: table[name].shape for name in names}
        write_in_parts(folder / file, shapes, dtype, blocks(names))
    if len(shards) > 1:
        index = weights_index(shards, table, itemsize)
        _write_json(folder / WEIGHTS_INDEX, index)


def _bfloat16(block: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16: numpy has no such dtype."""
    import gguf

    return gguf.quantize(block, gguf.GGMLQuantizationType.BF16)


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
