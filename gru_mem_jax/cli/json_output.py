"""JSON results: to a file, which is always whole, or to stdout, once."""

import json
import math
import os
import pathlib
import stat
import sys
from typing import Any

from gru_mem_jax.errors import InputError, RunError


class Target:
    """Where a command's JSON goes: a file, stdout, or nowhere.

    Attributes:
      path: of the file; None: there is none.
      is_incremental: whether `write` replaces what was written before.
      is_stdout: whether it goes to stdout.
    """

    def __init__(
        self,
        path: pathlib.Path | None = None,
        *,
        is_incremental: bool = False,
        is_stdout: bool = False,
    ):
        self.path = path
        self.is_incremental, self.is_stdout = is_incremental, is_stdout

    def write(self, document: dict[str, Any]) -> None:
        """Writes the document; a file is written aside and renamed.

        Raises:
          RunError: the file cannot be written (full disk, folder removed).
          BrokenPipeError: stdout has no reader any more.
        """
        text = dumps(document)
        if self.is_stdout:
            sys.stdout.write(text)
            sys.stdout.flush()
        if self.path is None:
            return
        aside = self.path.with_name(f".{self.path.name}.partial")
        try:
            if not self.is_incremental:
                self.path.write_text(text, encoding="utf-8")
                return
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, self.path)
        except OSError as e:
            aside.unlink(missing_ok=True)
            raise RunError(
                f"cannot write {self.path} ({len(text)} bytes): {e.strerror}"
            ) from e


def open_target(name: str | None) -> Target:
    """Checks that `name` can be written before anything expensive starts.

    Args:
      name: a path, "-" for stdout, or None for nowhere. A device or a named pipe is
        written once, in place.

    Raises:
      InputError: no such folder, a folder, or no permission.
    """
    if name is None or name == "-":
        return Target(is_stdout=name == "-")
    if not name:
        raise InputError("--json: expected a file name or -, got an empty string")
    path = pathlib.Path(os.path.realpath(name))  # replaces the target of a link
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as e:
        raise InputError(f"--json: {name}: {e.strerror}") from None
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"--json: {name} is a folder, expected a file")
    if not path.parent.is_dir():
        raise InputError(f"--json: folder {path.parent} does not exist")
    if mode is not None and not stat.S_ISREG(mode):
        return Target(path)
    if not os.access(path.parent, os.W_OK) or (
        mode is not None and not os.access(path, os.W_OK)
    ):
        raise InputError(f"--json: {name}: no permission to write")
    return Target(path, is_incremental=True)


def dumps(document: dict[str, Any]) -> str:
    """JSON in ASCII, one line per key and one per record of a list of records.

    NaN and infinities become null.
    """
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join("  " + _compact(row) for row in value)
            text = f"[\n{rows}\n ]"
        else:
            text = _compact(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
