"""Ctrl-C and SIGTERM: a soft stop first, a hard one the second time.

Python runs signal handlers between bytecodes, so a compilation or a long program
delays them. A watcher thread, woken by the signal itself, tells the user so and ends
the process at the second signal.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable

_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, not an Exception."""


def raise_for(signum: int) -> None:
    """Raises what stands for the signal."""
    raise KeyboardInterrupt if signum == signal.SIGINT else Terminated


def on_main_thread() -> bool:
    """Whether handlers can be set here."""
    return threading.current_thread() is threading.main_thread()


class Handlers:
    """While entered: the first SIGINT or SIGTERM raises, the second ends the process.

    A signal that was ignored when the process started (a background job's SIGINT)
    stays ignored.
    """

    def __init__(
        self, *, on_wait: Callable[[], None] | None = None, patience: float = 0.5
    ):
        """Nothing is installed before `__enter__`.

        Args:
          on_wait: called from the watcher thread when a first signal is not handled
            within `patience` seconds, because a program is running.
          patience: seconds.
        """
        self._on_wait = on_wait
        self._patience = patience
        self._raised = threading.Event()
        self._old: dict[int, object] = {}
        self._old_fd = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Handlers":
        if not on_main_thread():
            return self
        for signum in _STATUS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._old[signum] = signal.signal(signum, self._handle)
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._old_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(
            target=self._watch, args=(self._pipe[0],), daemon=True, name="signals"
        ).start()
        return self

    def __exit__(self, *exc) -> None:
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._old_fd)
        for signum, handler in self._old.items():
            signal.signal(signum, handler)
        os.close(self._pipe[1])  # ends the watcher
        self._pipe = None

    def _handle(self, signum: int, frame) -> None:
        if not self._raised.is_set():
            self._raised.set()
            raise_for(signum)

    def _watch(self, fd: int) -> None:
        seen = 0
        while True:
            data = os.read(fd, 1)
            if not data:
                os.close(fd)
                return
            if data[0] not in self._old:
                continue
            seen += 1
            if seen > 1:
                _show_cursor()
                os._exit(_STATUS[data[0]])
            threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        if not self._raised.wait(self._patience) and self._on_wait is not None:
            self._on_wait()


def _show_cursor() -> None:
    """Undoes what a live view does to a terminal; nothing else survives `_exit`."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")
