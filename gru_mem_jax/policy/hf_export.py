"""Writing a policy as a Hugging Face directory."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from gru_mem_jax.agent.config import SETTINGS_FILE, AgentConfig, config_to_dict
from gru_mem_jax.durable_files import whole_folder
from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import (
    CONFIG,
    SIZE_LIMITS,
    TEMPLATE_FOLDER,
    WEIGHTS_INDEX,
    PolicyDir,
    is_tokenizer_file,
)
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.policy.generation import GENERATION
from gru_mem_jax.policy.hf import dtype_name
from gru_mem_jax.policy.hf_names import TensorSpec, tensor_table
from gru_mem_jax.policy.shards import SHARD_BYTES, split_weights, weights_index

_OURS = (CONFIG, WEIGHTS_INDEX, SETTINGS_FILE)


def export_policy(
    policy: Policy,
    params: Params,
    location: str | os.PathLike[str],
    *,
    tokenizer_files: Iterable[str | os.PathLike[str]] | Mapping[str, bytes] = (),
    dtype: Any = None,
    agent_settings: AgentConfig | Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a policy as a Hugging Face directory that transformers loads.

    It is written aside and renamed: whole, or not at all. It holds the weights and
    their config.json, made from the policy; gru_mem.json; and the given small files,
    byte for byte. Nothing else is copied: add code, licences and cards yourself.

    Args:
      policy: as of `make_policy`.
      params: its weights, stacked form.
      location: a directory that does not exist yet, or is empty.
      tokenizer_files: `files.TOKENIZER_FILES` and templates, as paths, or contents by
        name: all that decides ids, roles, template, stops and sampling. Without
        generation_config.json among them, one is made of the policy's bos, eos and
        pad, as transformers does at load.
      dtype: of the stored weights; None: that of the params.
      agent_settings: to be kept as gru_mem.json.
      shard_bytes: most bytes of one weight file; about as much memory is taken.

    Raises:
      PolicyError: a tokenizer file cannot be copied.
      InputError: the target is not empty, or a dtype that does not exist.
      RunError: writing failed.
    """
    if isinstance(agent_settings, AgentConfig):
        agent_settings = config_to_dict(agent_settings)
    dtype = dtype_name(dtype) or jnp.dtype(params["ends"]["embedding"].dtype).name
    files = _contents(tokenizer_files)
    with whole_folder(location) as folder:
        _write_weights(policy, params, folder, dtype, shard_bytes)
        _write_json(folder / CONFIG, policy.config.to_hf(dtype))
        if GENERATION not in files:
            _write_json(folder / GENERATION, _generation_config(policy))
        if agent_settings is not None:
            _write_json(folder / SETTINGS_FILE, agent_settings)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def _contents(
    files: Iterable[str | os.PathLike[str]] | Mapping[str, bytes],
) -> dict[str, bytes]:
    """The small files by name; those given as paths are read."""
    given = files if isinstance(files, Mapping) else dict.fromkeys(files)
    contents = {}
    for name, content in given.items():
        file = pathlib.Path(name)
        root, short = file.parent, file.name
        if root.name == TEMPLATE_FOLDER:
            root, short = root.parent, f"{TEMPLATE_FOLDER}/{short}"
        known = short in SIZE_LIMITS or is_tokenizer_file(short)
        if short in _OURS or not known:
            expected = ", ".join(n for n in SIZE_LIMITS if n not in _OURS)
            raise PolicyError(f"{file}: not a tokenizer file; expected {expected}")
        if content is None:
            content = PolicyDir(root).read_bytes(short)
        if content is None:
            raise PolicyError(f"{file}: missing")
        contents[short] = content
    return contents


def _write_weights(policy, params, folder, dtype: str, shard_bytes: int) -> None:
    table = tensor_table(policy.config)
    itemsize = jnp.dtype(dtype).itemsize
    shards = split_weights(table, itemsize, shard_bytes)
    for file, names in shards.items():
        tensors = {name: _tensor(params, table[name], dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        _write_json(folder / WEIGHTS_INDEX, weights_index(shards, table, itemsize))


def _tensor(params: Params, spec: TensorSpec, dtype: str) -> np.ndarray:
    """One tensor in the file's layout, from the stacked params."""
    leaf = params
    for name in spec.path:
        leaf = leaf[name]
    leaf = jnp.asarray(leaf)
    if spec.layer is not None:
        leaf = jax.lax.dynamic_index_in_dim(leaf, spec.layer, keepdims=False)
    leaf = np.asarray(leaf.T if spec.transposed else leaf)
    return np.ascontiguousarray(leaf.astype(jnp.dtype(dtype)))


def _generation_config(policy: Policy) -> dict[str, Any]:
    config = policy.config.to_hf()
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: config[name] for name in names if config[name] is not None}
    return {"_from_model_config": True, **ids}


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
