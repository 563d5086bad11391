"""A policy that has learned an oracle's turns by heart, in the agent's own loop."""

import random

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.data.labels import labels
from gru_mem_jax.data.scoring import score
from gru_mem_jax.testing.scripted import ScriptedGenerator


def replay(oracle, encoder, agent, example):
    """The trajectory that the taught turns give; each prompt must be one of theirs."""
    turns = oracle.turns(example, random.Random(0))
    taught = {turn.prompt: turn.completion for turn in turns}
    assert len(taught) == len(turns)
    generator = ScriptedGenerator(
        lambda request: taught[prompt_ids(request.prompt)], encoder
    )
    builder = PromptBuilder(encoder, agent.prompt)
    loop = Recurrence(builder, agent, example.question, example.document, trace=True)
    for _ in driver.run(generator, [loop]):
        pass
    for turn in loop.trajectory.turns:
        assert taught[turn.prompt_ids] == turn.completion_ids
        assert turn.finish_reason == "stop"
    return loop.trajectory


def check(trajectory, example, encoder, agent):
    """What must hold of every replayed trajectory."""
    evidence, last = labels(example, encoder, agent.chunk_size)
    assert [turn.problem for turn in trajectory.turns if not turn.well_formed] == []
    assert not any(turn.memory_cut for turn in trajectory.turns)
    assert score(trajectory.answer, example.answers, example.scoring) == 1.0
    memory = trajectory.memory_turns
    if agent.mode == "with_exit_gate":
        assert trajectory.stop_reason == "exit_gate"
        assert len(memory) == last + 1
    else:
        assert len(memory) == len(evidence)
    if agent.mode != "memagent":
        gates = [(turn.update, turn.exit) for turn in memory]
        assert gates == [(e, i >= last) for i, e in enumerate(evidence)][: len(memory)]
    for turn in memory:
        assert turn.memory_tokens <= agent.memory_tokens
        assert turn.completion_tokens <= agent.completion_tokens
