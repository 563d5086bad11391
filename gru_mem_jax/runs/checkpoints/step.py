"""Reading one saved step: its sha256 list first, then its record, then its arrays.

Restored arrays are compared with the checksums of the saved ones, so that neither a
file nor Orbax can change an array unnoticed.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.records import first_difference
from gru_mem_jax.runs.agreement import by_all
from gru_mem_jax.runs.checkpoints import trees as trees_lib
from gru_mem_jax.runs.checkpoints.checksums import checksums
from gru_mem_jax.runs.checkpoints.orbax_workarounds import plain_path

FORMAT = 1
RECORD = "record.json"
FILES = "files"
_MAX_RECORD = 1 << 28
_MAX_BATCH = 1 << 24  # bytes that are read back at a time, or one array
_FILE_NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")  # one folder deep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """The contents of a step.

    Attributes:
      step: its number.
      trees: name to tree, for the requested names.
      metadata: its JSON metadata.
      files: its small files by name.
      warnings: a line for each newer step that was skipped because it is damaged.
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
    metric: float | None,
    files: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The files of a step beside its arrays, as path to contents.

    Args:
      step: its number.
      flat: tree name to flat tree.
      metadata: JSON values.
      metric: that a best step is chosen by.
      files: name to contents of small files.

    Raises:
      InputError: the metadata is not JSON, or a file name is not allowed.
    """
    record = {
        "format": FORMAT,
        "step": step,
        "metric": metric,
        "trees": {name: trees_lib.signatures(tree) for name, tree in flat.items()},
        "checksums": {name: checksums(tree) for name, tree in flat.items()},
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


class Pace:
    """Slows the completion of a save beside training, until a caller waits for it.

    It sleeps between parts of the work, so that it takes a twentieth of the machine.
    """

    def __init__(self):
        cores = os.cpu_count() or 1
        self._sleep = max(0.0, 20 / cores - 1)  # seconds for each one of work
        self._hurry = threading.Event()
        self._since = 0.0

    def hurry(self) -> None:
        """Ends the sleeping."""
        self._hurry.set()

    def start(self) -> Callable[[], None] | None:
        """Begins, in the calling thread, whose priority is lowered.

        Returns:
          A function to call after each part of the work; None: no sleep is needed.
        """
        if self._hurry.is_set():
            return None
        if sys.platform == "linux":  # elsewhere priorities are per process
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        self._since = time.perf_counter()
        return self._rest if self._sleep else None

    def _rest(self) -> None:
        self._hurry.wait(self._sleep * (time.perf_counter() - self._since))
        self._since = time.perf_counter()


def read_record(folder: Any) -> dict[str, Any]:
    """The record of a step.

    Raises:
      InputError: it has another format.
      RunError: it is not a record.
    """
    path = folder / RECORD
    try:
        if storage.size(path) > _MAX_RECORD:
            raise ValueError("too large")
        record = json.loads(storage.read_bytes(path).decode())
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
    sums = record.setdefault("checksums", {})  # older steps have none
    if not isinstance(sums, dict) or not all(
        isinstance(s, dict) for s in sums.values()
    ):
        raise RunError(f"{path}: checksums is not an object of objects")
    # Earlier versions called it score.
    metric = record.setdefault("metric", record.get("score"))
    if metric is not None and not isinstance(metric, (int, float)):
        raise RunError(f"{path}: metric is not a number")
    return record


def read_step(
    folder: Any, abstract: Mapping[str, Any], hosts: Hosts | None = None
) -> Restored:
    """Reads a step whose files are all unchanged.

    Args:
      folder: the step's folder.
      abstract: name to a tree of jax.ShapeDtypeStruct; a sharding in it places the
        array (default: the first local device).
      hosts: all of them call this; each checks its share of the files. None: this
        process alone.

    Raises:
      InputError: another format, or other names, shapes or dtypes; the first
        difference is named.
      RunError: it is damaged; the first file is named.
    """
    hosts = hosts or Hosts()
    name = f"restore {folder.name}"
    part = (hosts.index, hosts.count)
    flat = {name: trees_lib.flatten(tree) for name, tree in abstract.items()}
    given = hosts.gather(f"{name}: check", durable_files.problems(folder, part=part))
    found = list(dict.fromkeys(problem for each in given for problem in each))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RunError(f"{folder}: damaged: {found[0]}{more}")

    def read() -> tuple[dict[str, Any], dict[str, Any]]:
        record = read_record(folder)
        _check(folder, record["trees"], flat)
        return record, _restore(folder, flat)

    record, arrays = by_all(hosts, f"{name}: read", read)
    for name, tree in arrays.items():
        _compare(folder, name, tree, record["checksums"].get(name, {}))
    trees = {
        name: trees_lib.unflatten(arrays[name], tree) for name, tree in abstract.items()
    }
    return Restored(
        step=int(folder.name),
        trees=trees,
        metadata=record["metadata"],
        files=_small_files(folder),
    )


def _check(
    folder: Any,
    saved: Mapping[str, Any],
    flat: Mapping[str, Mapping[str, Any]],
) -> None:
    for name, tree in flat.items():
        if name not in saved:
            raise InputError(f"{folder}: has no {name}; it has {', '.join(saved)}")
        difference = first_difference(saved[name], trees_lib.signatures(tree), name)
        if difference is not None:
            raise InputError(
                f"{folder}: another model or optimiser: {difference}; use the "
                "configuration that it was saved with"
            )


def check_arrays(
    folder: Any,
    flat: Mapping[str, Mapping[str, Any]],
    rest: Callable[[], None] | None = None,
    part: durable_files.Part = durable_files.WHOLE,
) -> None:
    """Reads arrays of a step as a restore does, and compares their checksums.

    At most 16 MiB, or one array, are held at a time.

    Args:
      folder: of the step.
      flat: tree name to flat tree, of anything with shapes and dtypes.
      rest: called after each batch.
      part: (i, n): the batches i, i + n, ... alone.

    Raises:
      RunError: one cannot be read, or differs from its checksum in the record.
    """
    saved = read_record(folder)["checksums"]
    batches = [(name, b) for name, tree in flat.items() for b in _batches(tree)]
    for name, batch in batches[part[0] :: part[1]]:
        arrays = _read_arrays(folder, name, batch, on_host=True)
        _compare(folder, name, arrays, saved.get(name, {}))
        if rest is not None:
            rest()


def _batches(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    batches: list[dict[str, Any]] = []
    size = _MAX_BATCH
    for key, leaf in tree.items():
        nbytes = trees_lib.nbytes({key: leaf})
        if size + nbytes > _MAX_BATCH:
            batches.append({})
            size = 0
        batches[-1][key] = leaf
        size += nbytes
    return batches


def _compare(
    folder: Any,
    name: str,
    arrays: Mapping[str, Any],
    saved: Mapping[str, str],
) -> None:
    known = {key: array for key, array in arrays.items() if key in saved}
    for key, found in checksums(known).items():
        if found != saved[key]:
            raise RunError(
                f"{folder}: damaged: {name}.{key} differs from the saved array "
                f"(checksum {found}, expected {saved[key]})"
            )


def _restore(
    folder: Any, flat: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    return {name: _read_arrays(folder, name, tree) for name, tree in flat.items()}


def _read_arrays(
    folder: Any, name: str, tree: Mapping[str, Any], *, on_host: bool = False
) -> Mapping[str, Any]:
    """Arrays of one tree, with the shardings of `tree`, or as numpy arrays."""
    import orbax.checkpoint as ocp
    from etils import epath

    if not tree:
        return {}  # Orbax refuses empty trees; the record knows them
    if on_host:
        item = trees_lib.abstract(tree)
        how = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in item}
    else:
        item = {key: _placed(leaf) for key, leaf in tree.items()}
        how = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
    try:
        with plain_path(folder) as plain:
            # Without a checkpointer, which would wait for the other processes.
            reader = ocp.PyTreeCheckpointHandler()
            with contextlib.closing(reader):
                return reader.restore(epath.Path(plain) / name, args=args)
    except RunError:
        raise
    except Exception as error:  # Orbax raises what its backends raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = reason.partition(" [tensorstore_spec")[0]
        raise RunError(f"{folder}: cannot be read: {reason}") from error


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _small_files(folder: Any) -> dict[str, bytes]:
    prefix = f"{FILES}/"
    try:
        return {
            name.removeprefix(prefix): storage.read_bytes(folder / name)
            for name in durable_files.listed(folder)
            if name.startswith(prefix)
        }
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror}") from error
