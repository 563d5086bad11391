"""Between an event loop and the blocking code that reads and steps.

Every wait has a thread of its own: a pool would be full of those that wait for their
contexts, and whatever feeds these might need the same pool. A program that ends waits
for them, for a thread that is torn from the middle of a step takes the process down.
That is soon after their tasks were cancelled; a blocking iterator that never gives
anything keeps its thread, an asynchronous one does not.
"""

import asyncio
import contextlib
import contextvars
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
from gru_mem_jax.agent.inputs import Pair

T = TypeVar("T")
S = TypeVar("S")


async def in_thread(function: Callable[[], T]) -> T:
    """What a blocking function returns or raises, with this task's context variables.

    If the task is cancelled, the function goes on, and nobody looks at its result.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as e:  # the caller's, whatever it is
            error = e
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="agent").start()
    return await future


class Pieces:
    """An asynchronous context, for a thread to iterate over.

    It is read by one task of the event loop that this is made in, and only when a piece
    is asked for. `close` ends that task, and a thread that waits for it.
    """

    def __init__(self, context: AsyncIterable[str]):
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._pieces: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._task = self._loop.create_task(self._read(context))
        self._task.add_done_callback(self._end)

    def __iter__(self) -> "Pieces":
        return self

    def __next__(self) -> str:
        self._loop.call_soon_threadsafe(self._wanted.set)
        kind, value = self._pieces.get()
        if kind == "piece":
            return value
        self._pieces.put((kind, value))  # for who asks again
        raise StopIteration if value is None else value

    def close(self) -> None:
        """Reads no further; to be called in the event loop."""
        self._task.cancel()

    async def _read(self, context: AsyncIterable[str]) -> None:
        await self._wanted.wait()
        async for piece in context:
            self._wanted.clear()
            self._pieces.put(("piece", piece))
            await self._wanted.wait()

    def _end(self, task: asyncio.Task) -> None:
        cancelled = task.cancelled()
        error = asyncio.CancelledError() if cancelled else task.exception()
        self._pieces.put(("end", error))  # the reading thread's, whatever it is


async def pairs(
    questions: Iterable[Any] | AsyncIterable[Any],
) -> AsyncIterator[tuple[int, Pair]]:
    """The numbered (question, context) pairs of either kind of iterable.

    Raises:
      InputError: as `inputs.pairs`.
    """
    number = 0
    if not inputs.is_async(questions):
        for pair in inputs.pairs(questions):
            yield number, pair
            number += 1
        return
    async for item in questions:
        yield number, inputs.pair(item, f"questions[{number}]")
        number += 1


async def side_by_side(
    function: Callable[[T], Awaitable[S]], items: AsyncIterator[T], most: int
) -> list[S]:
    """The results for all items in their order, at most so many at once.

    Items are taken as there is room. The first error cancels the others and is raised.
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
