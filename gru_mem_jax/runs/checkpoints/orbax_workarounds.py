"""Workarounds for Orbax: folders whose names it misreads, errors that it logs again.

Orbax looks for what it wrote with patterns, in which brackets, stars and backslashes
mean something; its storage layer wants text, and paths of bounded length. It gets a
link to such a folder, in a temporary folder.

When a write fails, Orbax logs the traceback from three threads, and the writes that it
gave up on end in a closed event loop; the error is raised anyway.
"""

import contextlib
import logging
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from gru_mem_jax import storage
from gru_mem_jax.errors import RunError

_PLAIN = re.compile(r"[A-Za-z0-9_./+=,@ -]{1,1024}")


@contextlib.contextmanager
def plain_path(folder: Any) -> Iterator[Any]:
    """The folder itself if its path is plain, else, while entered, a link to it.

    Args:
      folder: absolute, or in a bucket; it must exist when the path is used.

    Raises:
      RunError: no link can be made.
    """
    if storage.in_bucket(folder) or _PLAIN.fullmatch(os.fspath(folder)):
        yield folder
        return
    try:
        home = pathlib.Path(tempfile.mkdtemp(prefix="gru_mem_", dir=_temporary()))
        link = home / "folder"
        link.symlink_to(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: this path needs a link in a temporary folder, which cannot be "
            f"made ({error.strerror}); set TMPDIR to a writable folder with a plain "
            "name, or give a path of letters and digits"
        ) from error
    try:
        yield link
    finally:
        with contextlib.suppress(OSError):
            link.unlink()
            home.rmdir()


def _temporary() -> str:
    """The usual folder, unless its own path is not plain."""
    usual = tempfile.gettempdir()
    return usual if _PLAIN.fullmatch(usual) else "/tmp"


class OrbaxNoise:
    """Silences Orbax's own log between `start` and `stop`.

    After a failure it is not stopped: late writes may still end in the closed loop.
    """

    def __init__(self):
        self._hook = None

    def start(self) -> None:
        """Silences."""
        logging.getLogger("absl").addFilter(_is_not_orbax)
        if self._hook is None:
            self._hook = sys.unraisablehook
            sys.unraisablehook = self._unraisable

    def stop(self) -> None:
        """Ends the silence."""
        logging.getLogger("absl").removeFilter(_is_not_orbax)
        if sys.unraisablehook == self._unraisable:
            sys.unraisablehook = self._hook
            self._hook = None

    def _unraisable(self, args) -> None:
        closed = isinstance(args.exc_value, RuntimeError)
        if not (closed and "Event loop is closed" in str(args.exc_value)):
            self._hook(args)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "[process=" not in str(record.msg) and "orbax" not in record.pathname
