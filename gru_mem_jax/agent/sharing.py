"""Several callers in several threads on one generator, which knows nothing of threads.

`join` gives each caller what looks like a generator of its own. Behind them is one
queue of requests, in order of submission, and no more are submitted than the generator
works on at once, and the rest of a group. There is no worker thread: one of the callers
that wait steps the generator for all, and hands it over when its own completions have
come. A lone caller makes the calls that it would make on the generator itself.

The requests of a caller that leaves are dropped by an `Interruptible` generator;
another generator finishes those that it has begun, and their completions are ignored.
If a step fails, its requests are submitted again, one caller at a time: the caller
whose requests fail alone gets the error, the others their completions.
"""

import contextlib
import dataclasses
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence

from gru_mem_jax.agent.requests import Completion, Generator, Interruptible, Request
from gru_mem_jax.errors import RunError

Ended = Sequence[tuple[int, Completion]]
# A caller that was just served is about to submit its next turn. The next step waits
# for it as long as the last one took, at most this long: else two callers would
# alternate where they could share a step.
_GRACE_SECONDS = 0.05
# A waiting caller checks this often, as a Ctrl-C may come between a change and `wake`.
_LOOK_SECONDS = 5.0
_FRONTS: "weakref.WeakValueDictionary[int, _Front]" = weakref.WeakValueDictionary()
_FRONTS_LOCK = threading.Lock()


class LeftError(Exception):
    """The caller has left, by `cancel` in another thread; it gets no completions."""


@dataclasses.dataclass(slots=True, eq=False)
class _Ticket:
    """A submitted request. `alone`: it was running when a step failed."""

    caller: "Caller"
    number: int
    request: Request
    alone: bool = False

    @property
    def live(self) -> bool:
        """Whether its caller still waits for its completion."""
        number, caller = self.number, self.caller
        return number in caller.open and number not in caller.ended


class Caller:
    """A generator that others use too; `join` makes it.

    One thread at a time submits and steps. `cancel` may be called by any thread, by a
    garbage collector or by a signal handler, at any moment: it never waits.
    """

    def __init__(self, front: "_Front", group_size: int = 1):
        self._front = front
        self.group_size = group_size
        self._next_number = 0
        self.open: set[int] = set()  # submitted, neither returned nor failed
        self.ended: dict[int, Completion] = {}
        self.error: Exception | None = None
        self.left = False
        self.thread: int | None = None
        self.awaited_until = 0.0
        self._bell = threading.Lock()  # released by `wake`
        self._bell.acquire()

    @property
    def capacity(self) -> int:
        """The generator's own."""
        return self._front.generator.capacity

    def submit(self, request: Request) -> int:
        """As `Generator.submit`; never waits.

        Raises:
          InputError: as the generator's; perhaps only from `step`.
          LeftError: after `cancel`.
        """
        ticket = _Ticket(self, self._next_number, request)
        self._next_number += 1
        self._front.submit(ticket)
        return ticket.number

    def step(self) -> Ended:
        """As `Generator.step`, for this caller's requests alone.

        Raises:
          RunError: the generator ended no request, or calls the agent itself.
          LeftError: after `cancel`.
        """
        return self._front.step(self)

    def cancel(self) -> None:
        """Leaves, and drops this caller's requests. May be called again."""
        self._front.leave(self)

    def wake(self) -> None:
        """Ends the `wait` of now, or else the next one."""
        with contextlib.suppress(RuntimeError):  # released already
            self._bell.release()

    def wait(self, seconds: float) -> None:
        """Waits for `wake`, at most this long."""
        self._bell.acquire(timeout=seconds)

    def take(self) -> Ended:
        """Returns what has ended, or raises the error; called with the front's lock."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        ended, self.ended = self.ended, {}
        self.open -= ended.keys()
        return list(ended.items())


def join(generator: Generator, group_size: int = 1) -> Caller:
    """A new caller of a generator; a `Caller` is returned as it is.

    A caller must `cancel` in the end. Until then the generator must not be called
    directly. It submits groups of `group_size` requests at once.
    """
    if isinstance(generator, Caller):
        return generator
    with _FRONTS_LOCK:
        # By id, since generators need not be hashable. A front holds its generator, so
        # that no other object can have its id.
        front = _FRONTS.get(id(generator))
        if front is None:
            front = _FRONTS[id(generator)] = _Front(generator)
        return Caller(front, group_size)


class _Front:
    """What the callers of one generator share.

    `worker` is the caller that steps the generator: it alone calls it, takes from the
    queue and touches `_flying`. Everything else is guarded by `lock`.
    """

    def __init__(self, generator: Generator):
        self.generator = generator
        self.lock = threading.RLock()  # never held while waiting or generating
        self.worker: Caller | None = None
        self._interruptible = (
            generator if isinstance(generator, Interruptible) else None
        )
        self._queue: deque[_Ticket] = deque()
        self._flying: dict[int, _Ticket] = {}  # by the generator's handles
        self._waiting: dict[Caller, None] = {}
        self._awaited: set[Caller] = set()
        self._left: deque[Caller] = deque()  # appended to without the lock
        self._step_seconds = 0.0

    # -- what callers do --------------------------------------------------------------

    def submit(self, ticket: _Ticket) -> None:
        """Queues a request; submits it at once if there is no worker."""
        caller = ticket.caller
        try:
            with self.lock:
                self._arrive(caller)
                caller.open.add(ticket.number)
                self._queue.append(ticket)
                if self.worker is None:
                    self.worker = caller
                else:
                    self.worker.wake()  # it may be waiting for this caller
            if self.worker is caller:
                self._fly()
        except BaseException:
            if self.worker is caller:
                self._failed(None)
            raise
        finally:
            self._pass_on(caller)
        if caller.error is not None:
            caller.take()

    def step(self, caller: Caller) -> Ended:
        """Waits for completions of a caller; steps the generator if no other does."""
        try:
            while True:
                with self.lock:
                    self._arrive(caller)
                    if caller.ended or caller.error or not caller.open:
                        return caller.take()
                    if self.worker is None:
                        self.worker = caller
                    if self.worker is not caller:
                        self._waiting[caller] = None
                if self.worker is caller:
                    self._work(caller)
                else:
                    caller.wait(_LOOK_SECONDS)
        finally:
            self._pass_on(caller)

    def leave(self, caller: Caller) -> None:
        """Marks a caller as gone; its requests are dropped between two steps."""
        caller.left = True
        self._left.append(caller)
        if self.worker is caller and caller.thread == threading.get_ident():
            self._pass_on(caller)  # which a Ctrl-C has prevented
        self._sweep()

    def _arrive(self, caller: Caller) -> None:
        """A caller submits or steps; called with the lock held."""
        if caller.left:
            raise LeftError
        caller.thread = threading.get_ident()
        worker = self.worker
        if worker is not None and worker is not caller:
            if worker.thread == caller.thread:
                raise RunError(
                    "the agent was called from within its own generator, which would "
                    "wait for itself; call it from on_turn or from a context instead"
                )
            if caller in self._awaited:
                worker.wake()
        self._awaited.discard(caller)
        self._waiting.pop(caller, None)

    def _pass_on(self, caller: Caller) -> None:
        """Ends a caller's work; the caller that has waited longest is next."""
        with self.lock:
            self._waiting.pop(caller, None)
            if self.worker is caller:
                self.worker = None
            if self.worker is None and self._waiting:
                next(iter(self._waiting)).wake()
        self._sweep()

    # -- what the worker does for all -------------------------------------------------

    def _work(self, caller: Caller) -> None:
        """One step of the generator; its completions go to their callers."""
        try:
            self._await_company(caller)
            self._let_go()
            self._fly()
            if self._flying:
                start = time.monotonic()
                ended = self._step()
                self._hand_over(ended, time.monotonic() - start)
        except Exception as error:
            self._failed(error)
        except BaseException:
            self._failed(None)
            raise

    def _await_company(self, caller: Caller) -> None:
        while self._awaited and not self._left and self._has_room(len(self._queue)):
            with self.lock:
                until = max((c.awaited_until for c in self._awaited), default=0.0)
                left = until - time.monotonic()
                if left <= 0:
                    self._awaited.clear()
            if left > 0:
                caller.wait(left)

    def _step(self) -> Ended:
        if self._interruptible is not None:
            ended = self._interruptible.step_until(self._called)
        else:
            ended = self.generator.step()
        if not ended and not self._called():
            raise RunError(
                f"the generator ended none of {len(self._flying)} requests in a step"
            )
        return ended

    def _called(self) -> bool:
        """Whether there is something to do between two parts of a step."""
        return self._interruptible is not None and (
            bool(self._left) or self._next() is not None
        )

    def _has_room(self, queued: int = 0) -> bool:
        tickets = (*self._flying.values(), *self._queue)
        rest = max((ticket.caller.group_size - 1 for ticket in tickets), default=0)
        return len(self._flying) + queued < max(1, self.generator.capacity) + rest

    def _next(self) -> _Ticket | None:
        """The ticket that may be submitted now."""
        if not self._queue or not self._has_room():
            return None
        ticket, flying = self._queue[0], self._flying.values()
        alone = ticket.alone or any(other.alone for other in flying)
        if alone and any(other.caller is not ticket.caller for other in flying):
            return None
        return ticket

    def _fly(self) -> None:
        """Submits what there is room for. A refused request is its caller's error."""
        while (ticket := self._next()) is not None:
            try:
                handle = self.generator.submit(ticket.request)
            except Exception as error:
                self._fail(ticket.caller, error)
                continue
            self._flying[handle] = ticket
            self._queue.popleft()

    def _hand_over(self, ended: Ended, seconds: float) -> None:
        until = time.monotonic() + min(seconds, _GRACE_SECONDS)
        with self.lock:
            for handle, completion in ended:
                ticket = self._flying.get(handle)
                if ticket is None:  # of a caller that has left
                    continue
                caller = ticket.caller
                if ticket.number in caller.open:
                    caller.ended[ticket.number] = completion
                    caller.awaited_until = until
                    self._awaited.add(caller)
                    caller.wake()
                del self._flying[handle]

    def _failed(self, error: Exception | None) -> None:
        """A step failed or was interrupted: its requests go back to the queue."""
        with contextlib.suppress(Exception):  # the step's own error is the one to raise
            self.generator.cancel()
        lost = [ticket for ticket in self._flying.values() if ticket.live]
        self._flying.clear()
        with self.lock:
            again = [ticket for ticket in lost if ticket not in self._queue]
            self._queue.extendleft(reversed(again))
            for caller in self._waiting:
                caller.wake()
        callers = {ticket.caller for ticket in lost}
        if error is not None and len(callers) == 1:
            self._fail(callers.pop(), error)
        elif error is not None:
            for ticket in lost:
                ticket.alone = True

    def _fail(self, caller: Caller, error: Exception) -> None:
        with self.lock:
            self._forget({caller})  # its other requests
            caller.error = error
            caller.wake()

    def _forget(self, callers: set[Caller]) -> None:
        for caller in callers:
            caller.open.clear()
        kept = [ticket for ticket in self._queue if ticket.caller not in callers]
        self._queue.clear()
        self._queue.extend(kept)

    # -- callers that left ------------------------------------------------------------

    def _sweep(self) -> None:
        """Drops what belongs to callers that left, or leaves that to the worker.

        The garbage collector may close a stream in any thread at any moment, even in
        one that holds the lock: that one finishes its changes, and sweeps afterwards.
        """
        # threading's own Condition asks an RLock this too; typeshed does not list it.
        while self._left and not self.lock._is_owned():  # type: ignore[attr-defined]
            broom = Caller(self)
            broom.thread = threading.get_ident()
            try:
                with self.lock:
                    for caller in (*self._left, *filter(None, (self.worker,))):
                        caller.wake()
                    if self.worker is not None:
                        return
                    self.worker = broom
                self._let_go()
            finally:
                if self.worker is broom:
                    self._pass_on(broom)

    def _let_go(self) -> None:
        """Drops what belongs to callers that left; only the worker calls it."""
        if not self._left:
            return
        with self.lock:
            gone = {self._left.popleft() for _ in range(len(self._left))}
            self._awaited -= gone
            self._forget(gone)
        handles = [h for h, ticket in self._flying.items() if not ticket.live]
        if len(handles) == len(self._flying) > 0:
            self._flying.clear()
            with contextlib.suppress(Exception):  # of no concern to who leaves
                self.generator.cancel()
        elif handles and self._interruptible is not None:
            for handle in handles:
                del self._flying[handle]
            self._interruptible.discard(handles)
