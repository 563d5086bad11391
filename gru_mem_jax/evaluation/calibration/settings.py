"""Thresholds in a policy's settings, gru_mem.json."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.agent.config import SETTINGS_FILE, AgentConfig, config_to_dict
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.lines import line_of

# Not the policy's: how calibration reads.
_OF_THE_READING = ("mode", "sampling", "max_chunks", "deadline_seconds")


def with_thresholds(
    own: Mapping[str, Any] | None,
    saved: AgentConfig,
    used: AgentConfig,
    thresholds: Mapping[str, float | None],
) -> dict[str, Any]:
    """Settings as they were, constrained and with thresholds.

    Args:
      own: what gru_mem.json holds; None: there is none.
      saved: the settings that the policy directory gives.
      used: those of the calibration. What differs from `saved` is written too: the
        thresholds hold for it.
      thresholds: update_threshold and exit_threshold; None is left as it is.
    """
    before, now = config_to_dict(saved), config_to_dict(used)
    changed = {
        name: now[name]
        for name in now
        if now[name] != before[name] and name not in (*_OF_THE_READING, *thresholds)
    }
    found = {name: value for name, value in thresholds.items() if value is not None}
    return {**(own or {}), **changed, "format": "constrained", **found}


def check_writable(policy: str | os.PathLike[str]) -> None:
    """Refuses a policy whose settings cannot be changed.

    Raises:
      InputError: it is the hub's, in a bucket, or may not be written.
    """
    name = os.fspath(policy)
    instead = f"without --write the settings are in OUT/{SETTINGS_FILE} alone"
    if name.startswith("hf://") or storage.in_bucket(name):
        raise InputError(
            f"--write: {name} is a copy of what lies elsewhere, and is not changed; "
            f"{instead}"
        )
    folder = pathlib.Path(name)
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--write: {name} cannot be written: no permission; {instead}")


def write_settings(
    folder: str | os.PathLike[str], settings: Mapping[str, Any]
) -> pathlib.Path:
    """Replaces a folder's gru_mem.json by one that is whole; its path.

    Raises:
      RunError: it cannot be written; the old one is as it was.
    """
    path = pathlib.Path(folder) / SETTINGS_FILE
    with durable_files.writing(path):
        durable_files.write_atomically(path, line_of(dict(settings), indent=2))
    return path
