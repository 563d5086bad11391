"""Weights by a rule, so that golden files need not hold them."""

import json
import pathlib
import zlib

import numpy as np
from safetensors.numpy import save_file

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def weight(name: str, shape: tuple[int, ...], centre: float) -> np.ndarray:
    """float32 values around `centre`, from the name alone.

    Uses PCG64's raw bits, which no version of numpy changes: uniform with standard
    deviation 0.1 for vectors, 1 / sqrt(columns) for matrices.
    """
    count = int(np.prod(shape))
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(count)
    uniform = (raw >> np.uint64(40)).astype(np.float64) / 2**24 * 2 - 1
    stddev = 0.1 if len(shape) == 1 else shape[-1] ** -0.5
    return (centre + uniform * stddev * 3**0.5).reshape(shape).astype(np.float32)


def centre(name: str, model_type: str) -> float:
    """1 for the norms that are multiplied by their weight; Gemma's by 1 + weight."""
    return 1.0 if "norm" in name and model_type != "gemma3_text" else 0.0


def write_checkpoint(case: str, directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Writes the Hugging Face directory of a golden case; returns what is expected."""
    record = json.loads((GOLDENS / f"{case}.json").read_text())
    tensors = {
        name: weight(name, tuple(shape), centre(name, record["config"]["model_type"]))
        for name, shape in record["shapes"].items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(record["config"]))
    with np.load(GOLDENS / f"{case}.npz") as arrays:
        return dict(arrays)
