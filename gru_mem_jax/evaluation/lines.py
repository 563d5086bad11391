"""Files of JSON lines: whole lines are read, and what follows them is cut."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from gru_mem_jax import buckets, storage
from gru_mem_jax.errors import InputError

_LONGEST = 1 << 28


def line_of(value: Any, indent: int | None = None) -> bytes:
    """A line of JSON; indented: several."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    with contextlib.suppress(UnicodeEncodeError):
        return f"{text}\n".encode()
    return f"{json.dumps(value, indent=indent)}\n".encode()  # a lone surrogate


def complete_lines(path: Any) -> Iterator[bytes]:
    """The complete lines of a file; of none, if there is no file.

    Raises:
      InputError: it cannot be read.
    """
    try:
        if not storage.exists(path):
            return
        if not storage.is_file(path):  # e.g. a pipe: the folder is untrusted
            raise InputError(f"{path}: expected a file")
        with storage.reader(path) as file:
            while line := file.readline(_LONGEST):
                if not line.endswith(b"\n") and len(line) < _LONGEST:
                    return  # killed, or still writing
                yield line
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def cut_torn(path: Any) -> None:
    """Removes an incomplete last line."""
    cut_to(path, sum(map(len, complete_lines(path))))


def cut_to(path: Any, size: int) -> None:
    """Removes what follows the first `size` bytes, if there is such a file."""
    if not storage.exists(path) or storage.size(path) == size:
        return
    if storage.in_bucket(path):
        buckets.write(path, storage.read_bytes(path)[:size])
    else:
        os.truncate(path, size)


def parsed(line: bytes) -> Any:
    """A line's JSON value.

    Raises:
      InputError: it is no JSON.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InputError("expected a line of JSON") from None
