"""The public class: answers, streams, many at once."""

import pytest
from loops import BYTES, CONFIG, reply

from gru_mem_jax.agent import AgentConfig, GRUMemAgent, Turn
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in


def policy(request):
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{said['question'].strip()} {said['memory'].strip()}}}"
    return reply(
        update=said["chunk"][:3], exit_="end" if "!" in said["chunk"] else "continue"
    )


def agent(**kwargs):
    return GRUMemAgent(ScriptedGenerator(policy, BYTES, **kwargs), BYTES, CONFIG)


def test_answer_and_callback():
    turns = []
    trajectory = agent().answer("Who?", "abc 123456def 12345!ghi", turns.append)
    assert trajectory.answer == "Who? def"
    assert trajectory.stop_reason == "exit_gate"
    assert tuple(turns) == trajectory.turns


def test_stream_yields_turns_as_they_end():
    the_agent = agent()
    stream = the_agent.stream("Who?", ("abc 123456" for _ in range(1000)))
    first = next(stream)
    assert isinstance(first, Turn)
    assert (first.chunk, first.memory) == (0, "abc")
    assert len(the_agent.generator.requests) == 1  # the second is not asked for yet
    stream.close()


@pytest.mark.parametrize("capacity", [1, 4])
def test_answer_many_keeps_the_order(capacity):
    pairs = [(f"Q{i}", f"{i:03d}" + "x" * 7 * i) for i in range(9)]
    many = agent(capacity=capacity, shuffle_seed=1).answer_many(pairs)
    assert [t.question for t in many] == [q for q, _ in pairs]
    assert [t.trajectory_id for t in many] == list(range(9))
    assert many[0].turns == agent().answer(*pairs[0]).turns
    assert agent().answer_many([]) == []


def test_defaults_are_the_papers():
    the_agent = GRUMemAgent(ScriptedGenerator(policy, BYTES), BYTES)
    assert the_agent.config == AgentConfig()


def test_bad_input_is_refused_before_anything_runs():
    the_agent = agent()
    with pytest.raises(InputError, match="question"):
        the_agent.answer("", "text")
    assert the_agent.generator.requests == []
