"""The record that marks a run folder: what the numbers of each start depend on."""

import json
import secrets
import stat
from collections.abc import Mapping
from typing import Any

from gru_mem_jax import storage
from gru_mem_jax.errors import InputError

FORMAT = 1
ENVIRONMENT = "environment.json"
_MAX_TEXT = 1 << 24


def read_environment(path: Any) -> dict[str, Any]:
    """The record of a run folder.

    Raises:
      InputError: it is not one, or of another format.
    """
    path = path / ENVIRONMENT
    text = read_text(path)
    try:
        record = json.loads(text)
        number = record["run_folder_format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: not a run folder's record ({error})") from error
    if number != FORMAT:
        raise InputError(
            f"{path.parent}: is a run folder of format {number}, this version of "
            f"gru_mem_jax reads {FORMAT}; use the version that wrote it"
        )
    return record


def read_text(path: Any) -> str:
    """A small regular file's text; the folder is untrusted."""
    try:
        regular = storage.in_bucket(path) or stat.S_ISREG(path.stat().st_mode)
        if not regular or storage.size(path) > _MAX_TEXT:
            raise InputError(f"{path}: expected a regular file of at most 16 MiB")
        return storage.read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from error


def environment_record(
    saved: Mapping[str, Any], environment: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The record to write, and a note on differences from the saved one."""
    now = json.loads(json.dumps(dict(environment)))
    before = saved.get("environment")
    earlier = list(saved.get("earlier", []))
    notes = []
    if isinstance(before, dict) and before != now:
        earlier.append(before)
        changed = [
            k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)
        ]
        notes = [
            f"another environment than before ({', '.join(changed)}): the numbers may "
            f"differ from an uninterrupted run's; see {ENVIRONMENT}"
        ]
    record = {
        "run_folder_format": FORMAT,
        "run_id": str(saved.get("run_id") or secrets.token_hex(8)),
        "environment": now,
        "earlier": earlier,
    }
    return record, notes
