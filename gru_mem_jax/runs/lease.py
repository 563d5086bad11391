"""A lock where no kernel keeps one: in a bucket, and on some shared file systems.

It is an object (or a file) that names its holder, who writes it again every few seconds
as long as it lives. Who wants it watches it: one that is not renewed meanwhile is taken
over, one that is renewed is in use. In a bucket each of these writings is made only if
the object is still the one that was read (generation match), so that of two who want
it one gets it.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from gru_mem_jax import buckets, durable_files, storage
from gru_mem_jax.errors import InputError

RENEW_SECONDS = 10.0
WATCH_SECONDS = 30.0  # without renewal until it is taken
_OLD_SECONDS = 600.0  # more than clocks differ: taken without watching
_held: set[str] = set()  # by this process


class _Store(Protocol):
    def read(self) -> tuple[bytes, Any]:
        """Its bytes and a token of this version; b"" and None: there is nothing."""

    def write(self, data: bytes, token: Any) -> Any:
        """Writes; gives the new token. FileExistsError: the version is another one."""

    def remove(self, token: Any) -> None:
        """Removes it, if it is this version."""


class Lease:
    """A lock that its holder renews.

    Args:
      path: of the file or object.
      on_lost: called with a line if another process took it over; by default it is
        printed and the process ends.

    Attributes:
      note: a line on how two writers are kept apart, and on a lock that was taken over.

    Raises:
      InputError: another process holds it; or another object of this one.
      OSError: it cannot be written.
    """

    def __init__(self, path: Any, on_lost: Callable[[str], None] | None = None):
        self._path, self._on_lost = path, on_lost or _end
        self._store = _Object(path) if storage.in_bucket(path) else _File(path)
        self._id = secrets.token_hex(8)
        self.note = (
            f"{path.parent}: has no locks of a file system; two writers are kept apart "
            f"by the file lock, which its holder writes again every {RENEW_SECONDS:g} s"
        )
        self._token = self._take()
        _held.add(self._id)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lock")
        self._thread.start()

    def release(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join()
        _held.discard(self._id)
        with contextlib.suppress(OSError):
            self._store.remove(self._token)

    def _take(self) -> Any:
        began, first = time.monotonic(), None
        while True:
            data, token = self._store.read()
            holder = _parsed(data)
            if first is None:
                first = token
            watched = time.monotonic() - began
            if token is not None and (token != first or _lives_here(holder)):
                raise in_use(self._path, holder)
            free = token is None or _is_free(holder) or watched > WATCH_SECONDS
            if not free:
                time.sleep(min(1.0, RENEW_SECONDS / 4))
                continue
            try:
                taken = self._store.write(self._data(), token)
            except FileExistsError:
                began, first = time.monotonic(), None  # somebody was quicker
                continue
            if watched > WATCH_SECONDS:
                self.note += (
                    f"; taken over from pid {holder.get('pid')} on host "
                    f"{holder.get('host')}, which did not for {watched:.0f} s"
                )
            return taken

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # tried again
                try:
                    self._token = self._store.write(self._data(), self._token)
                except FileExistsError:
                    if self._is_lost():
                        return

    def _is_lost(self) -> bool:
        """Looks whose it is, where it is not the version that was written last."""
        data, token = self._store.read()
        holder = _parsed(data)
        # Ours: the answer to a write was lost. None: somebody removed it.
        if token is None or holder.get("id") == self._id:
            self._token = token
            return False
        self._on_lost(
            f"{self._path.parent}: pid {holder.get('pid')} on host "
            f"{holder.get('host')} took this run over; this process ends"
        )
        return True

    def _data(self) -> bytes:
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        holder |= {"time": time.time(), "id": self._id, "machine": _machine()}
        return json.dumps(holder).encode()


class _Object:
    def __init__(self, path: Any):
        self._path = path

    def read(self) -> tuple[bytes, Any]:
        generation = buckets.generation(self._path)
        if not generation:
            return b"", None
        try:
            return buckets.read(self._path), generation
        except FileNotFoundError:
            return b"", None

    def write(self, data: bytes, token: Any) -> Any:
        return buckets.write_if(self._path, data, token or 0)

    def remove(self, token: Any) -> None:
        if buckets.generation(self._path) == token:
            buckets.remove(self._path)


class _File:
    """Without a lock, two may read the same and write, one right after the other."""

    def __init__(self, path: Any):
        self._path = path

    def read(self) -> tuple[bytes, Any]:
        try:
            data = self._path.read_bytes()[:4096]
        except FileNotFoundError:
            return b"", None
        return data, data

    def write(self, data: bytes, token: Any) -> Any:
        if token is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(self._path, flags, 0o666), "wb") as file:
                file.write(data)
        elif self.read()[1] != token:
            raise FileExistsError
        else:
            durable_files.write_atomically(self._path, data)
        return data

    def remove(self, token: Any) -> None:
        if self.read()[1] == token:
            self._path.unlink()


def in_use(path: Any, holder: dict[str, Any]) -> InputError:
    """The error for a lock that another process holds."""
    return InputError(
        f"{path.parent}: in use by pid {holder.get('pid', 'unknown')} on host "
        f"{holder.get('host', 'unknown')}; wait for it, stop it, or give another "
        "folder"
    )


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives_here(holder: dict[str, Any]) -> bool:
    """Whether the holder is a living process of this machine."""
    if holder.get("id") in _held:
        return True
    own = holder.get("machine", _machine()) == _machine()
    here = own and holder.get("host") == socket.gethostname()
    return here and _lives(holder.get("pid"))


def _is_free(holder: dict[str, Any]) -> bool:
    """Whether nobody can hold it any more."""
    renewed = holder.get("time")
    if not isinstance(renewed, int | float) or time.time() - renewed > _OLD_SECONDS:
        return True
    return holder.get("machine") == _machine() != ""  # and lives no more


def _lives(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _machine() -> str:
    """Names where process numbers mean the same; "": unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _end(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"gru-mem: {line}\n".encode())
    os._exit(1)
