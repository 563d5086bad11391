"""Checkpoints of a run, by Orbax: named trees of arrays, JSON metadata and small files.

A step is a folder, named by its number:

    12/SHA256SUMS       sha256 of every other file
    12/record.json      format, step, metric, metadata, each array's shape and dtype
    12/files/           small files given to `save` (tokenizer, configuration text)
    12/NAME/            one tree of arrays, as Orbax writes it

It is written aside, read back from disk, compared with the checksums of the given
arrays, and renamed: a step that exists can be restored. Its files are checked against
their sha256 list before anything is read, since Orbax restores changed bytes silently.
A damaged step is never deleted. Arrays are restored only into an abstract tree that the
caller makes from its own configuration: a folder can neither set shapes nor run code.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from gru_mem_jax import durable_files
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs.checkpoints import trees as trees_lib
from gru_mem_jax.runs.checkpoints.orbax_workarounds import OrbaxNoise, plain_path
from gru_mem_jax.runs.checkpoints.step import (
    FILES,
    Pace,
    Restored,
    complete,
    inode,
    make_contents,
    read_record,
    read_step,
)

_LEFTOVER = re.compile(r"\d+\.(saving|deleting)\b.*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_READ_TRIES = 20


class Checkpoints:
    """The checkpoints of one run folder; use as a context manager.

    One process writes (the run folder's lock ensures it), any number may read.

    Args:
      directory: created if it does not exist and `create` is true.
      keep: how many of the newest good steps are kept; None: all.
      best: "max" or "min": the step with the best metric is kept too.
      create: false for readers, which write nothing; a missing folder is an InputError.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        *,
        keep: int | None = None,
        best: str | None = None,
        create: bool = True,
    ):
        import orbax.checkpoint as ocp

        if keep is not None and keep < 1:
            raise InputError(f"keep: expected at least 1 checkpoint, got {keep}")
        if best not in (None, "max", "min"):
            raise InputError(f"best: expected 'max' or 'min', got {best!r}")
        self._ocp = ocp
        self.directory = pathlib.Path(directory).absolute()
        self._keep, self._best, self._writes = keep, best, create
        self._good: set[int] = set()  # verified by this process
        self._saver: Any = None
        self._noise = OrbaxNoise()
        self._link = contextlib.ExitStack()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        if self.directory.exists() and not self.directory.is_dir():
            raise InputError(f"{self.directory}: expected a folder of checkpoints")
        if not create:
            if not self.directory.is_dir():
                raise InputError(f"{self.directory}: no such folder of checkpoints")
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        except OSError as error:
            raise InputError(f"{self.directory}: {error.strerror}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *unused) -> None:
        try:
            self.close()
        except RunError:
            if kind is None:  # else the first error is raised
                raise

    def close(self) -> None:
        """Waits for a running save, and closes."""
        try:
            self.wait()
        finally:
            if self._saver is not None:
                self._saver.close()
                self._saver = None

    def steps(self) -> tuple[int, ...]:
        """The saved steps, ascending; some may have been damaged since."""
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            raise RunError(f"{self.directory}: {error.strerror}") from error
        steps = (int(name) for name in names if name.isascii() and name.isdigit())
        return tuple(sorted(s for s in steps if self._folder(s).is_dir()))

    def problems(self, step: int) -> tuple[str, ...]:
        """The faults of a step's files; empty: none."""
        found = durable_files.problems(self._folder(step))
        if not found:
            self._good.add(step)
        return found

    # Saving

    def save(
        self,
        step: int,
        trees: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        files: Mapping[str, bytes] | None = None,
        metric: float | None = None,
        wait: bool = True,
    ) -> None:
        """Saves one step.

        A damaged step of this number is renamed (`12.damaged`), never overwritten.

        Args:
          step: must not be saved yet.
          trees: name to a tree of arrays.
          metadata: JSON values.
          files: name to contents of small files.
          metric: that `best` compares.
          wait: until it is on disk; else it is written while the caller continues (and
            may donate the arrays): `wait`, `close` and the next `save` raise failures.

        Raises:
          RunError: the step exists, an array holds a number that is not finite, or it
            cannot be written; steps saved before are intact.
        """
        self.wait()
        if step < 0:
            raise InputError(f"step: expected at least 0, got {step}")
        if not self._writes:
            raise InputError(f"{self.directory}: opened for reading")
        flat = {name: trees_lib.flatten(tree) for name, tree in trees.items()}
        for name, tree in flat.items():
            if not _NAME.fullmatch(name) or name == FILES:
                raise InputError(f"{name!r} cannot be the name of a tree")
            try:
                trees_lib.check_finite(tree)
            except RunError as error:
                raise RunError(f"{self._folder(step)}: {name}.{error}") from None
        contents = make_contents(step, flat, metadata or {}, metric, files or {})
        self._make_room(step)
        needed = sum(map(len, contents.values()))
        needed += sum(trees_lib.nbytes(tree) for tree in flat.values())
        shapes = {name: trees_lib.abstract(tree) for name, tree in flat.items()}
        self._pace = Pace()
        self._start_saving(_Save(step, contents, shapes, needed, self._pace), flat)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for a running save.

        Raises:
          RunError: it failed.
        """
        if self._thread is not None:
            self._pace.hurry()
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _make_room(self, step: int) -> None:
        folder = self._folder(step)
        if not folder.exists():
            return
        if not self.problems(step):
            raise RunError(f"{folder}: is already saved")
        number = 0
        while True:
            aside = folder.with_name(f"{step}.damaged{number or ''}")
            if not aside.exists():
                break
            number += 1
        with durable_files.writing(aside):
            os.rename(folder, aside)

    def _start_saving(self, save: "_Save", flat: Mapping[str, Any]) -> None:
        ocp = self._ocp
        if self._saver is None:
            self._saver = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        # Orbax refuses empty trees; the record knows them.
        args = {name: ocp.args.StandardSave(t) for name, t in flat.items() if t}
        self._noise.start()
        try:
            plain = self._link.enter_context(plain_path(self.directory))
            if args:
                composite = ocp.args.Composite(**args)
                self._saver.save(plain / f"{save.step}.saving", args=composite)
        except Exception as error:  # Orbax raises what its backends raise
            raise self._give_up(save, error) from error
        self._thread = threading.Thread(
            target=self._finish_saving, args=(save,), name=f"checkpoint-{save.step}"
        )
        self._thread.start()

    def _finish_saving(self, save: "_Save") -> None:
        aside = self.directory / f"{save.step}.saving"
        try:
            self._saver.wait_until_finished()
            complete(aside, save.contents, save.shapes, save.pace.start())
            os.rename(aside, self._folder(save.step))
            durable_files.sync_folder(self.directory)
            self._good.add(save.step)
            self._prune()
            self._noise.stop()
            self._link.close()
        except Exception as error:
            self._failure = self._give_up(save, error)
            self._failure.__cause__ = error

    def _give_up(self, save: "_Save", error: Exception) -> RunError:
        """Cleans up after a failed save, as far as possible."""
        self._saver = None  # its state is unknown
        self._link.close()
        for _ in range(10):  # abandoned writes may still be running
            with contextlib.suppress(OSError):
                self._remove_leftovers()
                break
            time.sleep(0.05)
        folder = self._folder(save.step)
        return durable_files.storage_error(folder, error, needed=save.needed)

    def _prune(self) -> None:
        """Deletes good steps beyond `keep`; damaged ones are not counted."""
        if self._keep is None:
            return
        best = self.best_step()
        good = [step for step in self.steps() if self._is_good(step)]
        for step in good[: -self._keep]:
            if step != best:
                doomed = self.directory / f"{step}.deleting"
                os.rename(self._folder(step), doomed)  # no reader sees half a step
                self._good.discard(step)
                shutil.rmtree(doomed)

    def _is_good(self, step: int) -> bool:
        return step in self._good or not self.problems(step)

    def best_step(self) -> int | None:
        """The good step with the best metric, the newest of equals; else None."""
        if self._best is None:
            return None
        sign = -1 if self._best == "min" else 1
        known = []
        for step in self.steps():
            with contextlib.suppress(RunError, InputError):
                metric = read_record(self._folder(step))["metric"]
                if metric is not None and self._is_good(step):
                    known.append((sign * metric, step))
        return max(known)[1] if known else None

    def _remove_leftovers(self) -> None:
        """Removes unfinished folders of killed processes."""
        for name in os.listdir(self.directory):
            if _LEFTOVER.fullmatch(name):
                shutil.rmtree(self.directory / name)

    # Reading

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """The JSON metadata of a step (default: the newest)."""
        return self._read(step, {}).metadata

    def files(self, step: int | None = None) -> dict[str, bytes]:
        """The small files of a step (default: the newest)."""
        return self._read(step, {}).files

    def restore(
        self, abstract: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Trees of a step.

        Args:
          abstract: name to a tree of jax.ShapeDtypeStruct; a sharding in it places
            the array (default: the first local device).
          step: default: the newest.

        Returns:
          Name to tree, for the requested names.

        Raises:
          InputError: no such step, or its arrays have other names, shapes or dtypes:
            the first difference is named.
          RunError: the step is damaged: the first file is named.
        """
        return self._read(step, abstract).trees

    def restore_latest(self, abstract: Mapping[str, Any]) -> Restored | None:
        """The newest step that is not damaged; None if there is no step.

        Raises:
          InputError: it is good, but of another shape or of a newer format.
          RunError: all are damaged; each is named, nothing is deleted.
        """
        warnings: dict[int, str] = {}
        tries = 0
        while tries < _READ_TRIES:
            candidates = [step for step in self.steps() if step not in warnings]
            if not candidates:
                break
            step = candidates[-1]
            try:
                found = self._read(step, abstract)
            except RunError as error:
                warnings[step] = f"{error}; skipped and left in place"
            except InputError:
                if self._folder(step).is_dir():
                    raise
                tries += 1  # another process deleted it just now
            else:
                return dataclasses.replace(found, warnings=tuple(warnings.values()))
        if warnings:
            raise RunError(
                f"{self.directory}: no checkpoint is good, and none was deleted: "
                + "; ".join(warnings.values())
            )
        return None

    def _read(self, step: int | None, abstract: Mapping[str, Any]) -> Restored:
        """Reads one whole step, also while another process deletes old ones."""
        for _ in range(_READ_TRIES):
            chosen = self._resolve(step)
            folder = self._folder(chosen)
            before = inode(folder)
            try:
                found = read_step(folder, abstract)
                self._good.add(chosen)
                if inode(folder) == before:
                    return found
            except RunError:
                if before is not None and inode(folder) == before:
                    raise  # damage, not a deletion meanwhile
        raise RunError(f"{self.directory}: steps are deleted faster than they are read")

    def _resolve(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise InputError(f"{self.directory}: holds no checkpoint")
        if step is None:
            return steps[-1]
        if step not in steps:
            raise InputError(
                f"{self.directory}: has no step {step}; it has "
                + ", ".join(map(str, steps))
            )
        return step

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / str(step)


class _Save(NamedTuple):
    """A step that is being written."""

    step: int
    contents: dict[str, bytes]
    shapes: dict[str, dict[str, Any]]
    needed: int  # bytes
    pace: Pace
