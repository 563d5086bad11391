"""Paths on a disk and in a bucket (gs://bucket/path), and what both can do.

A path in a bucket is an `etils.epath.Path`. A bucket has objects and neither folders
nor renames: an object is written whole or not at all, and a folder exists where the
names of objects begin with it. So nothing here appends or renames; `durable_files` and
`runs` build on it what a run needs.
"""

import functools
import io
import os
import pathlib
import shutil
from typing import Any, BinaryIO

from gru_mem_jax import buckets

_SCHEME = "gs://"
_BLOCK = 1 << 24  # bytes of one request


def locate(path: str | os.PathLike[str]) -> Any:
    """The path as a pathlib.Path, or as an epath.Path in a bucket."""
    if not in_bucket(path):
        return pathlib.Path(path)
    if isinstance(path, pathlib.PurePath):
        return path
    from etils import epath

    return epath.Path(os.fspath(path))


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path begins with gs://."""
    # Paths of pathlib have one of the two slashes, and are on a disk.
    return os.fsdecode(path).startswith(_SCHEME)


def absolute(path: str | os.PathLike[str]) -> Any:
    """The path from the root of its disk or bucket."""
    found = locate(path)
    return found if in_bucket(found) else found.absolute()


def exists(path: Any) -> bool:
    """Whether it is a file, an object or a folder."""
    if in_bucket(path):
        return buckets.kind(path) is not None
    return path.exists()


def is_file(path: Any) -> bool:
    """Whether it is a regular file or an object."""
    return buckets.kind(path) == "file" if in_bucket(path) else path.is_file()


def is_folder(path: Any) -> bool:
    """Whether it is a folder; in a bucket: whether it holds anything."""
    return buckets.kind(path) == "folder" if in_bucket(path) else path.is_dir()


def make_folder(path: Any) -> None:
    """Makes a folder and those above it; in a bucket there is nothing to make."""
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)


def names(folder: Any) -> list[str]:
    """Names of what is in a folder."""
    return buckets.names(folder) if in_bucket(folder) else os.listdir(folder)


def size(path: Any) -> int:
    """Bytes of a file."""
    return buckets.size(path) if in_bucket(path) else path.stat().st_size


def read_bytes(path: Any) -> bytes:
    """The bytes of a file."""
    return buckets.read(path) if in_bucket(path) else path.read_bytes()


def reader(path: Any) -> BinaryIO:
    """A file to read from its start, a part at a time."""
    if not in_bucket(path):
        return open(path, "rb")
    return io.BufferedReader(_ObjectReader(path), _BLOCK)


def remove_folder(folder: Any) -> None:
    """Removes a folder and everything in it."""
    if in_bucket(folder):
        buckets.remove_folder(folder)
    else:
        shutil.rmtree(folder)


def move_file(path: Any, to: Any) -> None:
    """Gives a file another name."""
    if in_bucket(path):
        buckets.write(to, buckets.read(path))
        buckets.remove(path)
    else:
        path.rename(to)


class _ObjectReader(io.RawIOBase):
    """An object, read by ranges."""

    def __init__(self, path: Any):
        self._path, self._size, self._at = path, buckets.size(path), 0
        self._get = functools.partial(buckets.read, path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        data = self._get(self._at, end) if end > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
