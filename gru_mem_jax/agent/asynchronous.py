"""Between an event loop and the blocking code that reads and steps.

Every blocking call has a thread of its own: the threads of a pool could all be waiting
for contexts whose source needs the same pool. The threads are no daemons, since a
thread that is killed in the middle of a step takes the process down. They end soon
after their tasks are cancelled, unless a blocking iterator never gives anything.
"""

import asyncio
import contextlib
import contextvars
import functools
import queue
import threading
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import Any, TypeVar

from gru_mem_jax.agent import inputs
from gru_mem_jax.agent.document import share_documents
from gru_mem_jax.agent.inputs import Pair
from gru_mem_jax.agent.text import End

T = TypeVar("T")
S = TypeVar("S")


async def in_thread(function: Callable[[], T]) -> T:
    """What a blocking function returns or raises, with this task's context variables.

    If the task is cancelled, the function runs to its end and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def run() -> None:
        outcome: Callable[[], None]
        try:
            outcome = functools.partial(future.set_result, function())
        except BaseException as error:  # any error is the caller's
            outcome = functools.partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, outcome)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="agent").start()
    return await future


class Pieces:
    """An asynchronous context, for a thread to iterate over.

    A task of the event loop reads a piece when the thread asks for one. `close` ends
    that task, and the iteration of a thread that waits for it.
    """

    def __init__(self, context: AsyncIterable[str]):
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._pieces: queue.SimpleQueue[str | End] = queue.SimpleQueue()
        self._task = self._loop.create_task(self._read(context))
        self._task.add_done_callback(self._end)

    def __iter__(self) -> "Pieces":
        return self

    def __next__(self) -> str:
        self._loop.call_soon_threadsafe(self._wanted.set)
        item = self._pieces.get()
        if not isinstance(item, End):
            return item
        self._pieces.put(item)  # for the next call
        raise StopIteration if item.error is None else item.error

    def close(self) -> None:
        """Stops reading; to be called in the event loop."""
        self._task.cancel()

    async def _read(self, context: AsyncIterable[str]) -> None:
        await self._wanted.wait()
        async for piece in context:
            self._wanted.clear()
            self._pieces.put(piece)
            await self._wanted.wait()

    def _end(self, task: asyncio.Task[None]) -> None:
        cancelled = task.cancelled()
        error = asyncio.CancelledError() if cancelled else task.exception()
        self._pieces.put(End(error))


async def pairs(
    questions: Iterable[Any] | AsyncIterable[Any],
) -> AsyncIterator[tuple[int, Pair]]:
    """The numbered (question, context) pairs of either kind of iterable.

    Raises:
      InputError: as `inputs.pairs`.
    """
    if inputs.is_async(questions):
        number = 0
        async for item in questions:
            yield number, inputs.pair(item, f"questions[{number}]")
            number += 1
    else:
        at_once = isinstance(questions, list | tuple)
        found = share_documents(inputs.pairs(questions), at_once=at_once)
        for numbered in enumerate(found):
            yield numbered


async def side_by_side(
    function: Callable[[T], Awaitable[S]], items: AsyncIterator[T], most: int
) -> list[S]:
    """The results for all items in their order, at most `most` of them at once.

    Items are taken when one can be begun. The first error cancels the others and is
    raised.
    """
    results: dict[int, S] = {}
    taking = asyncio.Lock()
    taken = 0

    async def work() -> None:
        nonlocal taken
        while True:
            async with taking:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                number, taken = taken, taken + 1
            results[number] = await function(item)

    tasks = [asyncio.create_task(work()) for _ in range(most)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(taken)]
