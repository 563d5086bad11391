"""Ctrl-C and SIGTERM: the first raises, the second ends the process.

A compilation or a long program delays the exception; a note says so.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from gru_mem_jax.runs.signals import STATUS, SignalWatcher, Terminated

_AGAIN_SECONDS = 0.02


class Handlers(SignalWatcher):
    """While entered: the first SIGINT or SIGTERM raises, the second ends the process.

    What is raised within a destructor or a callback of the garbage collector goes no
    further: it is raised once more.

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
        self._old_hook: Callable[[Any], object] | None = None

    def __enter__(self) -> "Handlers":
        super().__enter__()
        if self._pipe is not None:
            self._old_hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(self, *unused: object) -> None:
        if self._old_hook is not None:
            sys.unraisablehook, self._old_hook = self._old_hook, None
        super().__exit__()

    def _swallowed(self, what: Any) -> None:
        """Called with an exception that Python could not raise."""
        if what.exc_type in (KeyboardInterrupt, Terminated):
            # After this call: an exception in here would be swallowed as well.
            threading.Timer(_AGAIN_SECONDS, self._raise_again, (what.exc_type,)).start()
        elif self._old_hook is not None:
            self._old_hook(what)

    def _raise_again(self, exc_type: type[BaseException]) -> None:
        if self._old_hook is not None:
            main = ctypes.c_ulong(threading.main_thread().ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(exc_type))

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
