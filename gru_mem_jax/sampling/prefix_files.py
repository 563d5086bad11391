"""Files of keys and values, which any number of processes may share.

A file is named by the number of its tokens and their digest. It is _MAGIC, the header's
length (8 bytes, little-endian), the header in JSON, the token ids (int32), keys and
values, and the sha256 of all before it. The least recently used, by the time of change,
leave first. A file that vanishes is a miss.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gru_mem_jax import durable_files

FORMAT = 1
DTYPES = {name: np.dtype(getattr(jnp, name)) for name in ("float32", "bfloat16")}
_MAGIC = b"GRU-Mem keys, values\n"
_START = len(_MAGIC) + 8
_SHA256 = 32
_ALIGNED = 64  # bytes that keys and values begin at a multiple of
_SUFFIX = ".kv"
_UNFINISHED = ".saving"  # of durable_files.write_shared
_ABANDONED = 3600.0  # seconds, after which an unfinished file has no writer any more

Note = Callable[[str], object]


class Key(NamedTuple):
    """A prefix's number of tokens, and their digest."""

    length: int
    digest: str


class PrefixFiles:
    """The files of one identity, in a folder of their own below the store's.

    Args:
      directory: of the files of all policies; it is made if need be.
      identity: of these files.
      budget: most bytes of the directory.
      note: called with a line for each file that is not used, and once when nothing
        can be written any more.
    """

    def __init__(self, directory: pathlib.Path, identity: str, budget: int, note: Note):
        self._directory, self._identity = directory, identity
        self._budget, self._note = budget, note
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._folder = directory / name
        self._writes = True
        self._keys: set[Key] = set()
        self._refused: set[Key] = set()
        self._listed: int | None = None  # the folder's time of change then
        self._tell_of_others()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._stop_writing(error)

    def keys(self) -> set[Key]:
        """Of the files that are there, as far as known, without refused ones."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
            if changed != self._listed:
                names = os.listdir(self._folder)
                self._keys = {key for n in names if (key := _key_in(n)) is not None}
                self._keys -= self._refused
                self._listed = changed
        except OSError:
            self._keys, self._listed = set(), None
        return self._keys

    def wants(self, key: Key, size: int) -> bool:
        """Whether a file of about so many bytes would be written."""
        new = key not in self.keys()
        return new and self._writes and size <= self._budget

    def read(self, key: Key, ids: np.ndarray) -> np.ndarray | None:
        """The arrays of a file; None: it is gone, damaged or of something else.

        Args:
          key: of a prefix.
          ids: int32[n], little-endian: its tokens.
        """
        if key not in self._keys:
            return None
        path = self._path(key)
        try:
            arrays = self._read(path, ids)
        except FileNotFoundError:  # evicted by another process
            self._keys.discard(key)
            return None
        except (OSError, _Stale, _Damaged) as error:
            self._keys.discard(key)
            self._refused.add(key)
            reason = getattr(error, "strerror", None) or str(error)
            if isinstance(error, _Damaged):
                with contextlib.suppress(OSError):
                    path.unlink()
                reason += "; removed"
            self._note(f"{path}: not used: {reason}")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return arrays

    def write(self, key: Key, ids: np.ndarray, arrays: np.ndarray) -> None:
        """Writes a file, after others were removed to make room for it.

        Args:
          key: of a prefix.
          ids: int32[n], little-endian: its tokens.
          arrays: its keys and values, of a dtype in DTYPES.
        """
        header = self._header(arrays.dtype.name, arrays.shape, ids.nbytes)
        data = np.ascontiguousarray(arrays).reshape(-1).view(np.uint8)
        length = len(header).to_bytes(8, "little")
        parts = [_MAGIC, length, header, ids.tobytes(), memoryview(data)]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        parts.append(digest.digest())
        size = sum(len(part) for part in parts)
        if not self.wants(key, size):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            durable_files.write_shared(self._path(key), parts)
        except OSError as error:
            self._stop_writing(error)
            return
        self._refused.discard(key)
        self._keys.add(key)

    def _header(self, dtype: str, shape: tuple[int, ...], ids_bytes: int) -> bytes:
        head = {
            "format": FORMAT,
            "identity": self._identity,
            "dtype": dtype,
            "shape": shape,
        }
        text = json.dumps(head).encode()
        return text + b" " * (-(_START + len(text) + ids_bytes) % _ALIGNED)

    def _read(self, path: pathlib.Path, ids: np.ndarray) -> np.ndarray:
        """Keys and values of a file.

        Raises:
          OSError: it cannot be read.
          _Damaged, _Stale: it must not be used.
        """
        data = _bytes_of(path, self._budget)
        view = memoryview(data)
        if len(view) < _START + _SHA256:
            raise _Damaged(f"it is cut short ({len(view)} bytes)")
        if hashlib.sha256(view[:-_SHA256]).digest() != view[-_SHA256:]:
            raise _Damaged(f"cut or changed, its sha256 differs ({len(view)} bytes)")
        start = _START + int.from_bytes(view[len(_MAGIC) : _START], "little")
        try:
            head = json.loads(bytes(view[_START:start]))
            if view[: len(_MAGIC)] != _MAGIC or head["format"] != FORMAT:
                raise _Stale("it has another format")
            if head["identity"] != self._identity:
                raise _Stale("it is of another policy, tokenizer, dtype or version")
            end = start + ids.nbytes
            if view[start:end] != ids.tobytes():
                raise _Stale("it is of other tokens")
            return data[end:-_SHA256].view(DTYPES[head["dtype"]]).reshape(head["shape"])
        except (KeyError, TypeError, ValueError, RecursionError):
            raise _Stale("it has another format") from None

    def _make_room(self, size: int) -> None:
        """Removes what was least recently used, of any policy, and what no one writes.

        Other processes may do the same at the same time.
        """
        found = []
        abandoned = time.time() - _ABANDONED
        for path in self._directory.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                info = path.stat()
                if path.suffix == _UNFINISHED and info.st_mtime < abandoned:
                    path.unlink()
                elif path.suffix in (_SUFFIX, _UNFINISHED):
                    found.append((info.st_mtime_ns, info.st_size, path))
        total = size + sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if total <= self._budget:
                break
            if path.suffix == _SUFFIX:
                path.unlink(missing_ok=True)
                total -= each

    def _stop_writing(self, error: OSError) -> None:
        self._writes = False
        reason = error.strerror or error
        self._note(f"{self._directory}: nothing more is stored there: {reason}")

    def _tell_of_others(self) -> None:
        """A line if a folder has files, and none is for this policy."""
        others = 0
        with contextlib.suppress(OSError):
            others = sum(path.is_dir() for path in self._directory.iterdir())
        if others and not self._folder.exists():
            self._note(
                f"{self._directory}: what is stored there is not used: it is of "
                "another policy, tokenizer, dtype or version"
            )

    def _path(self, key: Key) -> pathlib.Path:
        return self._folder / f"{key.length}-{key.digest}{_SUFFIX}"


def _key_in(name: str) -> Key | None:
    length, _, digest = name.removesuffix(_SUFFIX).partition("-")
    whole = name.endswith(_SUFFIX) and length.isdecimal() and len(digest) == 32
    return Key(int(length), digest) if whole else None


class _Damaged(Exception):
    """A file that is not as it was written."""


class _Stale(Exception):
    """A whole file of something else."""


def _bytes_of(path: pathlib.Path, most: int) -> np.ndarray:
    """uint8[n], what a regular file holds."""
    # Non-blocking: a FIFO may have the name.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise _Stale("it is not a regular file")
        if info.st_size > most:
            raise _Stale(f"it has {info.st_size} bytes, more than the budget {most}")
        data = np.empty(info.st_size, np.uint8)
        read = 0
        while count := file.readinto(memoryview(data)[read:]):
            read += count
    return data[:read]
