"""An engine that is spoken to within a step, interrupted, and shared by threads."""

import sys

import pytest
from conftest import random_ids, request, run_all

from gru_mem_jax.sampling.engine import Engine

PROMPTS = [random_ids(i, 20 + 7 * i) for i in range(6)]


def requests(**settings):
    settings = {"budget": 90, "temperature": 0} | settings
    return [request(prompt, seed=i, **settings) for i, prompt in enumerate(PROMPTS)]


def test_stopping_between_the_parts_of_a_step_changes_no_bit(small):
    whole = run_all(small.engine(), requests(temperature=1.0))
    engine = small.engine()
    handles = [engine.submit(r) for r in requests(temperature=1.0)]
    done, calls = {}, 0
    while len(done) < len(handles):
        done.update(engine.step_until(lambda: True))
        calls += 1
    assert calls == 6  # blocks of 32 for 90 tokens of 4 requests, then of 2
    for handle, expected in zip(handles, whole, strict=True):
        assert done[handle].ids == expected.ids
        assert done[handle].logprobs == expected.logprobs
    assert engine.step_until(lambda: True) == []


def test_discarding_some_leaves_the_others(small):
    whole = [c.ids for c in run_all(small.engine(), requests())]
    engine = small.engine()
    handles = [engine.submit(r) for r in requests()]
    assert engine.step_until(lambda: True) == []  # the first four are running
    engine.discard([handles[0], handles[4], 12345])
    done = {}
    while ended := engine.step():
        done.update(ended)
    assert {handles.index(h): c.ids for h, c in done.items()} == {
        i: whole[i] for i in (1, 2, 3, 5)
    }
    assert engine.stats()["requests"] == 4


@pytest.mark.parametrize("where", ["decode", "prefill", "copy"])
def test_an_interrupted_program_does_not_spoil_the_engine(small, monkeypatch, where):
    # Ctrl-C comes after a program took the cache, and before its result is kept.
    engine = small.engine()
    shared = random_ids(9, 40)
    asked = [request(shared, [i], budget=5, temperature=0) for i in range(4)]
    expected = [c.ids for c in run_all(small.engine(), asked)]
    programs = getattr(type(engine._programs), where)
    interrupted = []

    def interrupting(self, *sizes):
        program = programs(self, *sizes)

        def run(*arguments):
            program(*arguments)
            interrupted.append(True)
            raise KeyboardInterrupt

        return run

    with monkeypatch.context() as patch:
        patch.setattr(type(engine._programs), where, interrupting)
        for r in asked:
            engine.submit(r)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert interrupted
    assert engine.step() == []  # nothing is left of it
    assert [c.ids for c in run_all(engine, asked)] == expected


def test_an_interrupted_engine_takes_new_weights(small, monkeypatch):
    engine = small.engine()
    engine.submit(requests()[0])
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_decode", lambda self: sys.exit(1))
        with pytest.raises(SystemExit):
            engine.step()
    engine.set_params(small.params)  # raises while requests run
