"""Figures of trajectories written out by hand."""

import pytest

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.data.example import Example
from gru_mem_jax.evaluation import outcomes


def memory_turn(chunk, update, exits, tokens=0, well_formed=True):
    return Turn(
        kind="memory",
        chunk=chunk,
        chunk_span=(10 * chunk, 10 * chunk + 10),
        update=update,
        exit=exits,
        well_formed=well_formed,
        memory="m",
        memory_tokens=tokens,
        text="",
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=7,
        seconds=0.0,
    )


def answer_turn():
    return Turn(
        kind="answer",
        well_formed=True,
        memory="m",
        memory_tokens=1,
        text="",
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=3,
        seconds=0.0,
    )


EXAMPLE = Example(
    id="1",
    question="?",
    answers=("x",),
    document="." * 40,
    evidence=((12, 15),),
    task="single_key",
)


def run(turns, mode="with_exit_gate", answer="x", evidence=(0, 1, 0, 0)):
    labels = tuple(map(bool, evidence))
    last = max((i for i, e in enumerate(labels) if e), default=None)
    trajectory = Trajectory(
        mode=mode, question="?", answer=answer, turns=(*turns, answer_turn())
    )
    return outcomes.outcome(EXAMPLE, trajectory, labels, last)


def test_right_gates_and_an_exact_exit():
    figures = outcomes.summarize(
        [run([memory_turn(0, False, False), memory_turn(1, True, True)])]
    )
    assert figures == {
        "exact": 1.0,
        "update_on_evidence": 1.0,
        "update_off_evidence": 1.0,
        "exact_exit": 1.0,
        "early_exit": 0.0,
        "late_exit": 0.0,
        "chunks_read": 0.5,
        "well_formed": 1.0,
        "completion_tokens": 17.0,
    }


def test_early_and_late_exits_and_wrong_gates():
    early = run([memory_turn(0, True, True)], answer=None)
    late = run([memory_turn(i, False, i == 3) for i in range(4)])
    figures = outcomes.summarize([early, late])
    assert figures["exact"] == 0.5
    # Chunk 1 was read by the late one alone, which did not update.
    assert figures["update_on_evidence"] == 0.0
    # Off evidence: chunk 0 wrong in one, right in the other; chunks 2 and 3 right.
    assert figures["update_off_evidence"] == pytest.approx(3 / 4)
    assert (figures["early_exit"], figures["late_exit"]) == (0.5, 0.5)
    assert figures["chunks_read"] == pytest.approx((1 / 4 + 4 / 4) / 2)


def test_reading_to_the_end_is_exact_where_the_end_is_evidence():
    turns = [memory_turn(i, i == 3, False) for i in range(4)]
    assert outcomes.summarize([run(turns, evidence=(0, 0, 0, 1))])["exact_exit"] == 1.0


def test_memagent_counts_as_a_gate_that_is_always_open():
    turns = [memory_turn(i, None, None) for i in range(4)]
    figures = outcomes.summarize([run(turns, mode="memagent")])
    assert figures["update_on_evidence"] == 1.0
    assert figures["update_off_evidence"] == 0.0


def test_a_malformed_turn_counts_as_closed():
    turns = [memory_turn(0, None, None, well_formed=False), memory_turn(1, True, True)]
    figures = outcomes.summarize([run(turns)])
    assert figures["update_off_evidence"] == 1.0
    assert figures["well_formed"] == 0.0


def test_what_is_not_counted_is_none():
    nothing = outcomes.summarize([])
    assert set(nothing.values()) == {None}
    no_evidence = outcomes.summarize(
        [run([memory_turn(0, False, False)], evidence=(0,))]
    )
    assert no_evidence["update_on_evidence"] is None
    assert no_evidence["exact_exit"] is None
    no_chunks = outcomes.summarize([run([], evidence=())])
    assert no_chunks["chunks_read"] is None
