"""A file that grows by lines: rows of metrics, the log, event files.

On a disk each piece is appended by one call, whole or not at all. An object in a bucket
cannot grow: it is kept here and written whole, at most every few seconds, and at once
by `sync` and `close`.
"""

import os
import threading
import time
from typing import Any, Protocol

from gru_mem_jax import buckets, storage

_SECONDS = 5.0
_WAIT = 2.0
_SHARE = 20.0  # pause of so many times as long as the last writing took


class Appended(Protocol):
    """What `open_appended` gives."""

    def append(self, data: bytes, *, wait: bool = False) -> None:
        """Adds to the end; after an OSError the file is as it was.

        Args:
          data: to add.
          wait: if an object is due to be written, return when it is, or after two
            seconds: the process may be about to end.
        """

    def sync(self) -> None:
        """Returns when what was appended would survive the end of the machine."""

    def close(self) -> None:
        """Ends it, with everything written."""


def open_appended(path: Any) -> Appended:
    """A file to append to; made where there is none.

    Raises:
      OSError: it cannot be opened.
    """
    return _Object(path) if storage.in_bucket(path) else _File(path)


class _File:
    def __init__(self, path: Any):
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def append(self, data: bytes, *, wait: bool = False) -> None:
        start = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os.ftruncate(self._fd, start)
            raise

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class _Object:
    def __init__(self, path: Any):
        self._path = path
        self._data = bytearray(buckets.read(path) if storage.exists(path) else b"")
        self._written = len(self._data)
        self._next = 0.0
        self._lock, self._more = threading.Lock(), threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="upload")
        self._thread.start()

    def append(self, data: bytes, *, wait: bool = False) -> None:
        self._data += data
        size, began = len(self._data), time.monotonic()
        wait = wait and began >= self._next
        self._more.set()
        while wait and self._written < size and time.monotonic() < began + _WAIT:
            time.sleep(0.01)

    def sync(self) -> None:
        with self._lock:
            size = len(self._data)
            if size == self._written:
                return
            started = time.monotonic()
            buckets.write(self._path, bytes(self._data[:size]))
            self._written = size
            now = time.monotonic()
            self._next = now + max(_SECONDS, _SHARE * (now - started))

    def close(self) -> None:
        self._closed = True
        self._more.set()
        self._thread.join()
        self.sync()

    def _run(self) -> None:
        while True:
            self._more.wait()
            self._more.clear()
            while not self._closed and (left := self._next - time.monotonic()) > 0:
                time.sleep(min(left, 0.2))
            if self._closed:
                return
            try:
                self.sync()
            except OSError:  # told by the next sync, which tries again
                self._next = time.monotonic() + _SECONDS
