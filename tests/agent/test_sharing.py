"""Several callers on one generator: each has what it would have alone."""

import gc
import random
import threading
import time

import pytest
from callers import KINDS, Broken, Guarded, Spoken, agent_on, join, policy, together
from loops import CONFIG

from gru_mem_jax.agent import driver, sharing
from gru_mem_jax.agent.config import replace_settings
from gru_mem_jax.errors import InputError, RunError

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def document(i):
    return f"{i:02d}" + "".join(
        f"{(7 * i + j) % 90 + 10}345678 x" for j in range(i % 4)
    )


class Spoilt(Exception):
    pass


def spoilt(i):
    yield document(i)[:5] + "y" * 30
    raise Spoilt(i)


def turns_of(trajectory):
    """All of a trajectory but times."""
    return [
        (t.kind, t.text, t.memory, t.prompt_tokens, t.chunk_span)
        for t in trajectory.turns
    ]


def whole(agent, i):
    return turns_of(agent.answer(f"Q{i}", document(i)))


def many(agent, i):
    pairs = [(f"Q{i + j}", document(i + j)) for j in range(5)]
    return [turns_of(t) for t in agent.answer_many(pairs)]


def streamed(agent, i):
    return [
        t.text for t in agent.stream(f"Q{i}", iter([document(i)[:3], document(i)[3:]]))
    ]


def left_early(agent, i):
    turns = []
    stream = agent.stream(f"Q{i}", document(i) + "z" * 60)
    turns.append(next(stream).text)
    stream.close()
    return turns


def dropped_in_a_cycle(agent, i):
    """A stream that the garbage collector closes, whenever and wherever it runs."""
    stream = agent.stream(f"Q{i}", document(i) + "z" * 60)
    turns = [next(stream).text]
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    return turns


def driver_left_early(agent, i):
    """Left with requests under way, not between turns."""
    recurrences = (
        agent.recurrence(f"Q{i}", document(3) + "z" * 60, trajectory_id=j)
        for j in range(4)
    )
    run = driver.run(agent.generator, recurrences)
    turns = [next(run)[1].text]
    run.close()
    return turns


def spoilt_context(agent, i):
    try:
        agent.answer(f"Q{i}", spoilt(i))
    except Spoilt as error:
        return error.args


def spoilt_callback(agent, i):
    def on_turn(turn):
        raise Spoilt(turn.text)

    try:
        agent.answer(f"Q{i}", document(i) + "z" * 30, on_turn)
    except Spoilt as error:
        return error.args


def nested(agent, i):
    answers = []
    agent.answer(
        f"Q{i}",
        document(i),
        lambda _: answers.append(agent.answer("Q?", "abcd").answer),
    )
    return answers


def nested_in_context(agent, i):
    def pieces():
        yield document(i)
        yield agent.answer("Q?", document(i + 1)).answer

    return agent.answer(f"Q{i}", pieces()).answer


def broken(agent, i):
    try:
        agent.answer(f"broken {i}", document(i) + "w" * 20)
    except Broken as error:
        return type(error)


def broken_many(agent, i):
    try:
        agent.answer_many([(f"Q{i}", document(3)), ("broken", document(3))] * 2)
    except Broken as error:
        return type(error)


def refused(agent, i):
    try:
        agent.answer("", document(i))
    except InputError as error:
        return str(error)


def limited(agent, i):
    """A caller with limits of its own: two agents share the generator."""
    other = agent_on(agent.generator, replace_settings(CONFIG, max_chunks=1))
    trajectory = other.answer(f"Q{i}", document(3))
    return turns_of(trajectory), trajectory.stop_reason


ACTIONS = [
    whole,
    many,
    streamed,
    left_early,
    dropped_in_a_cycle,
    driver_left_early,
    spoilt_context,
    spoilt_callback,
    nested,
    nested_in_context,
    broken,
    broken_many,
    refused,
    limited,
]


@pytest.mark.parametrize("seed", range(10))
@kinds
def test_every_caller_has_what_it_would_have_alone(kind, seed):
    luck = random.Random(seed)
    plans = [
        [(luck.choice(ACTIONS), luck.randrange(20)) for _ in range(6)] for _ in range(8)
    ]
    alone = [[act(agent_on(Guarded()), i) for act, i in plan] for plan in plans]
    generator = kind(
        capacity=luck.choice([1, 2, 4]),
        shuffle_seed=luck.choice([None, seed]),
        pause=luck.choice([0.0, 0.0005]),
    )
    agent = agent_on(generator)
    got = together(
        *(lambda plan=plan: [act(agent, i) for act, i in plan] for plan in plans)
    )
    assert got == alone
    assert generator.misuse == []
    gc.collect()
    assert whole(agent, 7) == whole(agent_on(Guarded()), 7)  # afterwards, alone
    assert generator.submitted == 0
    assert len(sharing._FRONTS) == 0


@kinds
def test_a_stalled_context_holds_up_nobody_else(kind):
    agent = agent_on(kind(capacity=1))
    stalled, go_on = threading.Event(), threading.Event()

    def pieces():
        yield "0123456789" * 2
        stalled.set()
        assert go_on.wait(30)
        yield "tail"

    results = []
    waiting = threading.Thread(
        target=lambda: results.append(agent.answer("Q", pieces()).answer), daemon=True
    )
    waiting.start()
    assert stalled.wait(30)
    assert together(lambda: whole(agent, 3)) == [whole(agent_on(Guarded()), 3)]
    go_on.set()
    join([waiting])
    assert results == [
        agent_on(Guarded()).answer("Q", "0123456789" * 2 + "tail").answer
    ]


@kinds
def test_an_abandoned_stream_holds_no_slot(kind):
    generator = kind(capacity=1)
    agent = agent_on(generator)
    streams = [agent.stream(f"Q{i}", document(3)) for i in range(3)]  # never iterated
    kept = agent.stream("Q", document(3))
    next(kept)
    assert whole(agent, 2) == whole(agent_on(Guarded()), 2)
    alone = agent_on(Guarded()).answer("Q", document(3)).turns
    assert [t.text for t in kept] == [t.text for t in alone[1:]]
    del streams


def test_callers_share_the_slots():
    # Two callers of a generator whose step costs the same however full it is.
    class Slow(Guarded):
        def step(self):
            time.sleep(0.02)
            ended = []
            while self._submitted:
                ended += super().step()
            self.steps = getattr(self, "steps", 0) + 1
            return ended

    generator = Slow(capacity=4)
    agent = agent_on(generator)
    barrier = threading.Barrier(4)

    def call(i):
        barrier.wait(30)
        return agent.answer(f"Q{i}", "0123456789" * 8).answer

    together(*(lambda i=i: call(i) for i in range(4)))
    assert len(generator.requests) == 4 * 9
    assert generator.steps < 2 * 9  # one after the other: 36
    assert generator.misuse == []


def test_a_caller_that_begins_or_leaves_is_heard_within_a_step():
    # One request is at work for as long as nobody calls: as a long completion is.
    class Endless(Spoken):
        def step_until(self, called):
            if any("long" in self._under_way[h] for h in self._submitted):
                until = time.monotonic() + 30
                while not called() and time.monotonic() < until:
                    time.sleep(0.001)
                    others = [
                        h for h in self._submitted if "long" not in self._under_way[h]
                    ]
                    if others:
                        return [(h, self._submitted.pop(h)) for h in others]
                assert called()
                return []
            return super().step_until(called)

    generator = Endless(capacity=2)
    agent = agent_on(generator)
    caller = sharing.join(generator)
    run = driver.run(caller, [agent.recurrence("long", "abc")])
    outcome = []

    def endlessly():
        try:
            list(run)
        except sharing.LeftError:
            outcome.append("left")

    thread = threading.Thread(target=endlessly, daemon=True)
    thread.start()
    while not generator.submitted:
        time.sleep(0.001)
    start = time.monotonic()
    assert whole(agent, 3) == whole(agent_on(Guarded()), 3)
    caller.cancel()  # from this thread
    join([thread])
    assert outcome == ["left"]
    assert generator.submitted == 0
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@kinds
def test_an_interrupted_step_costs_only_who_was_interrupted(kind, error):
    class Interrupted(kind):
        hits = 0

        def step(self):
            name = threading.current_thread().name
            if name == "interrupted" and self.submitted > 1 and not self.hits:
                self.hits += 1
                raise error
            return super().step()

    generator = Interrupted(capacity=4, pause=0.001)
    agent = agent_on(generator)
    raised = []

    def until_hit():
        try:
            while not generator.hits:
                agent.answer("Q", document(3))
        except BaseException as e:
            raised.append(type(e))

    def others(i):
        answers = []
        while not generator.hits or len(answers) < 3:
            answers.append(whole(agent, i))
        return answers

    thread = threading.Thread(target=until_hit, name="interrupted", daemon=True)
    thread.start()
    got = together(*(lambda i=i: others(i) for i in range(3)))
    join([thread])
    for i, answers in enumerate(got):
        assert answers == [whole(agent_on(Guarded()), i)] * len(answers)
    # A failure of the generator is nobody's: what was under way is run again, once.
    assert raised == ([] if error is MemoryError else [error])
    assert generator.misuse == []
    assert whole(agent, 5) == whole(agent_on(Guarded()), 5)


def test_a_lone_caller_has_the_error_at_once():
    generator = Guarded(capacity=3)
    agent = agent_on(generator)
    with pytest.raises(Broken):
        agent.answer_many([("Q", "abc"), ("broken", "abc")])
    assert len(generator.requests) == 2  # nothing is tried twice
    assert whole(agent, 3) == whole(agent_on(Guarded()), 3)


def test_a_refused_request_is_its_own_callers():
    class Choosy(Guarded):
        def submit(self, request):
            if "xx" in policy(request):
                raise InputError("no xx")
            return super().submit(request)

    agent = agent_on(Choosy(capacity=2, pause=0.001))

    def call(i):
        try:
            return agent.answer(f"Q{i}", ("xx" if i % 2 else "yy") * 20).answer
        except InputError as error:
            return str(error)

    got = together(*(lambda i=i: [call(i) for _ in range(5)] for i in range(6)))
    for i, answers in enumerate(got):
        assert len(set(answers)) == 1
        assert (answers[0] == "no xx") == bool(i % 2)


def test_a_generator_that_calls_the_agent_is_refused():
    class Caller(Guarded):
        def step(self):
            agent.answer("inner", "abc")

    agent = agent_on(Caller())
    with pytest.raises(RunError, match="from within its own generator"):
        agent.answer("outer", "abc")


def test_what_comes_back_from_an_earlier_caller_is_nobodys():
    # A server's client that cannot take anything back.
    class Stubborn(Guarded):
        def cancel(self):
            pass

    generator = Stubborn(capacity=4)
    agent = agent_on(generator)
    driver_left_early(agent, 3)
    assert generator.submitted
    assert whole(agent, 2) == whole(agent_on(Guarded()), 2)


def test_a_generator_needs_no_hash_and_no_weak_references():
    class Plain(Guarded):
        __hash__ = None

        def __eq__(self, other):
            raise AssertionError("compared")

    assert whole(agent_on(Plain()), 2) == whole(agent_on(Guarded()), 2)
