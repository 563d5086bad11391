"""Several callers on one generator, side by side, none harmed by another.

A generator knows nothing of threads. `join` gives each caller a generator of its own to
look at; behind them requests stand in one queue, in order of submission, and no more
are submitted than the generator works on at once. There is no worker thread: of the
callers that wait, one works the generator for all, and passes it on when its own
completions have come. So a lone caller makes the calls that it would make without.

A caller that leaves takes its requests along: an `Interruptible` generator drops them,
another one finishes those that it has begun, and nobody sees them. If a step fails,
what was under way is submitted again, one caller at a time: who fails alone has the
error, the others their completions.
"""

import contextlib
import dataclasses
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence

from gru_mem_jax.agent.requests import Completion, Generator, Request
from gru_mem_jax.errors import RunError

Ended = Sequence[tuple[int, Completion]]
# A caller that was just served is about to ask for its next turn. It is waited for as
# long as the last step took, at most this long: else two callers would take turns
# where they could share a step.
_GRACE_SECONDS = 0.05
# Who waits looks up so often, for a Ctrl-C may fall between a change and its notice.
_LOOK_SECONDS = 5.0
_FRONTS: "weakref.WeakValueDictionary[int, _Front]" = weakref.WeakValueDictionary()
_FRONTS_LOCK = threading.Lock()


class LeftError(Exception):
    """The caller has left (from another thread), and what it waits for never comes."""


@dataclasses.dataclass(slots=True, eq=False)
class _Ticket:
    """A request on its way. `alone`: it was under way when a step failed."""

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

    One thread at a time submits and steps. `cancel` may come from any thread, at any
    moment, a garbage collector's or a signal's included: it never waits.
    """

    def __init__(self, front: "_Front"):
        self._front = front
        self._next_number = 0
        self.open: set[int] = set()  # submitted, neither returned nor failed
        self.ended: dict[int, Completion] = {}
        self.error: Exception | None = None
        self.left = False
        self.thread: int | None = None
        self.awaited_until = 0.0
        self._bell = threading.Lock()  # unlocked: rung
        self._bell.acquire()

    @property
    def capacity(self) -> int:
        """The generator's own."""
        return self._front.generator.capacity

    def submit(self, request: Request) -> int:
        """As `Generator.submit`; waits for nobody.

        Raises:
          InputError: as the generator's; perhaps only from `step`.
          LeftError: after `cancel`.
        """
        ticket = _Ticket(self, self._next_number, request)
        self._next_number += 1
        self._front.submit(ticket)
        return ticket.number

    def step(self) -> Ended:
        """As `Generator.step`, of this caller's requests alone.

        Raises:
          RunError: the generator ended no request, or calls the agent itself.
          LeftError: after `cancel`.
        """
        return self._front.step(self)

    def cancel(self) -> None:
        """Leaves, and takes along whatever was submitted. May be called again."""
        self._front.leave(self)

    def wake(self) -> None:
        """Ends a `wait`, of now or to come."""
        with contextlib.suppress(RuntimeError):  # rung already
            self._bell.release()

    def wait(self, seconds: float) -> None:
        """Waits to be woken, at most so long."""
        self._bell.acquire(timeout=seconds)

    def take(self) -> Ended:
        """What has ended, or the error that it came to; for the front, locked."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        ended, self.ended = self.ended, {}
        self.open -= ended.keys()
        return list(ended.items())


def join(generator: Generator) -> Caller:
    """A place among the callers of a generator; a `Caller` is its own.

    Whoever joins calls `cancel` in the end. The generator must not be used directly
    meanwhile.
    """
    if isinstance(generator, Caller):
        return generator
    with _FRONTS_LOCK:
        # By id, for generators need not be hashable. A front holds its generator, so
        # that an id here is of no other object.
        front = _FRONTS.get(id(generator))
        if front is None:
            front = _FRONTS[id(generator)] = _Front(generator)
        return Caller(front)


class _Front:
    """What the callers of one generator share.

    `worker` is the caller that has the generator in hand: it alone calls it, takes from
    the queue and touches `_flying`. Everything else is guarded by `lock`.
    """

    def __init__(self, generator: Generator):
        self.generator = generator
        self.lock = threading.RLock()  # never held while waiting or generating
        self.worker: Caller | None = None
        self._step_until = getattr(generator, "step_until", None)
        self._discard = getattr(generator, "discard", None)
        self._queue: deque[_Ticket] = deque()
        self._flying: dict[int, _Ticket] = {}  # by the generator's handles
        self._waiting: dict[Caller, None] = {}
        self._awaited: set[Caller] = set()
        self._left: deque[Caller] = deque()  # appended to without the lock
        self._step_seconds = 0.0

    # -- what callers do --------------------------------------------------------------

    def submit(self, ticket: _Ticket) -> None:
        """Queues a request; submits it at once if nobody has the generator in hand."""
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
        """Waits for completions of a caller, working the generator if nobody does."""
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
        """Marks a caller as gone; it is let go of as soon as nobody is at work."""
        caller.left = True
        self._left.append(caller)
        if self.worker is caller and caller.thread == threading.get_ident():
            self._pass_on(caller)  # a Ctrl-C came just when it was to do that
        self._sweep()

    def _arrive(self, caller: Caller) -> None:
        """A caller is back; with the lock held."""
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
        """Gives the generator out of hand, to who waits for it longest."""
        with self.lock:
            self._waiting.pop(caller, None)
            if self.worker is caller:
                self.worker = None
            if self.worker is None and self._waiting:
                next(iter(self._waiting)).wake()
        self._sweep()

    # -- what the worker does for all -------------------------------------------------

    def _work(self, caller: Caller) -> None:
        """One step of the generator; hands over what it ended."""
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
        while self._awaited and not self._left and self._has_room(self._queue):
            with self.lock:
                until = max((c.awaited_until for c in self._awaited), default=0.0)
                left = until - time.monotonic()
                if left <= 0:
                    self._awaited.clear()
            if left > 0:
                caller.wait(left)

    def _step(self) -> Ended:
        if self._step_until is not None:
            ended = self._step_until(self._called)
        else:
            ended = self.generator.step()
        if not ended and not self._called():
            raise RunError(
                f"the generator ended none of {len(self._flying)} requests in a step"
            )
        return ended

    def _called(self) -> bool:
        """Whether there is something to do between two parts of a step."""
        return self._step_until is not None and (
            bool(self._left) or self._next() is not None
        )

    def _has_room(self, queue: Sequence[_Ticket] = ()) -> bool:
        under_way = len(self._flying) + len(queue)
        return under_way < max(1, self.generator.capacity)

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
        """Submits what there is room for. A refusal is its own caller's error."""
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
                if ticket is None:  # left over from one who left
                    continue
                caller = ticket.caller
                if ticket.number in caller.open:
                    caller.ended[ticket.number] = completion
                    caller.awaited_until = until
                    self._awaited.add(caller)
                    caller.wake()
                del self._flying[handle]

    def _failed(self, error: Exception | None) -> None:
        """A step failed or was interrupted: clears the generator, loses nothing."""
        with contextlib.suppress(Exception):  # the step's own error is the one to tell
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
        """Gives a caller its error; what else it has under way is of no use."""
        with self.lock:
            self._forget({caller})
            caller.error = error
            caller.wake()

    def _forget(self, callers: set[Caller]) -> None:
        for caller in callers:
            caller.open.clear()
        kept = [ticket for ticket in self._queue if ticket.caller not in callers]
        self._queue.clear()
        self._queue.extend(kept)

    # -- those who left ---------------------------------------------------------------

    def _sweep(self) -> None:
        """Lets go of those who left, or leaves that to who is at work.

        The garbage collector may close a stream in any thread at any moment, one that
        holds the lock included: its changes come first, and it sweeps afterwards.
        """
        while self._left and not self.lock._is_owned():
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
        """Drops what belongs to those who left; for who has the generator in hand."""
        if not self._left:
            return
        with self.lock:
            gone = {self._left.popleft() for _ in range(len(self._left))}
            self._awaited -= gone
            self._forget(gone)
        handles = [h for h, ticket in self._flying.items() if not ticket.live]
        if len(handles) == len(self._flying) > 0:
            self._flying.clear()
            with contextlib.suppress(Exception):  # leaving harms nobody
                self.generator.cancel()
        elif handles and self._discard is not None:
            for handle in handles:
                del self._flying[handle]
            self._discard(handles)
