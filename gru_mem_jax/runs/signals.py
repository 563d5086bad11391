"""How a run is stopped from outside, and how a hanging run ends.

Signals are seen the moment they arrive, also while a program compiles or runs: Python
runs its own handlers between bytecodes only, so a watcher thread is woken by the signal
itself.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, not an Exception."""


class SignalWatcher:
    """While entered, `arrived` is called for each SIGTERM and SIGINT, in a thread.

    Outside the main thread nothing is installed. A signal that is ignored from the
    start (a background job's SIGINT) stays ignored. Handlers are put back at exit.
    """

    def __init__(self) -> None:
        self._old: dict[int, object] = {}
        self._old_fd = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._old_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for signum in STATUS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._old[signum] = signal.signal(signum, self.handle)
        threading.Thread(
            target=self._watch, args=(self._pipe[0],), daemon=True, name="signals"
        ).start()
        return self

    def __exit__(self, *unused) -> None:
        if self._pipe is None:
            return
        for signum, handler in self._old.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._pipe[1])  # ends the watcher
        self._pipe = None

    def handle(self, signum: int, frame) -> None:
        """Called in the main thread, between two bytecodes."""

    def arrived(self, signum: int, count: int) -> None:
        """Called in the watcher's thread, at once; `count` is 1 for the first."""

    def _watch(self, fd: int) -> None:
        count = 0
        while data := os.read(fd, 1):
            if data[0] in self._old:
                count += 1
                self.arrived(data[0], count)
        os.close(fd)


class StopSignal(SignalWatcher):
    """While entered: the first SIGTERM or SIGINT asks to stop, the second ends at once.

    SIGUSR1 prints the stacks of all threads to stderr. Outside the main thread
    `request` is the only way to stop.

    Args:
      on_request: called once, from the watcher thread, when the first signal arrives.
    """

    def __init__(self, on_request: Callable[[str], None] | None = None):
        super().__init__()
        self._on_request = on_request
        self._event = threading.Event()
        self.signum: int | None = None

    def __enter__(self) -> "StopSignal":
        super().__enter__()
        if self._pipe is not None and hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1, file=_stderr(), all_threads=True)
        return self

    def __exit__(self, *unused) -> None:
        if self._pipe is not None and hasattr(signal, "SIGUSR1"):
            faulthandler.unregister(signal.SIGUSR1)
        super().__exit__()

    @property
    def requested(self) -> bool:
        """Whether to stop; to be checked between two programs."""
        return self._event.is_set()

    @property
    def name(self) -> str:
        """The signal's name, for a message."""
        return signal.Signals(self.signum).name if self.signum else "a request"

    def request(self) -> None:
        """Asks to stop, without a signal."""
        self._event.set()

    def arrived(self, signum: int, count: int) -> None:
        """Sets the request; ends the process at the second signal."""
        if count > 1:
            os._exit(STATUS[signum])
        self.signum = signum
        self._event.set()
        if self._on_request is not None:
            with contextlib.suppress(Exception):  # a closed stderr stops nothing
                self._on_request(self.name)


class Watchdog:
    """Ends the process and prints all stacks when there was no progress for too long.

    Args:
      seconds: the longest time between two beats; 0: never.
      on_hang: called with a line before the stacks, e.g. to write it to a log.
      hard_seconds: further time until the process is ended even if its threads cannot
        run Python (a library that hangs and holds the interpreter's lock).
    """

    def __init__(
        self,
        seconds: float,
        on_hang: Callable[[str], None] | None = None,
        *,
        hard_seconds: float = 10.0,
    ):
        self.seconds = seconds
        self._hard = hard_seconds
        self._on_hang = on_hang
        self._stop = threading.Event()
        self._last = time.monotonic()
        self._doing = "starting"
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self.seconds > 0:
            self.beat("starting")
            self._thread = threading.Thread(
                target=self._watch, daemon=True, name="watchdog"
            )
            self._thread.start()
        return self

    def __exit__(self, *unused) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        faulthandler.cancel_dump_traceback_later()

    def beat(self, doing: str) -> None:
        """Reports progress, and names what comes next."""
        self._doing, self._last = doing, time.monotonic()
        if self.seconds > 0:
            faulthandler.dump_traceback_later(
                self.seconds + self._hard, exit=True, file=_stderr()
            )

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self._last > self.seconds:
                self._end()

    def _end(self) -> None:
        line = (
            f"no progress for {self.seconds:g} s while {self._doing}: the run ends "
            "here; give the same command again to resume from its last checkpoint"
        )
        with contextlib.suppress(Exception):
            if self._on_hang is not None:
                self._on_hang(line)
        with contextlib.suppress(OSError):
            os.write(_stderr(), f"gru-mem: {line}\n".encode())
            faulthandler.dump_traceback(file=_stderr(), all_threads=True)
        os._exit(1)


def _stderr() -> int:
    """A file descriptor for stacks; sys.stderr may be a wrapper."""
    for stream in (sys.stderr, sys.__stderr__):
        with contextlib.suppress(Exception):
            return stream.fileno()
    return 2
