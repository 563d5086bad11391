"""The methods for tasks of an event loop: the same answers, and the loop goes on."""

import asyncio
import contextlib
import gc
import threading
import time

import pytest
from callers import KINDS, Broken, Guarded, Spoken, agent_on
from loops import CONFIG

from gru_mem_jax.agent import sharing
from gru_mem_jax.agent.config import replace_settings
from gru_mem_jax.errors import InputError

DOCUMENT = "0123456789" * 3
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def alone(question="Q", context=DOCUMENT):
    return agent_on(Guarded()).answer(question, context)


def texts(trajectory):
    return [turn.text for turn in trajectory.turns]


def run(coroutine, seconds=30):
    """Runs a coroutine; a deadlock fails instead of hanging."""

    async def bounded():
        async with asyncio.timeout(seconds):
            return await coroutine

    return asyncio.run(bounded())


async def piecewise(document=DOCUMENT, size=7, each=None):
    for start in range(0, len(document), size):
        await (each() if each else asyncio.sleep(0))
        yield document[start : start + size]


@kinds
def test_answers_are_those_of_the_blocking_methods(kind):
    agent = agent_on(kind(capacity=2))
    turns = []

    async def noted(turn):
        await asyncio.sleep(0)
        turns.append(turn.text)

    async def main():
        first = await agent.answer_async("Q", DOCUMENT, noted)
        second = await agent.answer_async("Q", piecewise(), lambda turn: None)
        streamed = [turn.text async for turn in agent.stream_async("Q", piecewise())]
        return texts(first), texts(second), streamed

    assert run(main()) == (texts(alone()),) * 3
    assert turns == texts(alone())


@kinds
def test_many_tasks_beside_threads(kind):
    generator = kind(capacity=3, pause=0.0005)
    agent = agent_on(generator)

    async def main():
        calls = [agent.answer_async(f"Q{i}", piecewise()) for i in range(10)]
        calls += [agent.answer_async(f"Q{i}", DOCUMENT) for i in range(10)]
        calls += [asyncio.to_thread(agent.answer, f"Q{i}", DOCUMENT) for i in range(10)]
        return await asyncio.gather(*calls)

    got = run(main())
    assert [texts(t) for t in got] == [texts(alone(f"Q{i}")) for i in range(10)] * 3
    assert generator.misuse == []
    assert generator.submitted == 0


@kinds
def test_answer_many_async(kind):
    pairs = [(f"Q{i}", DOCUMENT[: 9 * (i % 4)]) for i in range(9)]
    agent = agent_on(kind(capacity=3))
    most = 0

    async def questions():
        nonlocal most
        begun = 0
        for question, context in pairs:
            begun += 1
            yield {"question": question, "context": piecewise(context)}
        most = begun

    async def main():
        listed = await agent.answer_many_async(pairs)
        return listed, await agent.answer_many_async(questions())

    expected = agent_on(Guarded()).answer_many(pairs)
    for got in run(main()):
        assert [t.trajectory_id for t in got] == list(range(9))
        assert [texts(t) for t in got] == [texts(t) for t in expected]
    assert most == 9
    with pytest.raises(InputError, match=r"questions\[1\] has an unknown key 'contxt'"):
        run(agent.answer_many_async([("Q", "abc"), {"contxt": "abc"}]))
    with pytest.raises(InputError, match=r"questions\[1\]: the question must be text"):
        run(agent.answer_many_async([("Q", piecewise()), (None, "abc")]))


def test_the_event_loop_goes_on_while_the_generator_works():
    asked, allowed = threading.Event(), threading.Event()

    class Waits(Guarded):
        def step(self):
            asked.set()
            assert allowed.wait(20)  # for the event loop
            return super().step()

    async def main():
        task = asyncio.create_task(agent_on(Waits()).answer_async("Q", DOCUMENT))
        while not asked.is_set():
            await asyncio.sleep(0.001)
        allowed.set()
        return texts(await task)

    assert run(main()) == texts(alone())


@kinds
def test_a_cancelled_task_gives_its_slot_back(kind):
    generator = kind(capacity=1)
    agent = agent_on(generator)
    hanging = asyncio.Event()

    async def stalled():
        yield DOCUMENT
        hanging.set()
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(agent.answer_async("Q", stalled()))
        await hanging.wait()
        beside = await agent.answer_async("Q", DOCUMENT)  # not held up by it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.answer_async("Q", stalled()), 0.1)
        return texts(beside), texts(await agent.answer_async("Q", DOCUMENT))

    assert run(main()) == (texts(alone()),) * 2
    assert generator.submitted == 0
    assert generator.misuse == []


def test_cancelled_while_its_request_is_at_work():
    class Endless(Spoken):
        def step_until(self, called):
            while any("long" in self._under_way[h] for h in self._submitted):
                if called():
                    return []
                time.sleep(0.001)
            return super().step_until(called)

    generator = Endless(capacity=2)
    agent = agent_on(generator)

    async def main():
        task = asyncio.create_task(agent.answer_async("long", "abc"))
        while not generator.submitted:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return texts(await agent.answer_async("Q", DOCUMENT))

    assert run(main()) == texts(alone())
    assert generator.submitted == 0


def test_a_stream_left_early():
    generator = Guarded(capacity=1)
    agent = agent_on(generator)
    closed = []

    async def noticing():
        try:
            for _ in range(1000):
                yield "0123456789"
        finally:
            closed.append(True)

    async def main():
        async with contextlib.aclosing(agent.stream_async("Q", noticing())) as stream:
            async for _ in stream:
                break
        read = len(generator.requests)
        answer = texts(await agent.answer_async("Q", DOCUMENT))
        return read, answer

    assert run(main()) == (1, texts(alone()))
    assert closed == [True]
    gc.collect()
    assert len(sharing._FRONTS) == 0


def test_a_context_is_read_by_one_task_and_no_further_than_needed():
    tasks, pieces = set(), 0

    async def context():
        nonlocal pieces
        async with asyncio.timeout(30):  # bound to the task that entered it
            for _ in range(1000):
                tasks.add(asyncio.current_task())
                pieces += 1
                yield "0123456789"

    async def main():
        agent = agent_on(Guarded())
        async with contextlib.aclosing(agent.stream_async("Q", context())) as stream:
            await anext(stream)
        return pieces

    assert run(main()) < 10 * 12  # a block of 1024 characters is encoded at once
    assert len(tasks) == 1


def test_errors_come_back_as_they_are():
    agent = agent_on(Guarded(capacity=2))

    class Spoilt(Exception):
        pass

    async def spoilt():
        yield DOCUMENT
        raise Spoilt

    async def ended():
        return
        yield

    def on_turn(turn):
        raise Spoilt

    async def main():
        with pytest.raises(Spoilt):
            await agent.answer_async("Q", spoilt())
        with pytest.raises(Spoilt):
            await agent.answer_async("Q", DOCUMENT, on_turn)
        with pytest.raises(Broken):
            await agent.answer_async("broken", DOCUMENT)
        with pytest.raises(InputError, match="the question must be text"):
            await agent.answer_async("", DOCUMENT)
        with pytest.raises(InputError, match="got a piece of type bytes"):
            await agent.answer_async("Q", piecewise(b"abc"))
        with pytest.raises(InputError, match="on_turn must be a function"):
            await agent.answer_async("Q", DOCUMENT, "print")
        gone = ended()
        async for _ in gone:
            pass
        with pytest.raises(InputError, match="async_generator that has ended"):
            await agent.answer_async("Q", gone)
        return texts(await agent.answer_async("Q", DOCUMENT))

    assert run(main()) == texts(alone())


def test_a_deadline_ends_the_wait_for_a_piece():
    agent = agent_on(Guarded(), replace_settings(CONFIG, deadline_seconds=0.3))

    async def stalled():
        yield DOCUMENT
        await asyncio.Event().wait()

    trajectory = run(agent.answer_async("Q", stalled()))
    assert trajectory.stop_reason == "deadline"
    assert trajectory.turns[-1].kind == "answer"
