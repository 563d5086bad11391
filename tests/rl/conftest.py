"""Trajectories written out by hand."""

import pytest

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.data.example import Example


def memory_turn(chunk, update, *, exits=False, well_formed=True, tokens=7, **fields):
    """A memory turn whose completion has ids 1, 2, ... and logprobs -0.1, -0.2, ..."""
    return Turn(
        kind="memory",
        chunk=chunk,
        chunk_span=(10 * chunk, 10 * chunk + 10),
        update=update,
        exit=exits,
        well_formed=well_formed,
        memory="m",
        **_traced(tokens, 5 + chunk) | {"memory_tokens": chunk} | fields,
    )


def answer_turn(*, well_formed=True, tokens=3, **fields):
    return Turn(
        kind="answer",
        well_formed=well_formed,
        memory="m",
        **_traced(tokens, 4) | {"memory_tokens": 1} | fields,
    )


def _traced(tokens, prompt):
    logprobs = tuple(-i / 10 for i in range(1, tokens + 1))
    return {
        "text": "",
        "finish_reason": "stop",
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "seconds": 0.0,
        "prompt_ids": tuple(range(20, 20 + prompt)),
        "completion_ids": tuple(range(1, tokens + 1)),
        "logprobs": logprobs,
        "sampling_logprobs": logprobs,
    }


def trajectory(turns, *, answer="x", mode="with_exit_gate", stop="exit_gate", end=None):
    return Trajectory(
        mode=mode,
        question="?",
        answer=answer,
        turns=(*turns, end or answer_turn()),
        stop_reason=stop,
    )


def example(**fields):
    defaults = {"id": "7", "question": "?", "answers": ("x",), "document": "." * 40}
    return Example(**defaults | fields)


class Make:
    memory_turn = staticmethod(memory_turn)
    answer_turn = staticmethod(answer_turn)
    trajectory = staticmethod(trajectory)
    example = staticmethod(example)


@pytest.fixture(scope="session")
def make():
    """Makers of hand-written records: memory_turn, answer_turn, trajectory, example."""
    return Make
