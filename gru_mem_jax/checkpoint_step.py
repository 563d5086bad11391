"""Reading one saved step: its sha256 list first, then its record, then its arrays."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from gru_mem_jax import checkpoint_trees as trees_lib
from gru_mem_jax import durable_files
from gru_mem_jax.errors import InputError, RunError

FORMAT = 1
RECORD = "record.json"
FILES = "files"
_MAX_RECORD = 1 << 28
_FILE_NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")  # one folder deep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """What a step held.

    Attributes:
      step: its number.
      trees: name to tree, for the names asked.
      metadata: its JSON metadata.
      files: its small files by name.
      warnings: a line for each newer step that was skipped, because it is damaged.
    """

    step: int
    trees: dict[str, Any]
    metadata: dict[str, Any]
    files: dict[str, bytes]
    warnings: tuple[str, ...] = ()


def make_contents(
    step: int,
    flat: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
    score: float | None,
    files: Mapping[str, bytes],
) -> dict[str, bytes]:
    """What a step holds beside its arrays, as path to contents.

    Args:
      step: its number.
      flat: tree name to flat tree.
      metadata: what JSON can hold.
      score: what a best step is chosen by.
      files: name to contents of small files.

    Raises:
      InputError: the metadata is not JSON, or a name cannot be a file's.
    """
    record = {
        "format": FORMAT,
        "step": step,
        "score": score,
        "trees": {name: trees_lib.signatures(tree) for name, tree in flat.items()},
        "metadata": dict(metadata),
    }
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata of step {step} is not JSON: {error}") from error
    contents = {RECORD: text.encode()}
    for name, data in files.items():
        if not _FILE_NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be the name of a file")
        contents[f"{FILES}/{name}"] = data
    return contents


def read_record(folder: pathlib.Path) -> dict[str, Any]:
    """The record of a step.

    Raises:
      InputError: it has another format.
      RunError: it is no record.
    """
    path = folder / RECORD
    try:
        if path.stat().st_size > _MAX_RECORD:
            raise ValueError("too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        number = record["format"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path}: not a checkpoint's record: {error}") from error
    if number != FORMAT:
        raise InputError(
            f"{path}: has format {number}, this version of gru_mem_jax reads "
            f"{FORMAT}; use the version that wrote it"
        )
    for key in ("trees", "metadata"):
        if not isinstance(record.get(key), dict):
            raise RunError(f"{path}: {key} is not a JSON object")
    score = record.setdefault("score", None)
    if score is not None and not isinstance(score, (int, float)):
        raise RunError(f"{path}: score is not a number")
    return record


def read_step(folder: pathlib.Path, abstract: Mapping[str, Any]) -> Restored:
    """Reads a step, if all its files are as they were saved.

    Args:
      folder: the step's folder.
      abstract: name to a tree of jax.ShapeDtypeStruct; a sharding in it places the
        array (default: the first local device).

    Raises:
      InputError: another format, or other names, shapes or dtypes; the first
        difference is named.
      RunError: it is damaged; the first file is named.
    """
    found = durable_files.problems(folder)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RunError(f"{folder}: damaged: {found[0]}{more}")
    record = read_record(folder)
    flat = {name: trees_lib.flatten(tree) for name, tree in abstract.items()}
    _check(folder, record["trees"], flat)
    arrays = _restore(folder, flat)
    trees = {
        name: trees_lib.unflatten(arrays[name], tree) for name, tree in abstract.items()
    }
    return Restored(
        step=int(folder.name),
        trees=trees,
        metadata=record["metadata"],
        files=_small_files(folder / FILES),
    )


def identity(folder: pathlib.Path) -> tuple[int, int] | None:
    """Tells a folder from another one of the same name; None: it is not there."""
    try:
        info = os.stat(folder)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _check(
    folder: pathlib.Path,
    saved: Mapping[str, Any],
    flat: Mapping[str, Mapping[str, Any]],
) -> None:
    for name, tree in flat.items():
        if name not in saved:
            raise InputError(f"{folder}: has no {name}; it has {', '.join(saved)}")
        difference = trees_lib.first_difference(
            saved[name], trees_lib.signatures(tree), name
        )
        if difference is not None:
            raise InputError(
                f"{folder}: another model or optimiser: {difference}; use the "
                "configuration that it was saved with"
            )


def _restore(
    folder: pathlib.Path, flat: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    import orbax.checkpoint as ocp

    args = {
        name: ocp.args.StandardRestore(
            {key: _placed(leaf) for key, leaf in tree.items()}
        )
        for name, tree in flat.items()
        if tree  # empty trees are known by the record alone
    }
    restored: Mapping[str, Any] = {}
    if args:
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                restored = reader.restore(folder, args=ocp.args.Composite(**args))
        except Exception as error:  # Orbax raises what its backends raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RunError(f"{folder}: cannot be read: {reason}") from error
    return {name: restored[name] if tree else {} for name, tree in flat.items()}


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _small_files(folder: pathlib.Path) -> dict[str, bytes]:
    try:
        if not folder.is_dir():
            return {}
        paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror}") from error
