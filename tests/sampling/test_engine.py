"""The engine against whole forward passes, and against itself in other company."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import VOCAB, random_ids, request, run_all

from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.sampling.engine import Engine

SAMPLED = {"temperature": 1.0, "top_k": 20, "top_p": 0.95}


def check_logprobs(small, req, completion, tolerance=5e-5):
    prompt = prompt_ids(req.prompt)
    expected = small.log_probs(prompt + completion.ids)
    for i, token in enumerate(completion.ids):
        want = expected[len(prompt) - 1 + i, token]
        assert abs(completion.logprobs[i] - want) < tolerance


def test_greedy_equals_the_naive_loop(small):
    prompts = [random_ids(i, n) for i, n in enumerate((1, 2, 15, 16, 17, 70, 100))]
    requests = [request(p, budget=20, temperature=0.0) for p in prompts]
    for req, prompt, got in zip(
        requests, prompts, run_all(small.engine(), requests), strict=True
    ):
        assert list(got.ids) == small.greedy(prompt, 20)
        assert got.finish_reason == "length"
        assert set(got.sampling_logprobs) == {0.0}
        check_logprobs(small, req, got)


def test_an_engine_shorter_than_its_shortest_block(small):
    engine = small.engine(max_length=11, slots=2)
    count = engine.warm_up()
    prompt = random_ids(0, 9)
    got = run_all(engine, [request(prompt, budget=2, temperature=0.0)])[0]
    assert list(got.ids) == small.greedy(prompt, 2)
    assert engine.stats()["programs"] == count


def test_logprobs_of_sampled_tokens(small):
    requests = [
        request(random_ids(i, 10 + 7 * i), seed=i, budget=25, temperature=heat)
        for i, heat in enumerate((0.5, 1.0, 1.7))
    ]
    for req, got in zip(requests, run_all(small.engine(), requests)):
        check_logprobs(small, req, got)
        prompt = prompt_ids(req.prompt)
        scaled = small.log_probs(prompt + got.ids)[len(prompt) - 1 : -1]
        scaled = scaled / req.temperature
        scaled -= np.log(np.exp(scaled).sum(-1, keepdims=True))
        want = scaled[np.arange(len(got.ids)), got.ids]
        np.testing.assert_allclose(got.sampling_logprobs, want, atol=1e-4)


def company(kind):
    """Requests around the one that is looked at, and its place among them."""
    longer = [request(random_ids(90 + i, 120), seed=i, budget=30) for i in range(7)]
    if kind == "alone":
        return [], []
    if kind == "last":
        return longer[:3], []
    if kind == "refill":
        return longer[:5], longer[5:]
    prefix = random_ids(0, 40)
    sharing = [request(prefix, random_ids(i + 5, 9), seed=i) for i in range(3)]
    return (sharing, longer[:2]) if kind == "shared" else ([], sharing)


@pytest.mark.parametrize("kind", ["alone", "last", "refill", "shared", "first"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_company_changes_nothing(small, kind, temperature):
    req = request(
        random_ids(0, 40), random_ids(1, 30), budget=24, seed=5, temperature=temperature
    )
    alone = run_all(small.engine(slots=1), [req])[0]
    before, after = company(kind)
    got = run_all(small.engine(), [*before, req, *after])[len(before)]
    assert got.ids == alone.ids
    np.testing.assert_allclose(got.logprobs, alone.logprobs, atol=2e-5)
    np.testing.assert_allclose(
        got.sampling_logprobs, alone.sampling_logprobs, atol=2e-5
    )
    assert (got.shared_prompt_tokens > 0) == (kind == "shared")


def test_every_slot_gives_the_same(small):
    req = request(random_ids(0, 50), budget=16, seed=3)
    others = [request(random_ids(7 + i, 20), budget=40) for i in range(3)]
    seen = []
    for slot in range(4):
        engine = small.engine()
        requests = [*others[:slot], req, *others[slot:]]
        seen.append(run_all(engine, requests)[slot])
        assert engine._slots.residents.tokens[slot, :50].tolist() == random_ids(0, 50)
    assert len({got.ids for got in seen}) == 1


def test_a_group_with_one_prompt_is_prefilled_once(small):
    engine = small.engine(slots=8)
    prompt = random_ids(2, 90)
    requests = [request(prompt, seed=i, budget=10) for i in range(8)]
    got = run_all(engine, requests)
    assert [c.shared_prompt_tokens for c in got] == [0] + [89] * 7
    assert engine.stats()["prefill_tokens"] == 89
    for req, completion in zip(requests, got):
        check_logprobs(small, req, completion)
    assert len({c.ids for c in got}) == 8  # seeds differ


def test_a_trajectorys_next_turn_reuses_its_last_one(small):
    engine = small.engine(slots=1)
    question, chunks = random_ids(0, 40), [random_ids(i, 30) for i in (1, 2)]
    first, second = (request((), question, (), chunk) for chunk in chunks)
    assert run_all(engine, [first])[0].shared_prompt_tokens == 0
    got = run_all(engine, [second])[0]
    assert got.shared_prompt_tokens == 40
    check_logprobs(small, second, got)
    engine.reset()
    again = run_all(engine, [second])[0]
    assert again.shared_prompt_tokens == 0
    assert again.ids == got.ids


def test_stop_ids_end_a_completion_and_belong_to_it(small):
    prompt = random_ids(4, 20)
    whole = small.greedy(prompt, 20)
    stop = whole[7]
    want = whole[: whole.index(stop) + 1]
    req = request(prompt, budget=20, temperature=0.0, stop_ids=(stop, VOCAB - 1, stop))
    got = run_all(small.engine(), [req])[0]
    assert list(got.ids) == want
    assert got.finish_reason == "stop"
    assert len(got.logprobs) == len(got.sampling_logprobs) == len(want)


def test_budgets_are_each_requests_own(small):
    budgets = [1, 2, 31, 32, 33, 70]
    requests = [
        request(random_ids(i, 9), budget=b, seed=i) for i, b in enumerate(budgets)
    ]
    got = run_all(small.engine(), requests)
    assert [len(c.ids) for c in got] == budgets
    assert {c.finish_reason for c in got} == {"length"}


class Letters:
    """Decodes id i to one letter, ids from 26 on to two."""

    def decode(self, ids):
        return "".join(chr(97 + i % 26) * (1 + (i >= 26)) for i in ids)


@pytest.mark.parametrize("decode_block", [1, 5, 32])
def test_stop_strings_end_with_the_token_that_completes_them(small, decode_block):
    engine = small.engine(Letters(), decode_block=decode_block)
    prompt = random_ids(4, 20)
    whole = small.greedy(prompt, 40)
    text = Letters().decode
    stop = text(whole[9:12])[:-1]  # ends inside what the token decodes to, or before
    end = next(n for n in range(41) if stop in text(whole[:n]))
    req = request(prompt, budget=40, temperature=0.0, stop_strings=("~~~", stop))
    plain = request(prompt, budget=40, temperature=0.0)
    got, other = run_all(engine, [req, plain])
    assert list(got.ids) == whole[:end]
    assert got.finish_reason == "stop"
    assert len(got.logprobs) == end
    assert list(other.ids) == whole
    # What was drawn beyond the stop is not taken for part of the slot.
    follow = request(prompt, whole[: end + 3], budget=5, temperature=0.0)
    again = run_all(engine, [follow])[0]
    assert list(again.ids) == small.greedy(prompt + whole[: end + 3], 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "empty"),
        ({"prompt": [1] * 160}, "exceed the engine's max_length 160"),
        ({"prompt": [1] * 100, "budget": 61}, "exceed the engine's max_length 160"),
        ({"budget": 0}, "at least 1"),
        ({"prompt": [3, VOCAB]}, f"token id {VOCAB}"),
        ({"prompt": [-1, 3]}, "token id -1"),
        ({"prompt": [2**40]}, "token id 1099511627776"),
        ({"stop_ids": range(9)}, "max_stop_ids"),
        ({"stop_strings": ("a",)}, "decoder"),
    ],
)
def test_requests_that_can_never_run_are_refused(small, change, message):
    engine = small.engine()
    prompt = change.pop("prompt", [1, 2])
    with pytest.raises(InputError, match=message):
        engine.submit(request(prompt, **change))
    assert engine.step() == []
    assert engine.submit(request([1] * 100, budget=60)) == 0


@pytest.mark.parametrize("string", ["", "a\ufffd"])
def test_stop_strings_that_cannot_be_searched_are_refused(small, string):
    with pytest.raises(InputError, match="stop string"):
        small.engine(Letters()).submit(request([1], stop_strings=(string,)))


def test_cancel_drops_everything_and_the_engine_goes_on(small):
    engine = small.engine()
    requests = [request(random_ids(i, 30), budget=60, seed=i) for i in range(9)]
    for i, req in enumerate(requests):
        engine.submit(request([i], budget=1) if i == 2 else req)
    assert [handle for handle, _ in engine.step()] == [2]
    engine.cancel()
    assert engine.step() == []
    got = run_all(engine, requests[:1])[0]
    assert got.ids == run_all(small.engine(), requests[:1])[0].ids


def test_new_weights_forget_what_the_old_ones_left(small):
    engine = small.engine()
    prompt = random_ids(0, 60)
    req = request(prompt, budget=8, temperature=0.0)
    first = run_all(engine, [req])[0]
    other = small.policy.init(jax.random.key(1))
    engine.set_params(other)
    second = run_all(engine, [req])[0]
    assert second.shared_prompt_tokens == 0
    assert second.ids != first.ids
    engine.submit(req)
    engine.submit(request(prompt, budget=1))
    engine.step()
    with pytest.raises(RunError, match="set_params while requests run"):
        engine.set_params(small.params)


def test_either_form_of_the_weights_is_taken(small):
    form = small.policy.sampling_params(small.params)
    config = small.engine().config
    req = request(random_ids(0, 20), budget=8)
    stacked = run_all(Engine(small.policy, small.params, config), [req])[0]
    engine = Engine(small.policy, form, config)
    assert run_all(engine, [req])[0].logprobs == stacked.logprobs
    assert engine._params["ends"]["embedding"] is form["ends"]["embedding"]


def test_weights_that_are_not_numbers_end_the_run(small):
    broken = jax.tree.map(lambda x: x * np.nan, small.params)
    engine = Engine(small.policy, broken, small.engine().config)
    engine.submit(request([1, 2], budget=3))
    with pytest.raises(RunError, match="NaN"):
        engine.step()
    assert engine.step() == []


def test_no_program_is_compiled_after_the_warm_up(small):
    engine = small.engine(max_length=150, slots=3)  # sizes of no other test
    assert engine.stats()["programs"] == 0
    count = engine.warm_up()
    names = engine.stats()["program_names"]
    assert count == len(set(names)) == len(names) <= 24
    rng = np.random.default_rng(0)
    requests = []
    for i in range(40):
        shared = random_ids(int(rng.integers(3)), int(rng.integers(60)))
        own = random_ids(100 + i, int(rng.integers(1, 60)))
        budget = int(rng.integers(1, 30))
        requests.append(request(shared, own, budget=budget, seed=i, **SAMPLED))
    run_all(engine, requests)
    stats = engine.stats()
    assert stats["programs"] == count
    assert stats["requests"] == 40
    assert stats["shared_tokens"] > 0
    assert stats["new_tokens"] == sum(r.max_new_tokens for r in requests)
    assert 0.5 < stats["slot_occupancy"] <= 1.0


def test_a_slot_that_ends_is_refilled_at_once(small):
    engine = small.engine(slots=2)
    long = request(random_ids(0, 5), budget=60)
    short = [request(random_ids(i, 5), budget=6, seed=i) for i in range(10)]
    run_all(engine, [long, *short])
    stats = engine.stats()
    assert stats["decode_steps"] == 60
    assert stats["slot_occupancy"] == 1.0


def test_slots_can_be_refilled_together(small):
    """With refill_after=2 a row that has ended waits for a second one."""
    requests = [
        request(random_ids(i, 5), budget=6 + i % 2, seed=i, **SAMPLED)
        for i in range(12)
    ]
    found, blocks = {}, {}
    for number in (None, 2):
        engine = small.engine(slots=4, refill_after=number)
        completions = run_all(engine, requests)
        found[number] = [completion.ids for completion in completions]
        blocks[number] = engine.stats()["decode_blocks"]
    assert found[2] == found[None]
    assert blocks[2] < blocks[None]


def test_ids_beyond_the_tokenizers_rows_pass_through(small):
    class Short(Letters):
        def decode(self, ids):
            return "".join("\ufffd" if i >= 50 else "x" for i in ids)

    req = request(random_ids(0, 9), budget=40, seed=1, stop_strings=("nothing",))
    got = run_all(small.engine(Short()), [req])[0]
    assert max(got.ids) >= 50
    assert len(got.ids) == 40


def test_results_are_bit_equal_in_a_new_engine_and_after_a_reset(small):
    requests = [request(random_ids(i % 3, 30 + i), seed=i, budget=9) for i in range(12)]
    engine = small.engine()
    first = run_all(engine, requests)
    engine.reset()
    second = run_all(engine, requests)
    third = run_all(small.engine(), requests)
    for a, b, c in zip(first, second, third):
        assert a.ids == b.ids == c.ids
        assert a.logprobs == b.logprobs == c.logprobs
        assert a.shared_prompt_tokens == b.shared_prompt_tokens


def test_sampled_tokens_follow_the_policys_distribution(small):
    engine = small.engine(slots=64, max_length=16, prefill_blocks=(16,))
    prompt = random_ids(1, 8)
    rows = 2000
    got = run_all(engine, [request(prompt, budget=1, seed=i) for i in range(rows)])
    counts = np.bincount([c.ids[0] for c in got], minlength=VOCAB)
    expected = np.exp(small.log_probs(prompt)[-1]) * rows
    large = expected >= 5
    assert large.sum() > 5
    bins = np.r_[counts[large], counts[~large].sum()]
    means = np.r_[expected[large], expected[~large].sum()]
    statistic = ((bins - means) ** 2 / means).sum()
    freedom = len(bins) - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_bfloat16_stays_near_float32(small):
    req = request(random_ids(0, 40), budget=10, seed=1)
    got = run_all(small.engine(dtype="bfloat16"), [req])[0]
    check_logprobs(small, req, got, tolerance=0.5)


SCHEDULE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from conftest import Small, random_ids, request
engine = Small().engine(slots=3)
for i in range(9):
    segments = random_ids(i % 2, 20), random_ids(i, 5)
    engine.submit(request(*segments, seed=i, budget=3 + i))
order = []
while ended := engine.step():
    order += [(n, c.ids, c.logprobs, c.shared_prompt_tokens) for n, c in ended]
print(json.dumps(order))
"""


def test_the_schedule_does_not_depend_on_the_hash_seed():
    digests = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed}
        here = os.path.dirname(__file__)
        done = subprocess.run(
            [sys.executable, "-c", SCHEDULE, here],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(json.loads(done.stdout)) == 9
        digests.add(hashlib.sha256(done.stdout.encode()).hexdigest())
    assert len(digests) == 1
