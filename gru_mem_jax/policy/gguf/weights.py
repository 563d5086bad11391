"""The weights of a GGUF file in Hugging Face's names, order and values, in blocks.

llama.cpp stores rows of query and key for its own RoPE, which rotates neighbours where
Hugging Face rotates halves, and Gemma's norms as 1 + w. Both are undone.
"""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.gguf.header import GGUFHeader, GGUFTensor
from gru_mem_jax.policy.hf_names import TensorSpec, tensor_table

# A block of rows has at most about so many bytes in float32.
_BLOCK_BYTES = 16 << 20
# Frequencies, which config.json has (`ropes`).
ROPE_FREQUENCIES = "rope_freqs.weight"
_PERMUTED = ("llama", "mistral3")


class GGUFWeights:
    """The tensors of a file, matched with the table of its policy.

    Args:
      header: of the file.
      config: that its metadata says.

    Attributes:
      table: Hugging Face's names -> TensorSpec, as of `hf_names.tensor_table`.

    Raises:
      PolicyError: a tensor is missing, unknown, or of another shape.
    """

    def __init__(self, header: GGUFHeader, config: PolicyConfig):
        self._path, self._config = header.path, config
        self._permuted = header.metadata["general.architecture"] in _PERMUTED
        self.table = tensor_table(config)
        names = _gguf_names(header, config, self.table)
        self._stored: dict[str, GGUFTensor] = {}
        for name, spec in self.table.items():
            stored = header.tensors.get(names[name])
            if stored is None:
                raise PolicyError(
                    f"{header.path}: tensor {names[name]!r} of shape {spec.shape} is "
                    "missing"
                )
            if stored.shape != spec.shape:
                raise PolicyError(
                    f"{header.path}: tensor {names[name]!r}: expected shape "
                    f"{spec.shape} by the metadata, got {stored.shape}"
                )
            self._stored[name] = stored
        known = {*names.values(), ROPE_FREQUENCIES}
        for name in header.tensors:
            if name not in known:
                raise PolicyError(
                    f"{header.path}: tensor {name[:200]!r} is not part of a "
                    f"{config.family} policy of this metadata"
                )

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The values of a tensor, float32, in blocks of whole rows.

        Args:
          name: of `table`.

        Raises:
          PolicyError: the file has been cut meanwhile.
        """
        stored, spec = self._stored[name], self.table[name]
        heads = self._permuted and spec.path[1:3] in (("attn", "q"), ("attn", "k"))
        rows = stored.shape[0]
        row_bytes = stored.nbytes // rows
        values = int(np.prod(stored.shape[1:]))
        # Within a head rows change places.
        unit = self._config.head_dim if heads else 1
        step = max(1, _BLOCK_BYTES // (4 * values * unit)) * unit
        if len(stored.shape) == 1:
            # One row of blocks; it is read as a whole.
            rows, row_bytes, step = 1, stored.nbytes, 1
        offset = self._config.traits.norm_offset if spec.path[-1] == "scale" else 0.0
        for start in range(0, rows, step):
            count = min(step, rows - start)
            data = _read(self._path, stored, start * row_bytes, count * row_bytes)
            block = _dequantised(data.reshape(count, row_bytes), stored)
            if len(stored.shape) == 1:
                block = block.reshape(-1)
            if heads:
                block = _halves(block, unit)
            yield block - np.float32(offset) if offset else block


def dequantised(header: GGUFHeader, name: str) -> np.ndarray:
    """A small tensor as it is stored, as float32 in one axis."""
    stored = header.tensors[name]
    data = _read(header.path, stored, 0, stored.nbytes)
    return _dequantised(data[None], stored).reshape(-1)


def _read(path: pathlib.Path, stored: GGUFTensor, start: int, count: int) -> np.ndarray:
    """Bytes of a tensor; the file is one that `read_header` has checked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            file.seek(stored.offset + start)
            data = file.read(count)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None
    if len(data) != count:
        raise PolicyError(
            f"{path}: tensor {stored.name!r} ends early: the file has been cut while "
            "it was read"
        )
    return np.frombuffer(data, np.uint8)


def _dequantised(block: np.ndarray, stored: GGUFTensor) -> np.ndarray:
    """float32 of rows of bytes."""
    import gguf

    kind = gguf.GGMLQuantizationType[stored.quantisation]
    with np.errstate(all="ignore"):  # infinite scales are reported at load
        return gguf.dequantize(block, kind)


def _halves(block: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of whole heads, from neighbours that rotate together to halves that do."""
    pairs = block.reshape(-1, head_dim // 2, 2, *block.shape[1:])
    return pairs.swapaxes(1, 2).reshape(block.shape)


def _gguf_names(
    header: GGUFHeader, config: PolicyConfig, table: dict[str, TensorSpec]
) -> dict[str, str]:
    """GGUF's name of each tensor."""
    import gguf

    architecture = header.metadata["general.architecture"]
    if architecture == "mistral3":  # which older versions of gguf do not know
        architecture = "llama"
    kinds = {text: kind for kind, text in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    found = {}
    for name in table:
        stem, _, ending = name.rpartition(".")
        found[name] = f"{names.get_name(stem)}.{ending}"
    return found
