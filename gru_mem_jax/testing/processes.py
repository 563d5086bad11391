"""Several processes on this machine that run together, as they would on several hosts.

Each has its own virtual CPU devices; they find one another by a port of the loopback
interface.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gru_mem_jax.errors import RunError


class Ended(NamedTuple):
    """One process.

    Attributes:
      status: exit status; negative: ended by that signal.
      out, err: what it wrote.
      seconds: from the start of all to its end.
    """

    status: int
    out: str
    err: str
    seconds: float

    @property
    def last_line(self) -> str:
        """Of what it wrote to stderr."""
        return (self.err.splitlines() or [""])[-1]


class Processes:
    """Processes that run; made by `running`.

    Attributes:
      all: as of subprocess.
    """

    def __init__(self, every: Sequence[subprocess.Popen[bytes]], folder: pathlib.Path):
        self.all = list(every)
        self._folder, self._started = folder, time.monotonic()

    def err(self, index: int) -> str:
        """What a process has written to stderr so far."""
        return (self._folder / f"{index}.err").read_text(errors="replace")

    def send(self, index: int, signum: int) -> None:
        """Sends a signal to one of them."""
        self.all[index].send_signal(signum)

    def wait_for(self, seen: Callable[[], bool], seconds: float = 120.0) -> None:
        """Waits until something is seen.

        Raises:
          RunError: it is not in time, or all have ended.
        """
        deadline = time.monotonic() + seconds
        while not seen():
            over = all(process.poll() is not None for process in self.all)
            if over or time.monotonic() > deadline:
                told = "\n".join(self.err(i) for i in range(len(self.all)))
                raise RunError(f"the processes did not come to it:\n{told}")
            time.sleep(0.02)

    def wait(self, seconds: float = 180.0) -> list[Ended]:
        """How they ended; those that are left after so long are killed."""
        ended: dict[int, float] = {}
        while len(ended) < len(self.all):
            now = time.monotonic() - self._started
            for index, process in enumerate(self.all):
                if index not in ended and process.poll() is not None:
                    ended[index] = now
            if now > seconds:
                break
            time.sleep(0.02)
        self.kill()
        return [
            Ended(
                process.returncode,
                (self._folder / f"{index}.out").read_text(errors="replace"),
                self.err(index),
                ended.get(index, seconds),
            )
            for index, process in enumerate(self.all)
        ]

    def kill(self) -> None:
        """Ends those that are left."""
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def device_flags(count: int) -> str:
    """XLA_FLAGS of a process with so many virtual CPU devices; other flags are kept."""
    ours = "--xla_force_host_platform_device_count"
    given = os.environ.get("XLA_FLAGS", "").split()
    kept = [flag for flag in given if flag.partition("=")[0] != ours]
    return " ".join([*kept, f"{ours}={count}"])


@contextlib.contextmanager
def running(
    commands: Sequence[Sequence[str]],
    folder: str | os.PathLike[str],
    *,
    devices: int = 4,
    environments: Sequence[Mapping[str, str]] | None = None,
) -> Iterator[Processes]:
    """Starts commands side by side; whatever is left at the end is killed.

    Args:
      commands: of each process, with its flags; see `host_flags`.
      folder: for what they write to stdout and stderr.
      devices: virtual CPU devices of each.
      environments: further variables of each.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    common = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": device_flags(devices)}
    started = []
    for index, command in enumerate(commands):
        own = dict(environments[index]) if environments else {}
        with (
            open(folder / f"{index}.out", "wb") as out,
            open(folder / f"{index}.err", "wb") as err,
        ):
            started.append(
                subprocess.Popen(
                    list(command),
                    env=os.environ | common | own,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
            )
    processes = Processes(started, folder)
    try:
        yield processes
    finally:
        processes.kill()


def host_flags(count: int, port: int | None = None) -> list[list[str]]:
    """The flags of each of so many processes on this machine; a free port if None."""
    port = free_port() if port is None else port
    return [
        [
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={count}",
            f"--process_id={index}",
        ]
        for index in range(count)
    ]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
