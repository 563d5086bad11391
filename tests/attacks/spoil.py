"""Ways to spoil a good policy directory; no jax here."""

import json
import os
import pathlib
import socket
import struct
from collections.abc import Callable

import numpy as np
from safetensors.numpy import load_file, save_file

Spoiler = Callable[[pathlib.Path], object]

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
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_good(directory: pathlib.Path) -> None:
    """A directory that loads: Qwen2 of two layers in one file of 13 kB."""
    shapes = {"model.embed_tokens.weight": (48, 16), "model.norm.weight": (16,)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        for name, size in (("q", 16), ("k", 8), ("v", 8)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (size, 16)
            shapes[f"{at}self_attn.{name}_proj.bias"] = (size,)
        shapes[f"{at}self_attn.o_proj.weight"] = (16, 16)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{name}.weight"] = (16,)
        for name in ("gate", "up"):
            shapes[f"{at}mlp.{name}_proj.weight"] = (24, 16)
        shapes[f"{at}mlp.down_proj.weight"] = (16, 24)
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, directory / WEIGHTS)
    (directory / "config.json").write_text(json.dumps(CONFIG))


def config(**changes: object) -> Spoiler:
    def spoil(directory):
        (directory / "config.json").write_text(json.dumps({**CONFIG, **changes}))

    return spoil


def config_text(text: str | bytes) -> Spoiler:
    data = text.encode() if isinstance(text, str) else text
    return lambda directory: (directory / "config.json").write_bytes(data)


def tensors(change: Callable[[dict], object]) -> Spoiler:
    """Rewrites the weights after `change` was applied to them."""

    def spoil(directory):
        tensors = load_file(directory / WEIGHTS)
        change(tensors)
        save_file(tensors, directory / WEIGHTS)

    return spoil


def shard(directory: pathlib.Path) -> dict[str, str]:
    """Splits the weights over two files; returns the weight map, not yet written."""
    tensors = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    names = list(tensors)
    for number, file in enumerate(SHARDS):
        save_file({n: tensors[n] for n in names[number::2]}, directory / file)
    return {n: file for k, file in enumerate(SHARDS) for n in names[k::2]}


def index(change: Callable[[dict], object]) -> Spoiler:
    """Shards the weights, and writes what `change` makes of the weight map."""

    def spoil(directory):
        weight_map = shard(directory)
        changed = change(weight_map)
        changed = weight_map if changed is None else changed
        (directory / INDEX).write_text(json.dumps({"weight_map": changed}))

    return spoil


def points_to(file: object) -> Spoiler:
    return index(lambda weight_map: weight_map.update({"model.norm.weight": file}))


def header(header: object, data: bytes = b"", length: int | None = None):
    """A safetensors file with this header, of this claimed length."""

    def spoil(directory):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        (directory / WEIGHTS).write_bytes(struct.pack("<Q", size) + text + data)

    return spoil


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def cut(file: str, keep: Callable[[int], int]) -> Spoiler:
    def spoil(directory):
        path = directory / file
        os.truncate(path, keep(path.stat().st_size))

    return spoil


def instead(name: str, make: Callable[[pathlib.Path], object]):
    """Something that is no regular file under a name that is opened."""

    def spoil(directory):
        path = directory / name
        path.unlink(missing_ok=True)
        make(path)

    return spoil


def make_socket(path: pathlib.Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
        server.close()


def pickle_only(name: str) -> Spoiler:
    def spoil(directory):
        (directory / WEIGHTS).unlink()
        # Unpickled, this would write a file; it must not be looked into at all.
        (directory / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")

    return spoil


def sparse(directory: pathlib.Path, head: bool = False) -> None:
    """A hole of 512 GB that config.json agrees with; it takes no disk.

    With `head` there is a second one, which would have to be compared with the first.
    """
    tied = {"tie_word_embeddings": True} if head else {}
    config(vocab_size=2**24, hidden_size=2**13, **tied)(directory)
    size = 2**24 * 2**13 * 4
    tensors = load_file(directory / WEIGHTS)
    if head:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    entries, at = {}, 0
    wide = {16: 2**13}
    for name, value in tensors.items():
        shape = [wide.get(n, n) for n in value.shape]
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            shape = [2**24, 2**13]
        if name.endswith("q_proj.bias"):
            shape = [2**13]
        end = at + int(np.prod(shape)) * 4
        entries[name] = entry(shape, at, end)
        at = end
    for name, spec in entries.items():
        if "self_attn.k" in name or "self_attn.v" in name:
            spec["shape"][0] = 2**12
    at = 0
    for spec in entries.values():
        end = at + int(np.prod(spec["shape"])) * 4
        spec["data_offsets"] = [at, end]
        at = end
    text = json.dumps(entries).encode()
    with open(directory / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    if at < size:
        raise RuntimeError("the hole is smaller than it was meant to be")


def rename(tensors: dict, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)
