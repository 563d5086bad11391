"""Constrained rows, against `grammar.walk` and whole forward passes in float64."""

import jax
import numpy as np
import pytest
from conftest import VOCAB, random_ids, request, run_all
from small_grammar import Builder, random_grammar, turn_grammar

from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.grammar.automaton import FORCED, Constraint, walk
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.sampling import constraints, engine_pool, forms
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.draw import draw
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.sampling.forms import Forms

TURN = turn_grammar()
STOP = 9
# One prompt block and one size of the cache: few programs are compiled.
SIZES = {"max_length": 64, "prefill_tokens": 64, "prefill_blocks": (64,)}
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
    got = run_all(small.engine(slots=slots, **SIZES), requests)
    gates = set()
    for req, completion in zip(requests, got):
        steps = check(small, req, completion)
        assert completion.finish_reason == "stop"
        assert completion.ids[0] == 1
        assert completion.ids[-1] == STOP
        gates |= {(step.gate, step.opens) for step in steps if step.gate >= 0}
    assert len(gates) == 4  # both gates were opened and left shut


def test_a_segment_ends_by_itself_or_with_its_budget(small):
    for budgets in ((1, 1), (2, 20), (20, 3)):
        got = run_all(small.engine(**SIZES), turns(6, budgets=budgets, budget=44))
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
    for req, got in zip(requests, run_all(small.engine(**SIZES), requests)):
        steps = check(small, req, got)
        gate = 0 if req.constraint.thresholds[0] is not None else 1
        opened += [step.opens for step in steps if step.gate == gate]
    if threshold in (0.0, 1.0):
        assert set(opened) == {threshold == 0.0}
    assert len(opened) == len(requests)


def automaton_step():
    """A jitted step of the automaton alone, over uniform logits."""

    def one(tables, form, seeds, positions, logits):
        rows = len(seeds)
        settings = (np.ones(rows, np.float32), np.zeros(rows, np.int32))

        def pick(logits):
            return draw(logits, seeds, positions, *settings, settings[0])

        active = np.ones(rows, bool)
        return constraints.constrained_draw(tables, form, active, logits, pick)

    return jax.jit(one)


def test_random_automata_go_where_walk_goes(small):
    """1600 tokens of 40 grammars, eight at a time, budgets of 1 to 6."""
    step, vocab, rows = automaton_step(), VOCAB, 8
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(5):
        held = Forms(small.engine(**SIZES)._programs, rows)
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
            held.give(slot, asked[-1])
        _, (first, tables) = held.arguments()
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
        if g.segment[after] >= 0 and left[g.segment[after]] <= 0:
            after = int(g.exhausted[after])
        state = after
    return state, left


def test_free_rows_are_not_changed_by_a_bit(small):
    free = [request(random_ids(20 + i, 30), seed=i, **MIXED[i]) for i in range(3)]
    last = {"budget": 12, "stop_ids": (), "seed": 8}  # as long in either form
    got = [
        run_all(small.engine(**SIZES), [*free, other(random_ids(1, 30), **last)])
        for other in (request, turn)
    ]
    for a, b in zip(*(completions[:3] for completions in got)):
        assert a.ids == b.ids
        assert a.logprobs == b.logprobs
        assert a.sampling_logprobs == b.sampling_logprobs


def test_company_slots_and_the_cut_into_blocks_change_nothing(small):
    requests = turns(6)
    expected = [run_all(small.engine(**SIZES), [r])[0] for r in requests]
    others = [request(random_ids(60 + i, 20), seed=i, budget=30) for i in range(6)]
    mixed = [r for pair in zip(requests, others) for r in pair]
    same(run_all(small.engine(decode_block=3, **SIZES), mixed)[::2], expected)
    same(run_all(small.engine(**SIZES), requests[::-1])[::-1], expected)


def test_trunks_a_pool_of_engines_and_a_tensor_group(small):
    requests = turns(8)
    expected = run_all(small.engine(**SIZES), requests)
    trunks = small.engine(trunks=2, trunk_length=32, tail_length=48, **SIZES)
    same(run_all(trunks, requests), expected)
    config = EngineConfig(slots=2, tensor=2, **SIZES)
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    pool = engine_pool.make(small.policy, small.params, config, mesh=mesh)
    assert len(pool.engines) == 2
    same(run_all(pool, requests), expected)
    names = [n for n in pool.stats()["program_names"] if "decode" in n]
    assert names == ["decode 64 1 16 16 4"]


def test_nothing_is_compiled_after_a_warm_up_with_grammars(small):
    engine = small.engine(slots=3, **SIZES)
    count = engine.warm_up(constraints=[turn([1]).constraint])
    assert all(
        len(n.split()) == 6 for n in engine.stats()["program_names"] if "decode" in n
    )
    run_all(engine, turns(9))
    assert engine.stats()["programs"] == count
    engine.reset()
    assert engine.warm_up() > count  # free rows have programs of their own


def letters(shift):
    """A grammar that writes ids from `shift` on in turn, drawn from two each time."""
    b = Builder(VOCAB)
    for n in range(5):
        ids = [shift + 2 * n, shift + 2 * n + 1]
        b.add(draws=ids, to=min(n + 1, 4))
    return b.grammar(any=0)


def lettered(n):
    return turn(random_ids(n, 9), grammar=letters(2 * n), budget=5, stop_ids=(), seed=n)


def test_grammars_that_no_row_uses_leave(small, monkeypatch):
    monkeypatch.setattr(forms, "MOST_GRAMMARS", 3)
    engine = small.engine(**SIZES)
    for n in range(0, 12, 2):
        requests = [lettered(n), turn(random_ids(1, 9), seed=n), lettered(n + 1)]
        for req, got in zip(requests, run_all(engine, requests)):
            check(small, req, got)
    held = engine._forms._places
    assert set(held) == {TURN.digest, letters(20).digest, letters(22).digest}
    assert sorted(held.values()) == [0, 1, 2]


def test_more_grammars_than_are_kept_may_run_at_once(small, monkeypatch):
    monkeypatch.setattr(forms, "MOST_GRAMMARS", 1)
    engine = small.engine(**SIZES)
    requests = [turn(random_ids(1, 9)), *(lettered(n) for n in range(3))]
    for req, got in zip(requests, run_all(engine, requests)):
        check(small, req, got)
    assert len(engine._forms._places) == 4


def test_rows_that_are_dropped_leave_nothing(small):
    engine = small.engine(decode_block=3, **SIZES)
    requests = turns(6)
    expected = run_all(engine, requests)
    handles = [engine.submit(r) for r in requests]
    done = dict(engine.step_until(lambda: True))
    engine.discard([handles[0], handles[5]])
    while len(done) < 4:
        done.update(engine.step_until(lambda: True))
    same([done[h] for h in handles[1:5]], expected[1:5])
    assert (engine._forms.rows[:, constraints.STATE] == -1).all()
    for r in requests:
        engine.submit(r)
    engine.step_until(lambda: True)
    engine.cancel()
    free = [request(random_ids(1, 9), budget=4, temperature=0.0)]
    assert list(run_all(engine, free)[0].ids) == small.greedy(random_ids(1, 9), 4)


def test_a_stop_string_ends_a_constrained_completion(small):
    class Numbers:
        def decode(self, ids):
            return "".join(f"<{i}>" for i in ids)

    engine = small.engine(Numbers(), **SIZES)
    whole = turn(random_ids(3, 9), seed=3)
    cut = turn(random_ids(3, 9), seed=3, stop_strings=("<6>", "<4>", "<5>"))
    first, second = run_all(engine, [whole, cut])
    end = next(n for n, i in enumerate(first.ids) if i in (6, 4, 5)) + 1
    assert second.ids == first.ids[:end]
    assert second.finish_reason == "stop"


def test_a_budget_may_end_anywhere_in_the_form(small):
    for budget in (1, 2, 5):
        got = run_all(small.engine(**SIZES), [turn(random_ids(3, 9), budget=budget)])[0]
        assert len(got.ids) == len(walk(turn([1]).constraint, got.ids)) == budget
        assert got.finish_reason == "length"


def test_an_embedding_of_more_rows_than_ids(small):
    grammar = turn_grammar(vocab=60)
    requests = [turn(random_ids(i, 9), grammar=grammar, seed=i) for i in range(4)]
    for req, got in zip(requests, run_all(small.engine(**SIZES), requests)):
        walk(req.constraint, got.ids)
        assert max(got.ids) < 60


def free_state(vocab):
    b = Builder(vocab)
    b.add(draws=range(vocab), to=0)
    return b.grammar(any=0)


def gate_of_three():
    b = Builder(VOCAB)
    b.add(draws=[1, 2, 3], to=0, gate=0, opens=1)
    return b.grammar(any=0)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (
            turn_grammar(vocab=VOCAB + 1),
            "102 token ids, but the policy's embedding has",
        ),
        (free_state(VOCAB - 1), "a support of its own"),
        (gate_of_three(), "between two ids"),
    ],
)
def test_constraints_that_the_policy_cannot_draw_by_are_refused(
    small, grammar, message
):
    engine = small.engine(**SIZES)
    with pytest.raises(InputError, match=message):
        engine.submit(turn([1, 2], grammar=grammar))
    assert engine.step() == []
    engine.submit(turn([1, 2], grammar=free_state(VOCAB), budget=2))
    assert len(engine.step()) == 1


def test_weights_that_are_not_numbers_end_a_constrained_run(small):
    broken = jax.tree.map(lambda x: x * np.nan, small.params)
    for thresholds in ((None, None), (0.5, 0.5)):
        engine = Engine(small.policy, broken, small.engine(**SIZES).config)
        engine.submit(turn([1, 2], thresholds=thresholds))
        with pytest.raises(RunError, match="NaN"):
            engine.step()
