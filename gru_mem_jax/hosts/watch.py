"""Looks after the other processes of a run, and ends this one with them.

Each process shows a counter in the store, and whether it is asked to stop, has failed
or has left. A counter that stands still is a process that was killed or lost its
network: the others, which may wait for it in a program on the devices, end at once.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

from gru_mem_jax.hosts import coordination

TICK = 1.0  # seconds between two looks at the others
_PLACE = "gru_mem/watch"


class StopRequest(Protocol):
    """What can be asked to stop, as `runs.signals.StopSignal`."""

    @property
    def requested(self) -> bool:
        """Whether it was asked."""

    def request(self) -> None:
        """Asks it."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How another process ended.

    Attributes:
      index: its number.
      status: its exit status, not 0.
      line: its error.
    """

    index: int
    status: int
    line: str


class Watch(threading.Thread):
    """Shows that this process lives, and looks whether the others do.

    Args:
      index: number of this process.
      names: of all, for messages.
      seconds: without a sign of life after which a process is lost.

    Attributes:
      patience: those seconds.
      ended: how the first process ended that did with an error, this one included;
        None: none did.
      left: numbers of the others that have ended.
      stop: what is asked to stop with the others.
      on_lost: called with the line that ends this process.
      on_wait: called now and then while this process waits for others.
    """

    def __init__(self, index: int, names: list[str], seconds: float):
        super().__init__(daemon=True, name="hosts")
        self.patience = seconds
        self.ended: Ended | None = None
        self.left: set[int] = set()
        self.stop: StopRequest | None = None
        self.on_lost: Callable[[str], None] = lambda line: None
        self.on_wait: Callable[[], None] = lambda: None
        self._index, self.names = index, names
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._beat = 0
        self._told = self._left = False
        self._tick = min(TICK, seconds / 4)
        self._answered = time.monotonic()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self.join()
        forget_abort()

    @property
    def has_told(self) -> bool:
        """Whether the others were told of an error of this process."""
        return self._told

    def tell(self, own: Ended) -> None:
        """Tells the others of this process's error; the first of all counts."""
        if self._told:
            return
        self._told = True
        if self.ended is None:
            self.ended = own
        with contextlib.suppress(Exception):  # the store may be gone
            self._show()

    def leave(self) -> None:
        """Says that this process ends; the first one, with the store, ends last."""
        self._left = True
        deadline = time.monotonic() + self.patience
        with contextlib.suppress(Exception):
            self._show()
            while self._index == 0 and time.monotonic() < deadline:
                others = self._look().values()
                if sum(other["left"] for other in others) == len(self.names) - 1:
                    break
                time.sleep(self._tick / 4)
        self._closed.set()
        forget_abort()

    def run(self) -> None:
        """The thread."""
        on_abort(self._aborted)
        seen: dict[int, tuple[int, float]] = {}
        ended_at = 0.0
        while not self._closed.wait(self._tick):
            now = time.monotonic()
            try:
                self._show()
                others = self._look()
                self._answered = now
            except Exception:  # of jax: what its RPC layer raises
                if now - self._answered > self.patience:
                    self._lost(0, "its coordination service does not answer")
                continue
            for index in range(len(self.names)):
                if index == self._index:
                    continue
                other = others.get(index)
                beat = -1 if other is None else other["beat"]
                before, since = seen.get(index, (None, now))
                seen[index] = (beat, since if beat == before else now)
                gone = now - seen[index][1] > self.patience
                if gone and not (other and other["left"]) and not self._left:
                    self._lost(index, f"no sign of life for {self.patience:g} s")
            self._share_stop(others.values())
            if self.ended is not None:
                ended_at = ended_at or now
                if now - ended_at > self.patience and not self._left:
                    # It waits in a program for devices that are gone.
                    self._end(self.told(self.ended), self.ended.status)

    def _show(self) -> None:
        with self._lock:
            self._beat += 1
            # Its own end alone: of another's the others hear from that one.
            own = self.ended if self.ended and self.ended.index == self._index else None
            record = {
                "beat": self._beat,
                "stop": self.stop is not None and self.stop.requested,
                "left": self._left,
                "ended": None if own is None else dataclasses.astuple(own),
            }
            key = f"{_PLACE}/{self._index}"
            coordination.put(key, json.dumps(record).encode(), again=True)

    def _look(self) -> dict[int, dict[str, Any]]:
        found = coordination.folder(_PLACE)
        others = {
            index: json.loads(data)
            for index, data in found.items()
            if index != self._index
        }
        self.left = {index for index, other in others.items() if other["left"]}
        for _, other in sorted(others.items()):
            if other["ended"] is not None and self.ended is None:
                self.ended = Ended(*other["ended"])
        return others

    def _share_stop(self, others: Iterable[Mapping[str, Any]]) -> None:
        stop = self.stop
        asked = any(other["stop"] for other in others)
        if asked and stop is not None and not stop.requested:
            stop.request()

    def told(self, ended: Ended) -> str:
        """The line of a process's end."""
        if ended.index == self._index:
            return ended.line
        return f"{self.names[ended.index]} ended: {ended.line}"

    def _aborted(self) -> None:
        if self.ended is not None:
            self._end(self.told(self.ended), self.ended.status)
        self._lost(0, "its coordination service is gone")

    def _lost(self, index: int, why: str) -> None:
        self._end(f"{self.names[index]} is lost ({why}); {coordination.RESUME}", 1)

    def _end(self, line: str, status: int) -> None:
        with contextlib.suppress(Exception):
            self.on_lost(line)
        end_here(line, status)


def end_here(line: str, status: int) -> NoReturn:
    """Prints a line and ends the process, from any thread."""
    with contextlib.suppress(OSError):
        os.write(2, f"gru-mem: {line}\n".encode())
    os._exit(status)


_handler: Any = None  # held, or ctypes would free it


def on_abort(function: Callable[[], None]) -> None:
    """Calls a function where the process is about to end by SIGABRT.

    jax ends it so where it cannot join the others, and later, from a thread of its own,
    as soon as the coordination service is gone; it has no other way (its
    missed_heartbeat_callback cannot be a Python function: std::bad_cast). Python's
    handlers run in the main thread only, too late.
    """
    global _handler
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda signum: function())
        ctypes.CDLL(None).signal(int(signal.SIGABRT), _handler)


def forget_abort() -> None:
    """Ends what `on_abort` began."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).signal(int(signal.SIGABRT), None)
