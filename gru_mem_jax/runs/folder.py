"""The folder of a run: its files, who may write, and how a run is resumed.

    command.txt         the command, one line per start
    environment.json    versions, machine, XLA flags of the last start; earlier ones
    operative.gin       the settings, as text
    metrics.jsonl       one row per step
    log.txt             the printed lines, with times
    checkpoints/        by step
    trajectories/       samples, by step
    plots/              of metrics.jsonl
    tensorboard/        event files
    lock                while a process writes

No absolute path is stored, so that a folder can be moved, copied or linked. Readers
(`RunFolder.read`) take no lock and write nothing. It may be in a bucket
(gs://bucket/path), and of several processes: the first one writes.
"""

import contextlib
import datetime
import json
import os
import pathlib
import shlex
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from gru_mem_jax import buckets, durable_files, machine, storage
from gru_mem_jax.errors import InputError
from gru_mem_jax.hosts import processes as hosts_lib
from gru_mem_jax.runs import config_text as config_lib
from gru_mem_jax.runs.agreement import by_all, by_first
from gru_mem_jax.runs.appended import Appended, open_appended
from gru_mem_jax.runs.environment_file import (
    ENVIRONMENT,
    environment_record,
    read_environment,
    read_text,
)
from gru_mem_jax.runs.lock import FileLock

FOLDERS = ("checkpoints", "trajectories", "plots", "tensorboard")
_FILES = ("command.txt", "operative.gin", "metrics.jsonl", "log.txt", "lock")
_SEEN_SECONDS = 30.0  # a shared file system shows new files late
_FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
)


class RunFolder:
    """One run's folder; use as a context manager. Made by `open` or `read`.

    Attributes:
      path: the folder, as given; in a bucket, an epath.Path.
      id: names the run for external services; unchanged by a move.
      is_resumed: whether it had been started before.
      notes: a line for the user on each difference from the previous start, and on how
        writers are kept apart where there are no locks; in the first process.
      metrics: file of the rows.
      checkpoints, trajectories, plots, tensorboard: folders.
    """

    def __init__(self, path: Any):
        """Private: use `open` or `read`."""
        self.path = path
        self._hosts = hosts_lib.Hosts()
        self._config_text: str | None = None
        self._log: Appended | None = None
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.trajectories = path / "trajectories"
        self.plots = path / "plots"
        self.tensorboard = path / "tensorboard"
        self.id = ""
        self.is_resumed = False
        self.notes: tuple[str, ...] = ()
        self._command: tuple[str, ...] = ()
        self._lock: FileLock | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        command: Sequence[str],
        config_text: str,
        environment: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        may_change: Collection[str] = (),
        resume_with_changes: bool = False,
        hosts: hosts_lib.Hosts | None = None,
    ) -> "RunFolder":
        """Starts a run, or resumes the one in the folder.

        All processes of a run call this. The first one takes the lock and writes; the
        folders of the others log nothing.

        Args:
          path: the folder; created if it does not exist. One that is neither empty nor
            a run folder is refused.
          command: the words of the command line.
          config_text: all settings as text; compared with those of the previous start.
          environment: JSON-ready; or `describe_environment`, which starts JAX once the
            folder is known to be usable.
          may_change: last parts of names of settings that may differ, e.g. "num_steps".
          resume_with_changes: resume although settings differ, and list the differences
            in `notes`.
          hosts: the processes of the run; None: those of `hosts.current`.

        Raises:
          InputError: the folder cannot be written, is in use, is not a run's, or was
            started with other settings (the first is named), or is not the same for
            all processes. All of them raise it.
        """
        run = cls(storage.locate(path))
        run._hosts = hosts = hosts or hosts_lib.current()
        run._command, run._config_text = tuple(command), config_text
        try:
            by_first(hosts, "run folder", run._take)
            if callable(environment):  # of all: JAX starts in all at once
                environment = environment()
            given = config_text, environment, may_change, resume_with_changes
            run.id, run.is_resumed = by_first(
                hosts, "run folder: start", lambda: run._start(*given)
            )
            by_all(hosts, "run folder: seen", run._see)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """A run folder for reading, also while it is in use or on a read-only disk.

        Raises:
          InputError: it is not a run folder.
        """
        run = cls(storage.locate(path))
        if storage.in_bucket(run.path):
            buckets.check(run.path)
        if not storage.is_folder(run.path):
            raise InputError(f"{run.path}: no such run folder")
        if not storage.is_file(run.path / ENVIRONMENT):
            raise InputError(f"{run.path}: not a run folder (no {ENVIRONMENT})")
        run.id = str(read_environment(run.path).get("run_id", ""))
        run.is_resumed = True
        return run

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def config_text(self) -> str:
        """The settings, as text: to show and to compare, never to run."""
        if self._config_text is not None:
            return self._config_text
        return read_text(self.path / "operative.gin")

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return shlex.join(self._command)

    def log(self, line: str) -> None:
        """Appends a line to log.txt; errors of writing are ignored."""
        if not self._hosts.is_first:
            return
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        text = f"{now} {line}\n"
        path = self.path / "log.txt"
        with contextlib.suppress(OSError):
            if not storage.in_bucket(path):
                with _appending(path) as file:
                    file.write(text)
                return
            if self._log is None:
                self._log = open_appended(path)
            self._log.append(text.encode(errors="backslashreplace"), wait=True)

    def _take(self) -> None:
        try:
            if storage.in_bucket(self.path):
                buckets.check(self.path)
            _make(self.path)
            _check_kind(self.path)
            self._lock = FileLock(self.path / "lock")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); give another "
                "--run_dir, or make it writable"
            ) from error

    def _start(self, *given: Any) -> tuple[str, bool]:
        try:
            self._write_start(*given)
        except OSError as error:
            raise InputError(
                f"{error.filename or self.path}: cannot be written ({error.strerror})"
            ) from error
        return self.id, self.is_resumed

    def _see(self) -> None:
        """Checks that this process has the folder of the first one."""
        started = time.monotonic()
        while True:
            with contextlib.suppress(InputError):
                if read_environment(self.path).get("run_id") == self.id:
                    return
            if time.monotonic() - started > _SEEN_SECONDS:
                raise InputError(
                    f"{self.path}: is not the folder that {self._hosts.names[0]} "
                    "writes; all processes of a run need the same one, on a shared "
                    "file system or in a bucket (gs://)"
                )
            time.sleep(0.2)

    def _write_start(
        self,
        config_text: str,
        environment: Mapping[str, Any],
        may_change: Collection[str],
        resume_with_changes: bool,
    ) -> None:
        notes = []
        if self._lock is not None and self._lock.note is not None:
            notes.append(self._lock.note)
        saved: dict[str, Any] = {}
        self.is_resumed = storage.exists(self.path / ENVIRONMENT)
        if self.is_resumed:
            saved = read_environment(self.path)
        if not storage.in_bucket(self.path):
            _check_inner(self.path)
        operative = self.path / "operative.gin"
        before = read_text(operative) if storage.exists(operative) else None
        if before is not None:
            notes += self._compare(before, config_text, may_change, resume_with_changes)
        record, changed = environment_record(saved, environment)
        notes += changed
        self.id = record["run_id"]
        # The file that marks a run folder comes first: the others can be made again.
        durable_files.write_atomically(
            self.path / ENVIRONMENT, json.dumps(record, indent=1) + "\n"
        )
        for name in FOLDERS:
            storage.make_folder(self.path / name)
        if before != config_text:
            _put_aside(operative)
            durable_files.write_atomically(operative, config_text)
        _append(self.path / "command.txt", f"{shlex.join(self._command)}\n")
        self.notes = tuple(notes)
        for note in notes:
            self.log(note)

    def _compare(
        self, before: str, now: str, may_change: Collection[str], accept: bool
    ) -> list[str]:
        found = config_lib.differences(before, now, may_change=may_change)
        if found and not accept:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise InputError(
                f"{self.path}: was started with other settings: "
                f"{config_lib.describe(found[0])}{more}; use the same settings or "
                "another --run_dir, or give --resume_with_changes"
            )
        return [f"changed setting: {config_lib.describe(each)}" for each in found]


def describe_environment() -> dict[str, Any]:
    """The environment that a run's numbers depend on; starts JAX's backend."""
    import platform

    import jax

    from gru_mem_jax.version import __version__

    versions = {"gru_mem_jax": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint"):
        if (found := machine.version(name)) is not None:
            versions[name] = found
    flags = {name: os.environ[name] for name in _FLAGS if name in os.environ}
    return {
        "versions": versions,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cores": machine.cores(),
        "devices": machine.device_names(jax.devices()),
        "processes": jax.process_count(),
        "flags": flags,
    }


def _make(path: Any) -> None:
    if storage.is_file(path):
        raise InputError(f"{path}: is a file; give another --run_dir")
    storage.make_folder(path)


def _check_kind(path: Any) -> None:
    """Refuses folders of anything else."""
    names = set(storage.names(path))
    if ENVIRONMENT in names:
        return
    strange = {n for n in names if n != "lock" and not n.endswith(".saving")}
    if strange:
        raise InputError(
            f"{path}: is neither empty nor a run folder (it holds {min(strange)}); "
            "give another --run_dir"
        )


def _check_inner(path: pathlib.Path) -> None:
    """Checks the kinds of what is in a folder on a disk, and that it can be written."""
    for name in (*FOLDERS, *_FILES, ENVIRONMENT):
        inner = path / name
        kind = pathlib.Path.is_dir if name in FOLDERS else pathlib.Path.is_file
        if inner.exists() and not kind(inner):
            wanted = "a folder" if name in FOLDERS else "a file"
            raise InputError(f"{inner}: expected {wanted}")
        if inner.exists() and not os.access(inner, os.W_OK):
            raise InputError(f"{inner}: is not writable")


def _put_aside(path: Any) -> None:
    """Renames NAME.EXT to the first free NAME.1.EXT, NAME.2.EXT, ..."""
    if not storage.exists(path):
        return
    number = 1
    while True:
        aside = path.with_name(f"{path.stem}.{number}{path.suffix}")
        if not storage.exists(aside):
            break
        number += 1
    storage.move_file(path, aside)


def _append(path: Any, text: str) -> None:
    if not storage.in_bucket(path):
        with _appending(path) as file:
            file.write(text)
        return
    before = buckets.read(path) if storage.exists(path) else b""
    buckets.write(path, before + text.encode(errors="backslashreplace"))


def _appending(path: pathlib.Path):
    return open(path, "a", encoding="utf-8", errors="backslashreplace")
