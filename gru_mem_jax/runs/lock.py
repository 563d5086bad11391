"""A lock file, so that only one process writes into a run folder."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from typing import Any

from gru_mem_jax import storage
from gru_mem_jax.runs.lease import Lease, in_use


# The filelock package (4.3) does not do all of this: its lock names no holder for a
# message, its file stays behind, and where a file system refuses flock (other than by
# ENOSYS) it raises instead of reading the holder from the file.
class FileLock:
    """A lock file that one process holds.

    The kernel releases the lock when the process ends, however it ends, and no process
    holds a copy of the file: its contents only serve the message. Where the file system
    has no locks, and in a bucket, it is a `Lease`.

    Attributes:
      note: where it is a lease, a line that says so; else None.
    """

    def __init__(self, path: Any):
        """Takes the lock.

        Raises:
          InputError: another process, or another object of this one, holds it.
          OSError: the file cannot be created.
        """
        self._path = path
        self._lease: Lease | None = None
        self._fd = -1
        if storage.in_bucket(path) or not self._take():
            self._lease = Lease(path)
        self.note = None if self._lease is None else self._lease.note

    def _take(self) -> bool:
        """Whether the file system has locks."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o666)
            try:
                if not self._flock():
                    os.close(self._fd)
                    return False
                held = os.stat(self._path)
                mine = os.fstat(self._fd)
                if (held.st_dev, held.st_ino) == (mine.st_dev, mine.st_ino):
                    break
            except FileNotFoundError:
                pass  # its holder removed it between the two calls
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(holder).encode(), 0)
        return True

    def _flock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use(self._path, self._holder()) from None
        except OSError:
            return False
        return True

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(os.pread(self._fd, 4096, 0))
        except (ValueError, RecursionError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def release(self) -> None:
        """Releases the lock and removes the file."""
        if self._lease is not None:
            self._lease.release()
            return
        with contextlib.suppress(OSError):
            pathlib.Path(self._path).unlink()
        os.close(self._fd)
