"""Error messages for paths that are not policy directories: what to give instead."""

import os
import pathlib
import re
import shlex
import stat

from gru_mem_jax.records import closest

_EXPECTED = "a Hugging Face directory: config.json, *.safetensors and a tokenizer"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", re.ASCII)
_HUB_PAGE = re.compile(r"(?:hf:/?|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)(.+)")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z")
_OTHERS = (".onnx", ".h5", ".msgpack", ".tflite", ".npz", ".mlpackage")
_SHOWN = 5


def explain_missing(location: str) -> str:
    """Why a path does not exist, guessed from its form."""
    start = f"{location!r}: no such policy directory"
    text = location.strip()
    if text != location and os.path.exists(text):
        return f"{start}; it has surrounding blanks: did you mean {text!r}?"
    page = _HUB_PAGE.fullmatch(text)
    name = page[1].split("?")[0].strip("/") if page else text
    name = "/".join(name.split("/")[:2]) if page else name
    if (
        (page or not os.path.isdir(name.split("/")[0]))
        and _HUB_NAME.fullmatch(name)
        and not name.startswith(".")
    ):
        name += "" if "@" in name else "@main"
        return (
            f"{start}; a hub repository is given with its revision, a commit, tag or "
            f"branch: hf://{name}"
        )
    path = pathlib.Path(text)
    if path.parent.is_dir():
        folders = [entry.name for entry in os.scandir(path.parent) if entry.is_dir()]
        if (near := closest(path.name, folders)) is not None:
            return f"{start}; did you mean {str(path.with_name(near))!r}?"
    return f"{start} (a hub repository is given as hf://org/name@revision)"


def explain_file(path: pathlib.Path) -> str:
    """The message for a file that was given as a policy directory."""
    start = f"{path}: expected a policy directory, got a file"
    suffix = path.suffix.lower()
    if suffix == ".gguf" or _begins_with(path, b"GGUF"):
        return f"{start}; {_import(path)}"
    if suffix in (".safetensors", ".json", ".jinja", ".model"):
        return f"{start}; give the directory that it is in: {path.parent}"
    if suffix in _PICKLED:
        return (
            f"{start}; pickled weights can run code and are never opened: convert them "
            f"to safetensors, as {_EXPECTED}"
        )
    if suffix in _ARCHIVES:
        return f"{start}; unpack the archive, and give the directory that is in it"
    if suffix in _OTHERS:
        return f"{start}; weights of that kind cannot be read: take {_EXPECTED}"
    return start


def explain_folder(root: pathlib.Path) -> str | None:
    """The message for a directory without config.json or weights; None: unknown."""
    try:
        entries = {e.name: e.is_dir() for e in os.scandir(root)}
    except OSError:
        return None
    start = f"{root}: expected a policy directory, got"
    files = sorted(name for name, is_dir in entries.items() if not is_dir)
    if "environment.json" in files and "checkpoints" in entries:
        return f"{start} a run folder: `gru-mem export {root} --out DIR` writes one"
    marks = {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"}
    steps = [name for name, is_dir in entries.items() if is_dir and name.isdecimal()]
    if marks & set(files) or (steps and root.name == "checkpoints"):
        return (
            f"{start} an Orbax checkpoint: `gru-mem export RUN --out DIR`, RUN the run "
            "folder that it is in, writes one"
        )
    if "adapter_config.json" in files:
        return (
            f"{start} LoRA adapters alone: merge them into the policy that they were "
            "trained on (`gru-mem export RUN --policy BASE --out DIR`, or PEFT)"
        )
    inner = [
        root / name
        for pattern in ("*/config.json", "snapshots/*/config.json")
        for name in sorted(path.parent.relative_to(root) for path in root.glob(pattern))
    ]
    if inner:
        return f"{start} a folder around one: did you mean {inner[0]}?"
    kinds = {pathlib.Path(name).suffix.lower() for name in files}
    shown = ", ".join(files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")
    if ".gguf" in kinds:
        weights = [name for name in files if name.lower().endswith(".gguf")]
        return f"{start} {shown}; {_import(root / weights[0])}"
    if "config.json" not in files and kinds & set(_PICKLED):
        return f"{start} weights without config.json ({shown}); take {_EXPECTED}"
    return None


def _import(path: pathlib.Path) -> str:
    return (
        "GGUF weights (llama.cpp, ollama): make a policy directory of them, "
        f"`gru-mem import {shlex.quote(str(path))} --out DIR`"
    )


def _begins_with(path: pathlib.Path, magic: bytes) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return stat.S_ISREG(os.fstat(fd).st_mode) and file.read(4) == magic
    except OSError:
        return False
