"""Ctrl-C and SIGTERM: the first raises, the second ends the process.

A compilation or a long program delays the exception; a note says so.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from gru_mem_jax.runs.signals import STATUS, SignalWatcher, Terminated


class Handlers(SignalWatcher):
    """While entered: the first SIGINT or SIGTERM raises, the second ends the process.

    Args:
      on_wait: called from a thread when a first signal is not handled within
        `patience` seconds, because a program is running.
      patience: seconds.
    """

    def __init__(
        self, *, on_wait: Callable[[], None] | None = None, patience: float = 0.5
    ):
        super().__init__()
        self._on_wait = on_wait
        self._patience = patience
        self._raised = threading.Event()

    def handle(self, signum: int, frame) -> None:
        """Raises, once."""
        if not self._raised.is_set():
            self._raised.set()
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated

    def arrived(self, signum: int, count: int) -> None:
        """Announces a wait; ends the process at the second signal."""
        if count > 1:
            _show_cursor()
            os._exit(STATUS[signum])
        threading.Thread(target=self._announce, daemon=True).start()

    def _announce(self) -> None:
        if not self._raised.wait(self._patience) and self._on_wait is not None:
            self._on_wait()


def _show_cursor() -> None:
    """Undoes what a live view does to a terminal; nothing else survives `_exit`."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")
