"""Small Hugging Face directories, written without transformers and without jax."""

import json
import pathlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.hf_names import tensor_table

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def tensors(config: Mapping, prefix: str = "model.") -> dict[str, np.ndarray]:
    """Random float32 values for every tensor of a config.json, by name."""
    rng = np.random.default_rng(0)
    table = tensor_table(PolicyConfig.from_hf(config), prefix)
    return {
        name: rng.normal(size=spec.shape).astype(np.float32)
        for name, spec in table.items()
    }


def write(
    directory: pathlib.Path,
    config: Mapping = CONFIG,
    *,
    values: Mapping[str, np.ndarray] | None = None,
    dtype: str = "float32",
    shards: int = 1,
) -> dict[str, np.ndarray]:
    """Writes config.json and weights; returns the weights as they were stored."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    values = tensors(config) if values is None else values
    values = {name: value.astype(DTYPES[dtype]) for name, value in values.items()}
    if shards == 1:
        save_file(values, directory / "model.safetensors")
        return values
    names = list(values)
    weight_map = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = names[index::shards]
        save_file({name: values[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    write_index(directory, weight_map)
    return values


def write_index(directory: pathlib.Path, weight_map: object) -> None:
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
