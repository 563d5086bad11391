"""Fault R16, the loop's part: a run cut anywhere and resumed equals the whole run."""

import dataclasses
import itertools
import json

import pytest
from loops import BUILDER, BYTES, CONFIG, recurrence, run

from gru_mem_jax.agent.config import replace_settings
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.trajectory import trajectory_from_dict, trajectory_to_dict
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

CONTEXT = "".join(f"{i:04d} word " for i in range(20))  # 200 characters, 20 chunks


def policy(request):
    """Says what depends on everything a request has: prompt and seed."""
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{request.seed} {said['memory']}}}"
    if request.seed % 5 == 0:
        return "malformed"
    memory = f"{said['memory'][-6:]}{said['chunk'][:4]}{request.seed % 100}"
    exit_ = "end" if "0015" in said["chunk"] else "continue"
    check = "yes" if request.seed % 3 else "no"
    return (
        f"<think></think><check>{check}</check>"
        f"<update>{memory}</update><next>{exit_}</next>"
    )


def as_saved(trajectory):
    return trajectory_from_dict(json.loads(json.dumps(trajectory_to_dict(trajectory))))


def comparable(trajectory):
    return dataclasses.replace(trajectory, seconds=0.0)


@pytest.mark.parametrize("mode", ["with_exit_gate", "without_exit_gate", "memagent"])
@pytest.mark.parametrize("stream", [False, True])
def test_cut_after_any_turn(mode, stream):
    def begin(resume=None, **kwargs):
        context = iter([CONTEXT[:33], CONTEXT[33:]]) if stream else CONTEXT
        kwargs = {"trajectory_id": 3, "trace": True, "resume": resume, **kwargs}
        return recurrence(context, mode=mode, seed=5, kwargs=kwargs)

    whole, _ = run(policy, begin())
    assert whole.num_chunks == (16 if mode == "with_exit_gate" else 20)
    for turns in range(len(whole.turns) + 1):
        rec = begin()
        generator = ScriptedGenerator(policy, BYTES)
        for _ in range(turns):
            generator.submit(rec.next_request())
            rec.receive(generator.step()[0][1])
        rec.next_request()  # one is under way when it is cut
        rec.stop("interrupted")
        saved = as_saved(rec.trajectory)
        assert saved.interrupted is (turns < len(whole.turns))
        resumed, generator = run(policy, begin(saved))
        assert comparable(resumed) == comparable(whole)
        assert len(generator.requests) == len(whole.turns) - turns
        assert resumed.seconds >= saved.seconds


def interrupted_after(turns, **settings):
    rec = recurrence(CONTEXT, **settings)
    generator = ScriptedGenerator(policy, BYTES)
    for _ in range(turns):
        generator.submit(rec.next_request())
        rec.receive(generator.step()[0][1])
    rec.stop("interrupted")
    return as_saved(rec.trajectory)


def test_limits_may_change():
    saved = interrupted_after(4, max_chunks=10)
    rec = recurrence(CONTEXT, max_chunks=6, kwargs={"resume": saved})
    trajectory, _ = run(policy, rec)
    assert (trajectory.num_chunks, trajectory.stop_reason) == (6, "max_chunks")


@pytest.mark.parametrize(
    ("settings", "question", "message"),
    [
        ({"chunk_size": 11}, "Who?", r"settings\.chunk_size is 11, expected 10 as in"),
        (
            {"mode": "memagent"},
            "Who?",
            r"settings\.mode is memagent, expected with_exit_gate",
        ),
        (
            {"order": "chunk_first"},
            "Who?",
            r"settings\.prompt\.order is chunk_first, expected memory_first",
        ),
        ({"seed": 1}, "Who?", r"settings\.sampling\.seed is 1, expected 0"),
        ({}, "When?", r"question is When\?, expected Who\?"),
    ],
)
def test_another_run_is_refused_by_name(settings, question, message):
    saved = interrupted_after(2)
    config = replace_settings(CONFIG, **settings)
    builder = PromptBuilder(BYTES, config.prompt)
    with pytest.raises(InputError, match=f"cannot resume: {message}"):
        Recurrence(builder, config, question, CONTEXT, resume=saved)


def test_another_trajectory_id_is_refused():
    with pytest.raises(InputError, match="trajectory_id is 1, expected 0"):
        Recurrence(
            BUILDER, CONFIG, "Who?", CONTEXT,
            trajectory_id=1, resume=interrupted_after(2),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("context", "chunk"),
    [
        (CONTEXT.replace("0003", "0033"), 3),
        ("x" + CONTEXT, 0),
        (CONTEXT[:45], 4),  # shorter than what was read
    ],
)
def test_another_context_is_refused_at_the_first_chunk_that_differs(context, chunk):
    rec = recurrence(context, kwargs={"resume": interrupted_after(6)})
    with pytest.raises(InputError, match=f"chunk {chunk} of the context is not"):
        rec.next_request()


def test_what_comes_after_the_read_part_may_differ():
    longer = CONTEXT + "more and more "
    rec = recurrence(longer, kwargs={"resume": interrupted_after(6)})
    assert run(policy, rec)[0].answer is not None


def test_turns_out_of_order_are_refused():
    saved = interrupted_after(3)
    for turns in itertools.permutations(saved.turns):
        if turns != saved.turns:
            broken = dataclasses.replace(saved, turns=turns)
            with pytest.raises(InputError, match="not in order"):
                recurrence(CONTEXT, kwargs={"resume": broken})


def test_a_memory_over_its_budget_is_cut():
    saved = interrupted_after(1)
    turn = dataclasses.replace(saved.turns[0], memory="m" * 1000)
    broken = dataclasses.replace(saved, turns=(turn,))
    rec = recurrence(CONTEXT, kwargs={"resume": broken})
    memory = said_in(rec.next_request(), BYTES)["memory"]
    assert memory == " " + "m" * 15  # memory_tokens is 16


def test_an_answered_run_is_not_run_again():
    whole, _ = run(policy, recurrence(CONTEXT))
    rec = recurrence(CONTEXT, kwargs={"resume": as_saved(whole)})
    assert rec.done
    assert rec.next_request() is None
    assert comparable(rec.trajectory) == comparable(whole)
