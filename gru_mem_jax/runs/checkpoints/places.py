"""Where the steps of a run are: how one comes to count, and how it goes.

On a disk a step is written aside (`12.saving`), and counts once it has its name (`12`).
In a bucket, where nothing can be renamed, its objects are written in their place, and
it counts once its SHA256SUMS is there, which is written last and removed first.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterable
from typing import Any

from gru_mem_jax import buckets, durable_files, storage
from gru_mem_jax.durable_files import MANIFEST
from gru_mem_jax.errors import InputError

_LEFTOVER = re.compile(r"\d+\.(saving|deleting)\b.*")
_IN_A_BUCKET = re.compile(r"gs://[A-Za-z0-9_./+=,@-]{1,1000}")


class Folders:
    """Steps on a disk.

    Args:
      directory: absolute.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory

    def make(self) -> None:
        """Makes the directory, and removes what killed processes left unfinished."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.remove_leftovers()

    def folder(self, step: int) -> Any:
        """Of a step that counts."""
        return self.directory / str(step)

    def aside(self, step: int) -> Any:
        """Of a step that is being written."""
        return self.directory / f"{step}.saving"

    def steps(self) -> tuple[int, ...]:
        """Those that count, ascending."""
        names = os.listdir(self.directory)
        steps = (int(name) for name in names if name.isascii() and name.isdigit())
        return tuple(sorted(s for s in steps if self.folder(s).is_dir()))

    def begin(self, step: int, names: Iterable[str]) -> None:
        """Makes the folders to write a step's trees into."""
        for name in ("", *names):
            (self.aside(step) / name).mkdir()

    def finish(self, step: int) -> None:
        """Gives a step that is whole its name."""
        os.rename(self.aside(step), self.folder(step))
        durable_files.sync_folder(self.directory)

    def put_aside(self, step: int, name: str) -> None:
        """Keeps a damaged step under another name."""
        os.rename(self.folder(step), self.directory / name)

    def remove(self, step: int) -> None:
        """Removes a step; no reader sees a part of it."""
        doomed = self.directory / f"{step}.deleting"
        os.rename(self.folder(step), doomed)
        shutil.rmtree(doomed)

    def remove_leftovers(self) -> None:
        """Removes what killed processes left unfinished."""
        for name in os.listdir(self.directory):
            if _LEFTOVER.fullmatch(name):
                shutil.rmtree(self.directory / name)

    def version(self, step: int) -> Any:
        """Changes where a step was written again; None: there is none."""
        try:
            info = os.stat(self.folder(step))
        except OSError:
            return None
        return [info.st_dev, info.st_ino]


class Objects:
    """Steps in a bucket; as `Folders`.

    Args:
      directory: in the bucket.

    Raises:
      InputError: Orbax would misread its name.
    """

    def __init__(self, directory: Any):
        if not _IN_A_BUCKET.fullmatch(os.fspath(directory)):
            raise InputError(
                f"{directory}: a run folder in a bucket has a name of ASCII letters, "
                "digits and _./+=,@- alone"
            )
        self.directory = directory

    def make(self) -> None:
        """Removes what killed processes left unfinished."""
        self.remove_leftovers()

    def folder(self, step: int) -> Any:
        """Of a step."""
        return self.directory / str(step)

    aside = folder

    def steps(self) -> tuple[int, ...]:
        """Those that count, ascending."""
        return tuple(s for s in self._numbers() if self.version(s) is not None)

    def begin(self, step: int, names: Iterable[str]) -> None:
        """Makes room: objects of an unfinished step may be in its place."""
        buckets.remove_folder(self.folder(step))

    def finish(self, step: int) -> None:
        """Nothing: its SHA256SUMS was written last."""

    def put_aside(self, step: int, name: str) -> None:
        """Keeps a damaged step under another name."""
        buckets.copy_folder(self.folder(step), self.directory / name)
        self.remove(step)

    def remove(self, step: int) -> None:
        """Removes a step; from the first object on it does not count."""
        with contextlib.suppress(FileNotFoundError):
            buckets.remove(self.folder(step) / MANIFEST)
        buckets.remove_folder(self.folder(step))

    def remove_leftovers(self) -> None:
        """Removes what killed processes left unfinished."""
        whole = self.steps()
        for step in self._numbers():
            if step not in whole:
                buckets.remove_folder(self.folder(step))

    def version(self, step: int) -> Any:
        """Changes where a step was written again; None: it does not count."""
        return buckets.generation(self.folder(step) / MANIFEST) or None

    def _numbers(self) -> list[int]:
        names = buckets.names(self.directory)
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def place(directory: Any) -> Folders | Objects:
    """The steps of a directory."""
    where = Objects if storage.in_bucket(directory) else Folders
    return where(directory)
