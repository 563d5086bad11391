"""Prints JAX's devices as JSON; `gru-mem env` runs it in a process of its own.

A flag that XLA does not know aborts the process, and a device that another process
holds may block it.
"""

import json
import logging
import pathlib
import sys
from typing import Any


class _Kept(logging.Handler):
    """Keeps log records as lines."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() + (f": {error}" if error else "")
        self.lines.append(" ".join(text.split())[:500])


def find() -> dict[str, Any]:
    """Backend and devices, or "failed" and why; "warnings": JAX's log."""
    from gru_mem_jax import machine
    from gru_mem_jax.cli import platforms
    from gru_mem_jax.errors import InputError

    kept = _Kept()
    logging.getLogger("jax").addHandler(kept)
    try:
        devices = platforms.devices()
        import jax

        found = {
            "backend": jax.default_backend(),
            "devices": machine.device_names(devices),
            "processes": jax.process_count(),
        }
    except InputError as error:
        found = {"failed": str(error)}
    return found | {"warnings": kept.lines}


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
    print("\n" + json.dumps(find()), flush=True)
