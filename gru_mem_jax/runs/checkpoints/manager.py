"""Checkpoints of a run, by Orbax: named trees of arrays, JSON metadata and small files.

A step is a folder, named by its number:

    12/SHA256SUMS       sha256 of every other file
    12/record.json      format, step, metric, metadata, each array's shape and dtype
    12/files/           small files given to `save` (tokenizer, configuration text)
    12/NAME/            one tree of arrays, as Orbax writes it

It is written, read back, compared with the checksums of the given arrays, and only then
counts (`places`): a step that exists can be restored. Its files are checked against
their sha256 list before anything is read, since Orbax restores changed bytes silently.
A damaged step is never deleted. Arrays are restored only into an abstract tree that the
caller makes from its own configuration: a folder can neither set shapes nor run code.
"""

import contextlib
import dataclasses
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

from gru_mem_jax import buckets, durable_files, storage
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.hosts import processes as hosts_lib
from gru_mem_jax.runs.agreement import by_first
from gru_mem_jax.runs.checkpoints import trees as trees_lib
from gru_mem_jax.runs.checkpoints.places import place
from gru_mem_jax.runs.checkpoints.step import (
    FILES,
    Restored,
    make_contents,
    read_record,
    read_step,
)
from gru_mem_jax.runs.checkpoints.writing import Writing

_NAME = re.compile(r"[A-Za-z_]\w*")
_READ_TRIES = 20


class Checkpoints:
    """The checkpoints of one run folder; use as a context manager.

    One run writes (the run folder's lock ensures it), any number may read. A run of
    several processes calls everything here in all of them, with the same arguments:
    each writes and reads its part of the arrays and its share of the checks, and a
    failure of one is raised on all.

    Args:
      directory: on a disk that all processes share, or gs://bucket/path; created if it
        does not exist and `create` is true.
      keep: how many of the newest good steps are kept; None: all.
      best: "max" or "min": the step with the best metric is kept too.
      create: false for readers, which write nothing; a missing folder is an InputError.
      hosts: the processes of the run; None: those of `hosts.current` where `create`,
        else this one alone.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int | None = None,
        best: str | None = None,
        create: bool = True,
        hosts: hosts_lib.Hosts | None = None,
    ):
        if keep is not None and keep < 1:
            raise InputError(f"keep: expected at least 1 checkpoint, got {keep}")
        if best not in (None, "max", "min"):
            raise InputError(f"best: expected 'max' or 'min', got {best!r}")
        self.directory = storage.absolute(directory)
        self._keep, self._best, self._writes = keep, best, create
        if hosts is None:
            hosts = hosts_lib.current() if create else hosts_lib.Hosts()
        self._hosts = hosts
        self._places = place(self.directory)
        self._good: set[int] = set()  # verified by this process
        self._saving: Writing | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        by_first(hosts, "checkpoints", self._open)

    def _open(self) -> None:
        if storage.in_bucket(self.directory):
            buckets.check(self.directory)
        elif self.directory.exists() and not self.directory.is_dir():
            raise InputError(f"{self.directory}: expected a folder of checkpoints")
        if self._writes:
            try:
                self._places.make()
            except OSError as error:
                raise InputError(f"{self.directory}: {error.strerror}") from error
        elif not storage.is_folder(self.directory):
            raise InputError(f"{self.directory}: no such folder of checkpoints")

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
        self.wait()

    def steps(self) -> tuple[int, ...]:
        """The saved steps, ascending; some may have been damaged since."""
        try:
            return self._places.steps()
        except OSError as error:
            raise RunError(f"{self.directory}: {error.strerror}") from error

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
        by_first(self._hosts, f"checkpoint {step}", lambda: self._make_room(step))
        saving = Writing(self._places, self._hosts, step, flat, contents)
        try:
            saving.start(flat)
        except Exception:
            self._give_up(saving)
            raise
        self._saving = saving
        self._thread = threading.Thread(
            target=self._finish_saving, name=f"checkpoint-{step}"
        )
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for a running save.

        Raises:
          RunError: it failed.
        """
        if self._thread is not None:
            self._saving.pace.hurry()
            self._thread.join()
            self._thread = self._saving = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _make_room(self, step: int) -> None:
        if self._places.version(step) is None:
            return
        folder = self._folder(step)
        if not self.problems(step):
            raise RunError(f"{folder}: is already saved")
        number = 0
        while True:
            aside = folder.with_name(f"{step}.damaged{number or ''}")
            if not storage.exists(aside):
                break
            number += 1
        with durable_files.writing(aside):
            self._places.put_aside(step, aside.name)

    def _finish_saving(self) -> None:
        saving = self._saving
        try:
            saving.finish()
            self._good.add(saving.step)
            name = f"checkpoint {saving.step}: prune"
            by_first(self._hosts, name, lambda: self._pruned(saving))
        except Exception as error:
            self._give_up(saving)
            self._failure = error

    def _pruned(self, saving: Writing) -> None:
        with durable_files.writing(self._folder(saving.step)):
            self._prune()

    def _give_up(self, saving: Writing) -> None:
        """Cleans up after a failed save, as far as possible."""
        saving.give_up()
        name = f"checkpoint {saving.step}: give up"
        with contextlib.suppress(Exception):  # e.g. another process is gone
            self._hosts.barrier(name)  # none writes any more
            by_first(self._hosts, f"{name}, clean", self._places.remove_leftovers)

    def _prune(self) -> None:
        """Deletes good steps beyond `keep`; damaged ones are not counted."""
        if self._keep is None:
            return
        best = self.best_step()
        good = [step for step in self.steps() if self._is_good(step)]
        for step in good[: -self._keep]:
            if step != best:
                self._good.discard(step)
                self._places.remove(step)

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
            candidates = [step for step in self._known() if step not in warnings]
            if not candidates:
                break
            step = candidates[-1]
            try:
                found = self._read(step, abstract)
            except RunError as error:
                warnings[step] = f"{error}; skipped and left in place"
            except InputError:
                if step in self._known():
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
            before = self._version(chosen)
            try:
                found = read_step(self._folder(chosen), abstract, self._hosts)
            except RunError:
                if before is not None and self._version(chosen) == before:
                    raise  # damage, not a deletion meanwhile
            else:
                self._good.add(chosen)
                if self._version(chosen) == before:
                    return found
        raise RunError(f"{self.directory}: steps are deleted faster than they are read")

    def _known(self) -> list[int]:
        """`steps`, as the first process sees them."""
        return by_first(self._hosts, "checkpoints: steps", lambda: list(self.steps()))

    def _version(self, step: int) -> Any:
        return by_first(
            self._hosts,
            "checkpoints: version",
            lambda: self._places.version(step),
        )

    def _resolve(self, step: int | None) -> int:
        steps = self._known()
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

    def _folder(self, step: int) -> Any:
        return self._places.folder(step)
