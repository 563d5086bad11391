"""The processes of one run: what they tell one another, and what they do when one ends.

A run on several hosts is the same program in several processes, one per host, joined by
`jax.distributed`. Here they exchange small values through its coordination service, a
key-value store in process 0, and not by programs on the devices: so it works in any
thread, also while the devices are busy, has a time limit, and can name who is missing.

    hosts = start(coordinator="10.0.0.1:1234", num_processes=2, process_id=0)
    lengths = hosts.gather("lengths", len(rows))      # [3, 5] on both

Without `jax.distributed` there is one process, and everything here returns at once.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.hosts import coordination
from gru_mem_jax.hosts.watch import (
    TICK,
    Ended,
    StopRequest,
    Watch,
    end_here,
    on_abort,
)

T = TypeVar("T")
HEARTBEAT_SECONDS = 30.0
LIMIT_SECONDS = 1800.0
_PLACE = "gru_mem/call"


class Stopped(Exception):
    """The run was asked to stop; raised between two programs, never in one."""


class Hosts:
    """This process among those of the run. Made by `start` or `current`.

    Every process calls `gather`, `gather_arrays` and `barrier` with the same names in
    the same order; two threads use different names.

    Attributes:
      index: number of this process.
      count: number of processes.
      limit_seconds: how long a call waits for the others.
      names: a name of each process for messages.
    """

    def __init__(
        self, index: int = 0, count: int = 1, *, limit_seconds: float = LIMIT_SECONDS
    ):
        self.index, self.count = index, count
        self.limit_seconds = limit_seconds
        self.names = [f"process {i}" for i in range(count)]
        self._watch: Watch | None = None
        self._calls: dict[str, int] = {}
        self._lock = threading.Lock()
        self._waited = 0.0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.index == 0

    # Exchange

    def gather(self, name: str, value: Any) -> list[Any]:
        """The value of each process, in order.

        Args:
          name: of the call; see the class.
          value: JSON; tuples arrive as lists where there are several processes.

        Raises:
          RunError: a process did not answer in time, or has ended; names it.
          InputError: a process has ended for its input.
        """
        if self.count == 1:
            return [value]
        text = json.dumps(value).encode()
        return [json.loads(data) for data in self._exchange(name, text)]

    def gather_arrays(self, name: str, tree: Any) -> list[Any]:
        """The tree of each process, in order; raises as `gather`.

        Args:
          name: of the call; see the class.
          tree: dicts, lists, tuples and NamedTuples of numpy arrays. All processes have
            the same structure; shapes may differ.
        """
        if self.count == 1:
            return [tree]
        data = coordination.encode_arrays(tree)
        given = self._exchange(name, data)
        return [coordination.decode_arrays(each, tree) for each in given]

    def barrier(self, name: str) -> None:
        """Waits until every process is here; raises as `gather`."""
        self.gather(name, None)

    def together(self, name: str, work: Callable[[], T]) -> T:
        """Does this process's part of some work.

        Args:
          name: of the call; see the class.
          work: may raise Stopped.

        Raises:
          Stopped: on every process, where it was raised on one of them.
          InputError, RunError: as `gather`.
        """
        result: list[T] = []
        with contextlib.suppress(Stopped):
            result.append(work())
        if not all(self.gather(name, bool(result))):
            raise Stopped
        return result[0]

    def part(self, count: int) -> range:
        """Which of so many items are this process's, next to one another."""
        start, end = (-(-count * i // self.count) for i in (self.index, self.index + 1))
        return range(start, end)

    def dealt(self, count: int) -> range:
        """Which of so many items are this process's, dealt like cards."""
        return range(self.index, count, self.count)

    def agree(self, name: str, facts: Mapping[str, Any]) -> None:
        """Refuses processes that differ.

        Args:
          name: of the call; see the class.
          facts: JSON values by what they are.

        Raises:
          InputError: on every process, with the first difference.
          RunError: as `gather`.
        """
        given = self.gather(name, dict(facts))
        if (found := coordination.disagreement(given, self.names)) is not None:
            raise InputError(
                f"the processes of the run disagree in {found}; start all of them with "
                "the same command, code and files"
            )

    def take_waited(self) -> float:
        """Seconds that calls waited for other processes, since this was last asked."""
        with self._lock:
            seconds, self._waited = self._waited, 0.0
        return seconds

    # The others' ends

    def check(self) -> None:
        """Raises the error that one of the processes has told; as `gather`."""
        if self._watch is not None and (ended := self._watch.ended) is not None:
            error = InputError if ended.status == InputError.exit_status else RunError
            raise error(self._watch.told(ended))

    def share(
        self,
        stop: StopRequest,
        *,
        on_wait: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Asks every process to stop as soon as one of them is asked.

        Args:
          stop: of this process; asked when another one was.
          on_wait: called now and then while a call waits for the others.
          on_lost: called with the line that ends this process with a lost one.
        """
        if (watch := self._watch) is not None:
            watch.on_wait, watch.on_lost, watch.stop = on_wait, on_lost, stop

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tells the others of an error that passes, so that they end with it.

        Raises:
          InputError, RunError: the error of the process whose end caused this one.
        """
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            cause = self.explain(error)
            self._tell(getattr(cause, "exit_status", 1), str(cause))
            if cause is error:
                raise
            raise cause from error
        except BaseException as error:  # e.g. Ctrl-C
            self._tell(1, type(error).__name__)
            raise

    def _tell(self, status: int, line: str) -> None:
        if self._watch is not None:
            self._watch.tell(Ended(self.index, status, line))

    def explain(self, error: BaseException) -> BaseException:
        """The error of the process whose end caused this one, if there is such a one.

        A program over the devices of all fails where one of them ends: some time passes
        before it is known which.
        """
        watch = self._watch
        if watch is None or watch.has_told or isinstance(error, InputError | RunError):
            return error
        # Errors of jax and of its transport between processes.
        wait = isinstance(error, RuntimeError) and not isinstance(error, RecursionError)
        deadline = time.monotonic() + wait * (watch.patience + 2 * TICK)
        while True:
            try:
                self.check()
            except (InputError, RunError) as found:
                return found
            if time.monotonic() >= deadline:
                return error
            time.sleep(TICK / 10)  # a lost process ends this one from the watch

    def leave(self, status: int, line: str = "") -> None:
        """Ends the part that this process has in the run; call it last.

        Args:
          status: not 0: the others end with it too, and this process ends here.
          line: what went wrong.
        """
        if self.count == 1:
            return
        if status == 0:
            self.barrier("leave")
            if self._watch is not None:
                self._watch.close()
            _shutdown()
            return
        if self._watch is not None:
            self._watch.tell(Ended(self.index, status, line))
            self._watch.leave()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)  # jax's own end would wait for every process

    def _exchange(self, name: str, value: bytes) -> list[bytes]:
        with self._lock:
            call = self._calls[name] = self._calls.get(name, -1) + 1
        place, before = (f"{_PLACE}/{name}/{n}" for n in (call, call - 1))
        with coordination.told(self.names[0]):
            parts = coordination.put_parts(f"{place}/part/{self.index}", value)
            # Set last: whoever sees it finds all parts.
            coordination.put(f"{place}/set/{self.index}", str(parts).encode())
            started = time.monotonic()
            sizes = self._wait(name, f"{place}/set", started)
            with self._lock:
                self._waited += time.monotonic() - started
            values = [
                coordination.get_parts(f"{place}/part/{index}", size)
                for index, size in enumerate(sizes)
            ]
            if call:
                # All have set this call, so all have read the one before.
                coordination.delete(f"{before}/part/{self.index}")
                coordination.delete(f"{before}/set/{self.index}")
        return values

    def _wait(self, name: str, folder: str, started: float) -> list[int]:
        while True:
            found = coordination.folder(folder)
            missing = [i for i in range(self.count) if i not in found]
            if not missing:
                return [int(found[i]) for i in range(self.count)]
            self.check()
            if self._watch is not None:
                self._watch.on_wait()
                if gone := self._watch.left.intersection(missing):
                    who = self.names[min(gone)]
                    raise RunError(f"{who} has ended, and was waited for at {name!r}")
            waited = time.monotonic() - started
            if waited > self.limit_seconds:
                who = ", ".join(self.names[i] for i in missing)
                raise RunError(
                    f"{who} did not answer for {waited:.0f} s at {name!r}; see what "
                    f"it does there, or raise LoopConfig.hang_seconds; "
                    f"{coordination.RESUME}"
                )
            coordination.get(f"{folder}/{missing[0]}", seconds=TICK / 2)

    def watch(self, seconds: float = HEARTBEAT_SECONDS) -> None:
        """Begins to look after the others; a process that is lost ends this one.

        Args:
          seconds: without a sign of life after which a process is taken for lost.
        """
        if self.count > 1 and self._watch is None:
            self._watch = Watch(self.index, self.names, seconds)
            self._watch.start()


_current: Hosts | None = None


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    start_seconds: float = 300.0,
) -> Hosts:
    """Joins this process to the others; to be called before anything else uses jax.

    Args:
      coordinator: HOST:PORT where process 0 can be reached. None: it, the number of
        processes and this one's are found by jax, from the metadata of TPUs, from
        Kubernetes or from Slurm.
      num_processes: of the run.
      process_id: of this process, from 0.
      heartbeat_seconds: after which a process that shows no sign of life is taken for
        lost, which ends the others.
      start_seconds: to wait for all to arrive.

    Raises:
      InputError: jax finds no others, or they run another version.
      RunError: they did not arrive in time.
    """
    global _current
    import jax

    from gru_mem_jax.version import __version__

    if _current is not None:
        return _current
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM
    which = "this process" if coordinator is None else f"process {process_id}"
    where = "" if coordinator is None else f" at {coordinator}"
    line = (
        f"{which} could not join the others{where} within {start_seconds:g} s; start "
        "all of them, with the same coordinator and number of processes"
    )
    on_abort(lambda: end_here(line, RunError.exit_status))
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=int(start_seconds),
            # Ours comes first: jax's ends a process by SIGABRT.
            heartbeat_timeout_seconds=int(2 * heartbeat_seconds) + 10,
            shutdown_timeout_seconds=int(start_seconds),
        )
    except ValueError as error:
        raise InputError(
            f"jax found no processes to join: {error}; give --coordinator HOST:PORT, "
            "--num_processes and --process_id"
        ) from error
    except RuntimeError as error:  # jax's own, too
        raise RunError(f"{line} ({coordination.first_line(error)})") from error
    hosts = current()
    hosts.limit_seconds = start_seconds
    hosts.watch(heartbeat_seconds)
    own = f"process {hosts.index} ({socket.gethostname()}, pid {os.getpid()})"
    hosts.names[:] = hosts.gather("names", own)
    versions = {"gru_mem_jax": __version__, "jax": jax.__version__}
    hosts.agree(
        "versions", versions | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "")}
    )
    hosts.limit_seconds = LIMIT_SECONDS
    return hosts


def current() -> Hosts:
    """This process: of those of `start`, or of `jax.distributed`, or the only one."""
    global _current
    if _current is None:
        state = coordination.state()
        if state is None or state.client is None or state.num_processes == 1:
            return Hosts()
        _current = Hosts(state.process_id, state.num_processes)
    return _current


def _shutdown() -> None:
    global _current
    import jax

    _current = None
    with contextlib.suppress(RuntimeError):  # a process that ended since
        jax.distributed.shutdown()
