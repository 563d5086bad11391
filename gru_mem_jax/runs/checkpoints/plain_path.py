"""Folders whose names a library would misread, under a name that it reads as it is.

Orbax looks for what it wrote with patterns, in which brackets, stars and backslashes
mean something; its storage layer wants text, and paths of bounded length. Such a folder
is handed on as a link to it in a temporary folder.
"""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from gru_mem_jax.errors import RunError

_PLAIN = re.compile(r"[A-Za-z0-9_./+=,@ -]{1,1024}")


@contextlib.contextmanager
def plain_path(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder itself if its path is harmless, else a link to it while this lasts.

    Args:
      folder: absolute; it must exist by the time that the path is used.

    Raises:
      RunError: no link can be made.
    """
    if _PLAIN.fullmatch(os.fspath(folder)):
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
    """The usual one, unless its own name is not plain."""
    usual = tempfile.gettempdir()
    return usual if _PLAIN.fullmatch(usual) else "/tmp"
