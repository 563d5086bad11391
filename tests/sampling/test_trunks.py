"""Engines whose slots share trunks, against engines whose slots hold everything."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import Small, random_ids, run_all
from test_engine import SAMPLED, Letters, check_logprobs

from gru_mem_jax.agent.requests import Request, Segment
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import FULL, SLIDING
from gru_mem_jax.sampling.engine import Engine

# The same sizes in most tests: engines of equal sizes share their compiled programs.
TRUNKS = {
    "slots": 6,
    "trunks": 3,
    "tail_length": 60,
    "prefill_blocks": (16,),
    "prefill_tokens": 64,
    "min_shared_tokens": 4,
}


def asked(chunk=0, question=0, memory=0, *, budget=10, order="chunk_first", **settings):
    """A prompt of 4 + 50 + 2 + 8 tokens, its trunk, then up to 12 of memory and 3."""
    texts = {
        "chunk": random_ids(100 + chunk, 50),
        "question": random_ids(200 + question, 8),
        "memory": random_ids(300 + memory, 5 + memory % 8),
    }
    names = ["question", "memory", "chunk"]
    if order == "chunk_first":
        names = ["chunk", "question", "memory"]
    glue = [random_ids(1, 4), random_ids(2, 2), [], random_ids(3, 3)]
    prompt = []
    for name, ids in zip([*names, None], glue):
        prompt.append(Segment("control", tuple(ids)))
        if name:
            prompt.append(Segment(name, tuple(texts[name])))
    return Request(prompt=tuple(prompt), max_new_tokens=budget, stop_ids=(), **settings)


def groups(number, size, **settings):
    return [
        asked(n, n % 2, g % 3, seed=10 * n + g, **settings)
        for n in range(number)
        for g in range(size)
    ]


def check_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.ids == other.ids
        assert one.finish_reason == other.finish_reason
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)
        np.testing.assert_allclose(
            one.sampling_logprobs, other.sampling_logprobs, atol=2e-5
        )


@pytest.mark.parametrize("order", ["chunk_first", "memory_first"])
def test_trunks_change_nothing(small, order):
    """Groups of four in slots for 1.5 groups; and one request alone."""
    requests = groups(4, 4, order=order, **SAMPLED)
    plain = run_all(small.engine(), requests)
    engine = small.engine(**TRUNKS)
    check_equal(run_all(engine, requests), plain)
    check_equal(run_all(small.engine(**TRUNKS), requests[5:6]), plain[5:6])
    stats = engine.stats()
    assert stats["requests"] == 16
    assert stats["prompt_tokens"] - stats["shared_tokens"] == (
        stats["prefill_tokens"] + 16  # the last token of a prompt is decode's
    )
    if order == "chunk_first":
        # Four trunks of 64 with a template of 4, and three tails of 7 to 9 each.
        assert stats["prefill_tokens"] == 4 * 60 + 4 + 4 * (7 + 8 + 9)


def test_a_group_reads_its_trunk_once(small):
    engine = small.engine(**TRUNKS)
    got = run_all(engine, [asked(0, 0, g, seed=g) for g in range(6)])
    assert got[0].shared_prompt_tokens == 0
    assert all(c.shared_prompt_tokens >= 64 for c in got[1:])
    assert engine._trunks.lengths.tolist() == [64] * 6
    assert len(engine._trunks.entries) == 1
    assert engine._slots.cache[0].keys.shape == (6, 2, 60, 8)
    assert engine._trunks.pool.cache[0].keys.shape == (3, 2, 100, 8)


def test_results_are_bit_equal_in_a_new_engine_and_after_a_reset(small):
    requests = groups(4, 3, **SAMPLED)
    engine = small.engine(**TRUNKS)
    first = run_all(engine, requests)
    engine.reset()
    for again in (run_all(engine, requests), run_all(small.engine(**TRUNKS), requests)):
        for one, other in zip(first, again, strict=True):
            assert one.ids == other.ids
            assert one.logprobs == other.logprobs
            assert one.shared_prompt_tokens == other.shared_prompt_tokens


def test_another_question_copies_the_document(small):
    engine = small.engine(**TRUNKS)
    requests = [asked(0, question) for question in (0, 1)]
    assert run_all(engine, requests[:1])[0].shared_prompt_tokens == 0
    got = run_all(engine, requests[1:])[0]
    assert got.shared_prompt_tokens == 56  # template, chunk, and what separates them
    check_logprobs(small, requests[1], got)
    # The first question's trunk is still held, and so is its tail.
    again = run_all(engine, [asked(0, 0)])[0]
    assert again.shared_prompt_tokens == 64 + 7
    check_logprobs(small, requests[0], again)


def test_the_least_recently_used_trunk_is_replaced_and_its_tails_with_it(small):
    engine = small.engine(**TRUNKS)
    for chunk in (0, 1, 2, 0, 3):  # 3 takes the place of 1
        run_all(engine, [asked(chunk)])
    got = [run_all(engine, [asked(chunk)])[0].shared_prompt_tokens for chunk in (0, 1)]
    assert got == [71, 4]  # all but the last token; the template
    check_logprobs(small, asked(1), run_all(engine, [asked(1)])[0])


def test_requests_wait_while_every_trunk_is_in_use(small):
    """Three entries, six slots: of two groups more the requests wait, or pass."""
    engine = small.engine(**TRUNKS)
    requests = [asked(n, budget=20 + 10 * n, seed=n) for n in (0, 1, 2, 3, 3, 2)]
    expected = run_all(small.engine(), requests)
    handles = [engine.submit(request) for request in requests]
    order, done = [], {}
    while ended := engine.step():
        order += [handles.index(handle) for handle, _ in ended]
        done.update(ended)
    check_equal([done[handle] for handle in handles], expected)
    assert order == [0, 1, 2, 5, 3, 4]


def test_stop_strings_discard_and_early_returns(small):
    engine = small.engine(Letters(), **TRUNKS)
    whole = run_all(small.engine(), [asked(0, budget=40, temperature=0.0)])[0].ids
    stop = Letters().decode(whole[9:12])[:-1]
    end = next(n for n in range(41) if stop in Letters().decode(whole[:n]))
    stopping = asked(0, budget=40, temperature=0.0, stop_strings=(stop,))
    got = run_all(engine, [stopping, asked(0, budget=40, temperature=0.0)])
    assert [c.ids for c in got] == [whole[:end], whole]
    assert got[0].finish_reason == "stop"

    requests = [asked(i % 2, 0, i, budget=50, seed=i) for i in range(6)]
    expected = run_all(small.engine(), requests)
    handles = [engine.submit(request) for request in requests]
    assert engine.step_until(lambda: True) == []
    engine.discard([handles[0], handles[4]])
    done = {}
    while len(done) < 4:
        done.update(engine.step_until(lambda: True))
    for i in (1, 2, 3, 5):
        check_equal([done[handles[i]]], [expected[i]])


@pytest.mark.parametrize(
    ("pool", "where"),
    [
        ("_slots", "decode"),
        ("_slots", "prefill"),
        ("_slots", "copy"),
        ("_trunks", "prefill"),
        ("_trunks", "copy"),
    ],
)
def test_an_interrupted_program_does_not_spoil_the_engine(
    small, monkeypatch, pool, where
):
    engine = small.engine(**TRUNKS)
    # Equal memories: tails are copied; equal chunks: so are the fronts of trunks.
    requests = [asked(0, n % 2, 7, budget=5, temperature=0.0, seed=n) for n in range(4)]
    requests += [asked(0, n, 4, budget=5, temperature=0.0) for n in range(2)]
    expected = run_all(small.engine(), requests)
    held = getattr(engine, pool)
    programs = (held if pool == "_slots" else held.pool).programs
    usual, interrupted = getattr(programs, where), []

    def interrupting(*sizes):
        def run(*arguments):
            usual(*sizes)(*arguments)
            interrupted.append(True)
            raise KeyboardInterrupt

        return run

    with monkeypatch.context() as patch:
        patch.setattr(programs, where, interrupting)
        for request in requests:
            engine.submit(request)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert interrupted
    assert engine.step() == []
    check_equal(run_all(engine, requests), expected)


def test_no_program_is_compiled_after_the_warm_up(small):
    engine = small.engine(**TRUNKS)
    count = engine.warm_up()
    assert count == len(engine.stats()["program_names"]) <= 24
    rng = np.random.default_rng(0)
    requests = []
    for i in range(40):
        order = ("chunk_first", "memory_first")[i % 4 == 0]
        chunk, question, memory = map(int, rng.integers(0, 4, 3))
        requests.append(
            asked(chunk, question, memory, order=order, budget=1 + i, seed=i, **SAMPLED)
        )
    run_all(engine, requests)
    assert engine.stats()["programs"] == count


def test_windows_and_softcaps():
    """A window of 20: some see the trunk's end, some nothing of it."""
    local = Small(
        layer_types=(SLIDING, FULL),
        sliding_window=20,
        attn_logit_softcapping=3.0,
    )
    requests = [asked(0, memory=memory, budget=25) for memory in (0, 6, 6)]
    for request, completion in zip(requests, run_all(local.engine(**TRUNKS), requests)):
        check_logprobs(local, request, completion)


def test_bfloat16(small):
    requests = groups(2, 2, temperature=0.0)
    got = run_all(small.engine(dtype="bfloat16", **TRUNKS), requests)
    for request, completion in zip(requests, got):
        check_logprobs(small, request, completion, tolerance=0.5)


def test_a_tensor_group_changes_nothing(small):
    mesh = make_mesh(MeshConfig(tensor=2))
    sizes = TRUNKS | {"slots": 4, "prefill_tokens": 16}
    config = dataclasses.replace(small.engine().config, **sizes)
    requests = groups(2, 2)
    engine = Engine(small.policy, small.params, config, mesh=mesh)
    check_equal(run_all(engine, requests), run_all(small.engine(), requests))
    shards = engine._trunks.pool.cache[0].keys.addressable_shards
    assert {shard.data.shape for shard in shards} == {(3, 1, 100, 8)}
    shards = engine._slots.cache[0].keys.addressable_shards
    assert {shard.data.shape for shard in shards} == {(4, 1, 60, 8)}


def test_what_a_tail_cannot_hold_is_refused(small):
    engine = small.engine(**TRUNKS)
    with pytest.raises(
        InputError, match="tail_length of at least 61, and the engine's"
    ):
        engine.submit(asked(budget=60))
    with pytest.raises(InputError, match="trunks of 1 or more"):
        Engine(small.policy, small.params, small.engine().config, store=Shelf())


class Stored(NamedTuple):
    length: int
    arrays: np.ndarray


class Shelf:
    """A store of prefixes in a dict."""

    def __init__(self):
        self.held, self.asked = {}, []

    def find(self, ids, least):
        self.asked.append((len(ids), least))
        for length in range(len(ids), least - 1, -1):
            arrays = self.held.get(tuple(ids[:length].tolist()))
            if arrays is not None:
                return Stored(length, arrays)
        return None

    def wants(self, ids):
        return tuple(ids.tolist()) not in self.held

    def put(self, ids, arrays):
        self.held[tuple(ids.tolist())] = np.array(arrays)


def store_engine(small, shelf):
    config = dataclasses.replace(small.engine().config, **TRUNKS)
    return Engine(small.policy, small.params, config, store=shelf)


def test_a_store_keeps_documents_beyond_an_engine(small):
    shelf = Shelf()
    engine = store_engine(small, shelf)
    count = engine.warm_up()
    run_all(engine, [asked(0), asked(0, 1), asked(1)])
    assert engine.stats()["programs"] == count
    # Template and chunk of both documents, not the questions.
    assert sorted(map(len, shelf.held)) == [54, 54]
    for arrays in shelf.held.values():
        assert arrays.shape == (2, 2, 2, 54, 8)
        assert arrays.dtype == np.float32
    other = store_engine(small, shelf)
    requests = [asked(0, 2), asked(1, 3)]
    got = run_all(other, requests)
    assert [c.shared_prompt_tokens for c in got] == [54, 54]
    for request, completion in zip(requests, got):
        check_logprobs(small, request, completion)
    assert other.stats()["stored_tokens"] == 108
    assert len(shelf.held) == 2
    other.set_params(small.policy.init(jax.random.key(5)))
    shelf.asked.clear()
    run_all(other, requests)
    assert shelf.asked == []


def test_a_part_of_a_document_is_taken_from_the_store_and_the_whole_kept(small):
    shelf = Shelf()
    run_all(store_engine(small, shelf), [asked(0)])
    (ids, arrays) = shelf.held.popitem()
    shelf.held[ids[:30]] = arrays[:, :, :, :30]
    got = run_all(store_engine(small, shelf), [asked(0)])[0]
    assert got.shared_prompt_tokens == 30
    check_logprobs(small, asked(0), got)
    np.testing.assert_allclose(shelf.held[ids], arrays, atol=1e-5)


def test_memory_first_prompts_have_no_document_to_store(small):
    shelf = Shelf()
    run_all(store_engine(small, shelf), [asked(0, order="memory_first", budget=30)])
    assert shelf.asked == []
    assert shelf.held == {}


@dataclasses.dataclass(frozen=True)
class Ahead:
    """A request that says what comes next."""

    request: Request
    ahead: tuple

    def __getattr__(self, name):
        return getattr(self.request, name)


def test_trunks_are_prefilled_ahead_into_free_entries(small):
    engine = small.engine(**TRUNKS)
    nexts = [asked(chunk).prompt for chunk in (1, 2, 3)]
    # Through the chunk, through the question, and one for which there is no entry.
    parts = (nexts[0][:2], nexts[1][:5], nexts[2][:2])
    got = run_all(engine, [Ahead(asked(0), parts)])[0]
    check_logprobs(small, asked(0), got)
    stats = engine.stats()
    assert stats["ahead_tokens"] == stats["ahead_wasted_tokens"] == 50 + 60
    before = stats["prefill_tokens"]
    got = [run_all(engine, [asked(chunk)])[0] for chunk in (1, 2)]
    assert [c.shared_prompt_tokens for c in got] == [54, 64]
    for chunk, completion in zip((1, 2), got):
        check_logprobs(small, asked(chunk), completion)
    stats = engine.stats()
    assert stats["ahead_wasted_tokens"] == 0
    assert stats["prefill_tokens"] - before < 40
    # What is held already is not computed again.
    run_all(engine, [Ahead(asked(2), (nexts[0][:2], nexts[1][:5]))])
    assert engine.stats()["ahead_tokens"] == stats["ahead_tokens"]
