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
(`RunFolder.read`) take no lock and write nothing.
"""

import contextlib
import datetime
import json
import os
import pathlib
import secrets
import shlex
import socket
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from gru_mem_jax import durable_files, machine
from gru_mem_jax import hosts as hosts_lib
from gru_mem_jax.errors import InputError
from gru_mem_jax.runs import config_text as config_lib
from gru_mem_jax.runs.agreement import by_first
from gru_mem_jax.runs.lock import FileLock

FORMAT = 1
FOLDERS = ("checkpoints", "trajectories", "plots", "tensorboard")
_FILES = ("command.txt", "operative.gin", "metrics.jsonl", "log.txt", "lock")
_ENVIRONMENT = "environment.json"
_MAX_TEXT = 1 << 24
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
      path: the folder, as given.
      id: names the run for external services; unchanged by a move.
      is_resumed: whether it had been started before.
      notes: a line for the user on each difference from the previous start.
      metrics: file of the rows.
      checkpoints, trajectories, plots, tensorboard: folders.
    """

    def __init__(self, path: pathlib.Path):
        """Private: use `open` or `read`."""
        self.path = path
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
    ) -> "RunFolder":
        """Starts a run, or resumes the one in the folder.

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

        Raises:
          InputError: the folder cannot be written, is in use, is not a run's, or was
            started with other settings (the first is named).
        """
        hosts = hosts_lib.current()
        opened: list[RunFolder] = []

        def open_here() -> None:
            opened.append(
                cls._open(
                    path,
                    command,
                    config_text,
                    environment,
                    may_change,
                    resume_with_changes,
                )
            )

        by_first(hosts, "run folder", open_here)
        if opened:
            return opened[0]
        run = cls.read(path)  # the first process alone writes
        run._command = tuple(command)
        return run

    @classmethod
    def _open(
        cls,
        path: str | os.PathLike[str],
        command: Sequence[str],
        config_text: str,
        environment: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        may_change: Collection[str],
        resume_with_changes: bool,
    ) -> "RunFolder":
        run = cls(pathlib.Path(path))
        run._command = tuple(command)
        try:
            _make(run.path)
            _check_kind(run.path)
            run._lock = FileLock(run.path / "lock")
        except OSError as error:
            raise InputError(
                f"{run.path}: cannot be written ({error.strerror}); give another "
                "--run_dir, or make it writable"
            ) from error
        try:
            if callable(environment):
                environment = environment()
            run._start(config_text, environment, may_change, resume_with_changes)
        except OSError as error:
            run.close()
            raise InputError(
                f"{error.filename or run.path}: cannot be written ({error.strerror})"
            ) from error
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
        run = cls(pathlib.Path(path))
        if not run.path.is_dir():
            raise InputError(f"{run.path}: no such run folder")
        if not (run.path / _ENVIRONMENT).is_file():
            raise InputError(f"{run.path}: not a run folder (no {_ENVIRONMENT})")
        run.id = str(_read_environment(run.path).get("run_id", ""))
        run.is_resumed = True
        return run

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def config_text(self) -> str:
        """The settings, as text: to show and to compare, never to run."""
        return _read_text(self.path / "operative.gin")

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return shlex.join(self._command)

    def log(self, line: str) -> None:
        """Appends a line to log.txt; errors of writing are ignored."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError), _appending(self.path / "log.txt") as file:
            file.write(f"{now} {line}\n")

    def _start(
        self,
        config_text: str,
        environment: Mapping[str, Any],
        may_change: Collection[str],
        resume_with_changes: bool,
    ) -> None:
        notes = []
        saved: dict[str, Any] = {}
        self.is_resumed = (self.path / _ENVIRONMENT).exists()
        if self.is_resumed:
            saved = _read_environment(self.path)
        for name in (*FOLDERS, *_FILES, _ENVIRONMENT):
            inner = self.path / name
            kind = pathlib.Path.is_dir if name in FOLDERS else pathlib.Path.is_file
            if inner.exists() and not kind(inner):
                wanted = "a folder" if name in FOLDERS else "a file"
                raise InputError(f"{inner}: expected {wanted}")
            if inner.exists() and not os.access(inner, os.W_OK):
                raise InputError(f"{inner}: is not writable")
        operative = self.path / "operative.gin"
        if operative.exists():
            notes += self._compare(config_text, may_change, resume_with_changes)
        record, changed = _environment_record(saved, environment)
        notes += changed
        self.id = record["run_id"]
        # The file that marks a run folder comes first: the others can be made again.
        durable_files.write_atomically(
            self.path / _ENVIRONMENT, json.dumps(record, indent=1) + "\n"
        )
        for name in FOLDERS:
            (self.path / name).mkdir(exist_ok=True)
        if not operative.exists() or self.config_text != config_text:
            _put_aside(operative)
            durable_files.write_atomically(operative, config_text)
        with _appending(self.path / "command.txt") as file:
            file.write(f"{shlex.join(self._command)}\n")
        self.notes = tuple(notes)
        for note in notes:
            self.log(note)

    def _compare(
        self, config_text: str, may_change: Collection[str], accept: bool
    ) -> list[str]:
        found = config_lib.differences(
            self.config_text, config_text, may_change=may_change
        )
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


def _make(path: pathlib.Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; give another --run_dir")
    path.mkdir(parents=True, exist_ok=True)


def _check_kind(path: pathlib.Path) -> None:
    """Refuses folders of anything else."""
    names = set(os.listdir(path))
    if _ENVIRONMENT in names:
        return
    strange = {n for n in names if n != "lock" and not n.endswith(".saving")}
    if strange:
        raise InputError(
            f"{path}: is neither empty nor a run folder (it holds {min(strange)}); "
            "give another --run_dir"
        )


def _read_environment(path: pathlib.Path) -> dict[str, Any]:
    path = path / _ENVIRONMENT
    text = _read_text(path)
    try:
        record = json.loads(text)
        number = record["run_folder_format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: not a run folder's record ({error})") from error
    if number != FORMAT:
        raise InputError(
            f"{path.parent}: is a run folder of format {number}, this version of "
            f"gru_mem_jax reads {FORMAT}; use the version that wrote it"
        )
    return record


def _read_text(path: pathlib.Path) -> str:
    """A small regular file's text; the folder is untrusted."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_TEXT:
            raise InputError(f"{path}: expected a regular file of at most 16 MiB")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from error


def _environment_record(
    saved: Mapping[str, Any], environment: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The record to write, and a note on differences from the saved one."""
    now = json.loads(json.dumps(dict(environment)))
    before = saved.get("environment")
    earlier = list(saved.get("earlier", []))
    notes = []
    if isinstance(before, dict) and before != now:
        earlier.append(before)
        changed = [
            k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)
        ]
        notes = [
            f"another environment than before ({', '.join(changed)}): the numbers may "
            f"differ from an uninterrupted run's; see {_ENVIRONMENT}"
        ]
    record = {
        "run_folder_format": FORMAT,
        "run_id": str(saved.get("run_id") or secrets.token_hex(8)),
        "environment": now,
        "earlier": earlier,
    }
    return record, notes


def _put_aside(path: pathlib.Path) -> None:
    """Renames NAME.EXT to the first free NAME.1.EXT, NAME.2.EXT, ..."""
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)


def _appending(path: pathlib.Path):
    return open(path, "a", encoding="utf-8", errors="backslashreplace")
