"""A file that one process holds, so that no second one writes beside it."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from typing import Any

from gru_mem_jax.errors import InputError


# The filelock package (4.3) does less than is wanted here: its flock has no holder that
# a message could name, its file stays behind, and where a file system refuses flock
# (other than by ENOSYS) it raises instead of looking at who is written in the file.
class FileLock:
    """A file that one process holds.

    The kernel forgets the hold when the process ends, however it ends, and a copy of
    the file is held by nobody: what the file says only serves the message. Where the
    file system knows no locks, what it says decides.
    """

    def __init__(self, path: pathlib.Path):
        """Takes it.

        Raises:
          InputError: another process, or another object of this one, holds it.
          OSError: the file cannot be made.
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
        """Lets it go, and removes the file."""
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
