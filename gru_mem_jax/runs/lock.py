"""A lock file, so that only one process writes into a run folder."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from typing import Any

from gru_mem_jax.errors import InputError


# The filelock package (4.3) does not do all of this: its lock names no holder for a
# message, its file stays behind, and where a file system refuses flock (other than by
# ENOSYS) it raises instead of reading the holder from the file.
class FileLock:
    """A lock file that one process holds.

    The kernel releases the lock when the process ends, however it ends, and no process
    holds a copy of the file: its contents only serve the message. Where the file system
    has no locks, its contents decide.
    """

    def __init__(self, path: pathlib.Path):
        """Takes the lock.

        Raises:
          InputError: another process, or another object of this one, holds it.
          OSError: the file cannot be created.
        """
        self._path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                self._take()
                held = os.stat(path)
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

    def _take(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use() from None
        except OSError:
            holder = self._holder()
            if holder.get("host") == socket.gethostname() and _lives(holder.get("pid")):
                raise self._in_use() from None

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(os.pread(self._fd, 4096, 0))
        except (ValueError, RecursionError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _in_use(self) -> InputError:
        holder = self._holder()
        return InputError(
            f"{self._path.parent}: in use by pid {holder.get('pid', 'unknown')} on "
            f"host {holder.get('host', 'unknown')}; wait for it, stop it, or give "
            "another --run_dir"
        )

    def release(self) -> None:
        """Releases the lock and removes the file."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)


def _lives(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
