"""Constrained rows, against `grammar.walk` and whole forward passes in float64."""

import jax
import numpy as np
import pytest
from conftest import VOCAB, random_ids, request, run_all
from small_grammar import random_grammar, turn_grammar

from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.grammar.automaton import FORCED, Constraint, walk
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.sampling import constraints, engine_pool
from gru_mem_jax.sampling.config import EngineConfig

TURN = turn_grammar()
STOP = 9
MIXED = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_k": 7},
    {"temperature": 1.4, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 95, "top_p": 0.5},
)


def turn(prompt, budgets=(6, 5), thresholds=(None, None), grammar=TURN, **settings):
    start = next(iter(grammar.starts.values()))
    constraint = Constraint(
        grammar=grammar, start=start, budgets=budgets, thresholds=thresholds
    )
    settings = {"budget": 24, "stop_ids": (STOP,)} | settings
    return request(prompt, constraint=constraint, **settings)


def turns(number=10, **settings):
    return [
        turn(random_ids(i, 5 + 3 * i), seed=i, **(MIXED[i % len(MIXED)] | settings))
        for i in range(number)
    ]


def check(small, req, got):
    """Every token was allowed, and its numbers are those of the support in float64."""
    constraint = req.constraint
    steps = walk(constraint, got.ids)
    prompt = prompt_ids(req.prompt)
    logits = small.log_probs(prompt + got.ids)[len(prompt) - 1 :]
    for i, (step, token) in enumerate(zip(steps, got.ids, strict=True)):
        if step.support == FORCED:
            assert got.logprobs[i] == got.sampling_logprobs[i] == 0.0
            continue
        support = constraint.grammar.supports[step.support]
        row = np.where(support, logits[i], -np.inf)
        weights = np.exp(row - row.max())
        plain = weights / weights.sum()
        assert abs(got.logprobs[i] - np.log(plain[token])) < 1e-4
        threshold = constraint.thresholds[step.gate] if step.gate >= 0 else None
        if threshold is not None:
            opens = plain[token] if step.opens else 1 - plain[token]
            assert step.opens == (opens >= threshold)
            assert got.sampling_logprobs[i] == 0.0
        elif req.temperature == 0:
            assert token == row.argmax()
            assert got.sampling_logprobs[i] == 0.0
        else:
            drawn_from = filtered(row, req)
            assert abs(got.sampling_logprobs[i] - np.log(drawn_from[token])) < 2e-4
    return steps


def filtered(row, req):
    """Probabilities float64[V] after temperature, top-k and top-p, by sorting."""
    order = np.argsort(-row, kind="stable")
    weights = np.exp((row[order] - row.max()) / req.temperature)
    if req.top_k:
        weights[req.top_k :] = 0.0
    mass = np.cumsum(weights)
    weights[np.argmax(mass >= req.top_p * mass[-1]) + 1 :] = 0.0
    found = np.zeros_like(row)
    found[order] = weights / weights.sum()
    return found


def same(got, expected):
    assert [c.ids for c in got] == [c.ids for c in expected]
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=5e-5)
        np.testing.assert_allclose(a.sampling_logprobs, b.sampling_logprobs, atol=1e-4)


@pytest.mark.parametrize("slots", [1, 4])
def test_turns_are_well_formed_and_their_numbers_are_the_supports(small, slots):
    requests = turns()
    got = run_all(small.engine(slots=slots), requests)
    gates = set()
    for req, completion in zip(requests, got):
        steps = check(small, req, completion)
        assert completion.finish_reason == "stop"
        assert completion.ids[0] == 1
        assert completion.ids[-1] == STOP
        gates |= {(step.gate, step.opens) for step in steps if step.gate >= 0}
    assert len(gates) == 4  # both gates were opened and left shut


def test_a_segment_ends_by_itself_or_with_its_budget(small):
    for budgets in ((1, 1), (2, 30), (30, 3)):
        got = run_all(small.engine(), turns(6, budgets=budgets, budget=80))
        lengths = []
        for req, completion in zip(turns(6, budgets=budgets), got):
            steps = walk(req.constraint, completion.ids)
            drawn = [s.support not in (FORCED,) and s.gate < 0 for s in steps]
            end = next(i for i, step in enumerate(steps) if step.gate == 0)
            lengths.append(sum(drawn[:end]))
        assert max(lengths) <= budgets[0]
        assert budgets[0] > 2 or set(lengths) <= set(range(1, budgets[0] + 1))


@pytest.mark.parametrize("threshold", [0.0, 1.0, 0.3, 0.5, 0.9])
def test_a_threshold_decides_a_gate(small, threshold):
    requests = turns(thresholds=(threshold, None)) + turns(thresholds=(None, threshold))
    opened = []
    for req, got in zip(requests, run_all(small.engine(), requests)):
        steps = check(small, req, got)
        gate = 0 if req.constraint.thresholds[0] is not None else 1
        opened += [step.opens for step in steps if step.gate == gate]
    if threshold in (0.0, 1.0):
        assert set(opened) == {threshold == 0.0}
    assert len(opened) == len(requests)


def automaton_step():
    """A jitted step of the automaton alone, over uniform logits."""

    def one(tables, form, seeds, positions, logits):
        from gru_mem_jax.sampling.draw import draw

        rows = len(seeds)
        settings = (np.ones(rows, np.float32), np.zeros(rows, np.int32))

        def pick(logits):
            return draw(logits, seeds, positions, *settings, settings[0])

        active = np.ones(rows, bool)
        return constraints.constrained_draw(tables, form, active, logits, pick)

    return jax.jit(one)


def test_random_automata_go_where_walk_goes(small):
    """1600 tokens of 40 grammars, eight at a time, budgets of 1 to 6."""
    from gru_mem_jax.sampling.forms import Forms

    step, vocab, rows = automaton_step(), VOCAB, 8
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(5):
        forms = Forms(small.engine()._programs, rows)
        asked = []
        for slot in range(rows):
            grammar = random_grammar(rng, vocab, 12)
            asked.append(
                Constraint(
                    grammar=grammar,
                    start=grammar.starts["any"],
                    budgets=tuple(rng.integers(1, 7, 2).tolist()),
                    thresholds=(None, 0.4) if slot % 2 else (0.6, None),
                )
            )
            forms.give(slot, asked[-1])
        _, (first, tables) = forms.arguments()
        form = constraints.form(first)
        ids = []
        for place in range(40):
            seeds = (
                np.full((rows, 2), 7, np.uint32) + np.arange(rows, dtype="u4")[:, None]
            )
            logits = rng.normal(size=(rows, vocab)).astype(np.float32)
            drawn, form = step(tables, form, seeds, np.full(rows, place), logits)
            ids.append(np.asarray(drawn.tokens))
        ids = np.stack(ids, 1)
        for slot, constraint in enumerate(asked):
            steps = walk(constraint, ids[slot].tolist())
            state, left = where(constraint, ids[slot])
            assert (int(form.states[slot]), form.left[slot].tolist()) == (state, left)
            seen |= {(s.support == FORCED, s.gate, s.opens) for s in steps}
            seen |= {("spent", n) for n in left if n <= 0}
    assert {(True, -1, False), (False, 0, True), (False, 1, False)} <= seen
    assert ("spent", 0) in seen
    assert step._cache_size() <= 3


def where(constraint, ids):
    """State and budgets after some ids, in plain Python; `walk` has checked these."""
    g, state, left = constraint.grammar, constraint.start, list(constraint.budgets)
    for token in ids.tolist():
        after = int(g.next_state[state, g.classes[token]])
        segment = int(g.segment[state])
        if g.forced[state] < 0 <= segment:
            left[segment] -= 1
            if left[segment] == 0 and g.segment[after] == segment:
                after = int(g.exhausted[after])
        state = after
    return state, left


def test_free_rows_are_not_changed_by_a_bit(small):
    free = [request(random_ids(20 + i, 30), seed=i, **MIXED[i]) for i in range(5)]
    last = {"budget": 12, "stop_ids": (), "seed": 8}  # as long in either form
    got = [
        run_all(small.engine(slots=8), [*free, other(random_ids(1, 30), **last)])
        for other in (request, turn)
    ]
    for a, b in zip(*(completions[:5] for completions in got)):
        assert a.ids == b.ids
        assert a.logprobs == b.logprobs
        assert a.sampling_logprobs == b.sampling_logprobs


def test_company_slots_and_the_cut_into_blocks_change_nothing(small):
    requests = turns(6)
    expected = [run_all(small.engine(), [r])[0] for r in requests]
    others = [request(random_ids(60 + i, 20), seed=i, budget=30) for i in range(6)]
    mixed = [r for pair in zip(requests, others) for r in pair]
    same(run_all(small.engine(decode_block=3), mixed)[::2], expected)
    same(run_all(small.engine(), requests[::-1])[::-1], expected)


def test_trunks_a_pool_of_engines_and_a_tensor_group(small):
    requests = turns(8)
    expected = run_all(small.engine(), requests)
    sizes = {"max_length": 64, "prefill_tokens": 64, "prefill_blocks": (64,)}
    trunks = small.engine(trunks=2, trunk_length=32, tail_length=48, **sizes)
    same(run_all(trunks, requests), expected)
    config = EngineConfig(slots=2, tensor=2, **sizes)
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    pool = engine_pool.make(small.policy, small.params, config, mesh=mesh)
    assert len(pool.engines) == 2
    assert pool.warm_up(grammars=[TURN]) == len(pool.stats()["program_names"])
    same(run_all(pool, requests), expected)
    names = [n for n in pool.stats()["program_names"] if "decode" in n]
    assert names == ["decode 64 1 16 16 4"]


def test_nothing_is_compiled_after_a_warm_up_with_grammars(small):
    sizes = {"max_length": 60, "prefill_tokens": 64, "prefill_blocks": (60,)}
    engine = small.engine(slots=3, **sizes)
    count = engine.warm_up(grammars=[TURN])
    assert all(
        len(n.split()) == 6 for n in engine.stats()["program_names"] if "decode" in n
    )
    run_all(engine, turns(9))
    assert engine.stats()["programs"] == count
    engine.reset()
    assert engine.warm_up() > count  # free rows have programs of their own
