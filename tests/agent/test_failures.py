"""A request that the generator gives up ends its own run, and no other."""

import asyncio
import json

import pytest
from loops import BYTES, CONFIG, recurrence, reply

from gru_mem_jax.agent import GRUMemAgent, UnansweredError, driver
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.agent.trajectory import trajectory_from_dict, trajectory_to_dict
from gru_mem_jax.errors import RunError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

REASON = "the server answered 500 six times"
GONE = Completion.failed(REASON, seconds=1.5)
ANSWER = r"\boxed{42}"
SCRIPT = [reply(update="m1"), reply(update="m2"), reply(update="m3"), ANSWER]


def policy(request):
    """Gives up the second chunk of a question with "bad" in it."""
    said = said_in(request, BYTES)
    if "bad" in said["question"] and said.get("chunk") == "b" * 10:
        return GONE
    return reply(update="seen") if "chunk" in said else ANSWER


def agent(**kwargs):
    return GRUMemAgent(ScriptedGenerator(policy, BYTES, **kwargs), BYTES, CONFIG)


@pytest.mark.parametrize("turn", range(4))
def test_a_run_that_failed_can_be_resumed(turn):
    whole, failed = recurrence(), recurrence()
    list(driver.run(ScriptedGenerator(SCRIPT, BYTES), [whole]))
    generator = ScriptedGenerator([*SCRIPT[:turn], GONE], BYTES)
    given = [turn for _, turn in driver.run(generator, [failed])]
    trajectory = failed.trajectory
    assert given == [*whole.trajectory.turns[:turn], None]
    assert trajectory.turns == whole.trajectory.turns[:turn]
    assert trajectory.failure == REASON
    assert (trajectory.stop_reason, trajectory.interrupted) == ("failed", True)
    assert trajectory.answer is None
    assert failed.done
    assert failed.next_request() is None

    record = json.loads(json.dumps(trajectory_to_dict(trajectory)))
    assert trajectory_from_dict(record) == trajectory
    resumed = recurrence(kwargs={"resume": trajectory_from_dict(record)})
    list(driver.run(ScriptedGenerator(SCRIPT[turn:], BYTES), [resumed]))
    assert resumed.trajectory.turns == whole.trajectory.turns
    assert resumed.trajectory.failure is None
    assert resumed.trajectory.stop_reason == "end_of_context"


def test_earlier_runs_load():
    record = trajectory_to_dict(recurrence().trajectory)
    del record["failure"]
    assert trajectory_from_dict(record).failure is None


@pytest.mark.parametrize("capacity", [1, 3])
def test_the_others_go_on(capacity):
    text = "a" * 10 + "b" * 10
    questions = [("one", text), ("bad", text), ("two", text), ("bad 2", "a"), ("3", "")]
    done = agent(capacity=capacity, shuffle_seed=0).answer_many(questions)
    assert [t.answer for t in done] == ["42", None, "42", "42", "42"]
    assert [t.failure for t in done] == [None, REASON, None, None, None]
    assert [t.num_chunks for t in done] == [2, 1, 2, 1, 0]
    again = asyncio.run(agent(capacity=capacity).answer_many_async(questions))
    assert [t.turns for t in again] == [t.turns for t in done]
    assert [t.failure for t in again] == [t.failure for t in done]


def test_one_question_raises_and_its_turns_are_not_lost():
    text, turns = "a" * 10 + "b" * 10, []
    with pytest.raises(UnansweredError, match=f"^no answer to 'bad': {REASON}$") as own:
        agent().answer("bad", text, turns.append)
    assert isinstance(own.value, RunError)
    assert own.value.trajectory.turns == tuple(turns)
    assert len(turns) == 1

    stream = agent().stream("bad", text)
    assert next(stream) == turns[0]
    with pytest.raises(UnansweredError, match=REASON):
        next(stream)

    async def streamed(got):
        async for turn in agent().stream_async("bad", text):
            got.append(turn)

    got = []
    with pytest.raises(UnansweredError, match=REASON):
        asyncio.run(streamed(got))
    assert got == turns
    with pytest.raises(UnansweredError, match=REASON):
        asyncio.run(agent().answer_async("bad", text))
