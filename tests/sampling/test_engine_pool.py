"""Engines side by side on eight devices, against one engine on one device."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import Small, random_ids, request, run_all

from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.sampling import engine_pool
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.sampling.engine_pool import EnginePool
from gru_mem_jax.sampling.prefix_store import PrefixStore

SIZES = EngineConfig(
    slots=2, max_length=64, prefill_blocks=(32,), prefill_tokens=64, tensor=4
)
PAIR = dataclasses.replace(SIZES, tensor=1)


@pytest.fixture(scope="module")
def eight():
    return make_mesh(MeshConfig(data=-1))


@pytest.fixture(scope="module")
def two():
    """Two devices, and not the first: two engines of one."""
    return make_mesh(MeshConfig(data=2), jax.devices()[5:7])


@pytest.fixture
def without_disk_cache():
    """Commands that were tested before may have set it."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def groups(count, **settings):
    """Requests of groups that share a prefix, pinned as the driver does."""
    settings = {"budget": 8, "temperature": 1.0} | settings
    return [
        request(
            random_ids(g, 20),
            random_ids(100 + i, 5 + g),
            seed=g * 10 + i,
            pin=g,
            **settings,
        )
        for g in range(count)
        for i in range(3)
    ]


def assert_same(many, alone):
    for one, other in zip(many, alone, strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)
        np.testing.assert_allclose(
            one.sampling_logprobs, other.sampling_logprobs, atol=2e-5
        )


def test_two_engines_of_four_devices_say_what_one_on_one_device_says(small, eight):
    requests = groups(5)
    alone = run_all(Engine(small.policy, small.params, SIZES), requests)
    pool = EnginePool(small.policy, small.params, SIZES, mesh=eight)
    many = run_all(pool, requests)
    assert_same(many, alone)
    stats = pool.stats()
    assert stats["requests"] == 15
    assert stats["engines"] == len(pool.engines) == 2
    assert all(engine.stats()["requests"] >= 6 for engine in pool.engines)


def test_a_group_stays_on_one_engine_and_computes_its_prefix_once(small, two):
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    run_all(pool, groups(4, budget=2))
    for engine in pool.engines:
        stats = engine.stats()
        assert stats["requests"] == 6  # two groups of three
        # The first of a group computes 20 tokens of the prefix, the others copy them.
        assert stats["shared_tokens"] == 2 * 2 * 20
    assert pool.stats()["prefill_tokens"] == sum(
        engine.stats()["prefill_tokens"] for engine in pool.engines
    )


def test_a_new_pin_goes_where_fewest_requests_are(small, two):
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    for pin in (7, 7, 8, 9, None, 7):
        pool.submit(request(random_ids(1, 5), pin=pin))
    # 7 and 7 to the first; 8 and 9 to the second; then equal; then where 7 is.
    assert [engine.stats()["requests"] for engine in pool.engines] == [0, 0]
    assert [place[0] for place in pool._places.values()] == [0, 0, 1, 1, 0, 0]
    pool.cancel()
    assert pool.step() == []


def test_the_same_calls_give_the_same_bits_whatever_time_they_take(
    small, two, monkeypatch
):
    import time

    def run(slow=None):
        pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
        finish, order = Engine.finish, []

        def finishing(self):
            number = pool.engines.index(self)
            order.append(number)
            if number == slow:
                time.sleep(0.01)
            return finish(self)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "finish", finishing)
            return run_all(pool, groups(4)), order

    first, order = run()
    for slow in (0, 1):
        again, order_again = run(slow)
        assert order_again == order
        for one, other in zip(first, again, strict=True):
            assert one.ids == other.ids
            assert one.logprobs == other.logprobs
    assert set(order) == {0, 1}


def test_engines_decode_side_by_side(small, two, monkeypatch):
    """Both blocks are dispatched before the first is awaited."""
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    events = []
    for name in ("begin", "finish"):
        of = getattr(Engine, name)

        def noted(self, name=name, of=of):
            events.append((name, pool.engines.index(self)))
            return of(self)

        monkeypatch.setattr(Engine, name, noted)
    for r in groups(2, budget=36):
        pool.submit(r)
    pool.step_until(lambda: True)
    assert events == [("begin", 0), ("begin", 1), ("finish", 0)]
    pool.step_until(lambda: True)
    assert events[3:] == [("begin", 0), ("finish", 1)]


def test_discarding_while_a_block_runs_leaves_the_others(small, two):
    requests = groups(4, budget=36, temperature=0)
    alone = [c.ids for c in run_all(small.engine(slots=2), requests)]
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    handles = [pool.submit(r) for r in requests]
    pool.step_until(lambda: True)  # the second engine's block is under way
    pool.discard([handles[0], handles[3], handles[11], 999])
    done = {}
    while ended := pool.step():
        done.update(ended)
    assert {handles.index(h): c.ids for h, c in done.items()} == {
        i: alone[i] for i in range(12) if i not in (0, 3, 11)
    }
    assert pool._handles == pool._places == {}


def test_a_failure_drops_all_requests_and_the_pool_works_again(small, two, monkeypatch):
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    expected = [c.ids for c in run_all(pool, groups(3))]
    with monkeypatch.context() as patch:
        patch.setattr(pool.engines[0], "finish", lambda: 1 / 0)
        for r in groups(3):
            pool.submit(r)
        with pytest.raises(ZeroDivisionError):
            pool.step()
    assert pool.step() == []
    assert [c.ids for c in run_all(pool, groups(3))] == expected


TRUNKS = dataclasses.replace(PAIR, trunks=2, trunk_length=32, tail_length=48)


def about(document, i, pin):
    """A request whose first 24 tokens are a document."""
    r = request(
        random_ids(document, 24), random_ids(40 + i, 6), seed=i, budget=8, pin=pin
    )
    chunk, memory = r.prompt
    chunk = dataclasses.replace(chunk, role="chunk")
    memory = dataclasses.replace(memory, role="memory")
    return dataclasses.replace(r, prompt=(chunk, memory))


def test_trunks_are_held_by_the_engine_of_their_group(small, two):
    requests = [about(g, i, pin=g) for g in range(2) for i in range(4)]
    alone = run_all(Engine(small.policy, small.params, TRUNKS), requests)
    pool = EnginePool(small.policy, small.params, TRUNKS, mesh=two)
    assert_same(run_all(pool, requests), alone)
    for engine in pool.engines:
        assert engine.stats()["prefill_tokens"] == 24 + 4 * 5
        assert len(engine._trunks.entries) == 1


def test_a_store_is_shared_by_the_engines(small, two):
    """What the first computes of a document the second finds."""
    store = PrefixStore("of one pool", 1 << 20)
    requests = [about(3, i, pin=i) for i in range(2)]
    alone = run_all(Engine(small.policy, small.params, TRUNKS), requests)
    pool = EnginePool(small.policy, small.params, TRUNKS, mesh=two, store=store)
    assert_same(run_all(pool, requests), alone)
    first, second = (engine.stats() for engine in pool.engines)
    assert (first["prefill_tokens"], first["stored_tokens"]) == (24 + 5, 0)
    assert (second["prefill_tokens"], second["stored_tokens"]) == (5, 24)
    assert pool.stats()["stored_tokens"] == 24


def test_one_program_is_compiled_for_all_groups(two, without_disk_cache):
    """The second engine loads what the first compiled: no engine lowers it again."""
    small = Small(
        max_position_embeddings=777
    )  # a policy that no other test has compiled
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    first, second = (engine._programs for engine in pool.engines)
    first.decode(64)
    second.lower_decode = lambda *sizes: 1 / 0
    second.lower_decode.__name__ = "lower_decode"
    program = second.decode(64)
    assert program.runtime_executable().local_devices() == [jax.devices()[6]]
    assert first.decode(64).runtime_executable().local_devices() == [jax.devices()[5]]
    # A jax that stores programs otherwise costs time alone.
    del second._compiled["decode", 64]
    for portable in second.portable.values():
        portable._load = lambda devices: 1 / 0
    with pytest.raises(ZeroDivisionError):  # it is lowered, and compiled, again
        second.decode(64)


def test_the_prefill_of_a_device_falls_with_the_number_of_engines(small, eight):
    """Eight prompts of 40 tokens: each engine computes its own, none another's."""
    prompts = [request(random_ids(i, 40), budget=2, pin=i) for i in range(8)]
    computed = {}
    for count in (1, 2, 8):
        mesh = make_mesh(MeshConfig(data=count))
        sampler = engine_pool.make(small.policy, small.params, PAIR, mesh=mesh)
        run_all(sampler, prompts)
        engines = getattr(sampler, "engines", [sampler])
        computed[count] = [e.stats()["prefill_tokens"] for e in engines]
    assert computed == {1: [8 * 39], 2: [4 * 39] * 2, 8: [39] * 8}


def test_what_make_makes(small):
    def made(config=PAIR, mesh=None):
        return engine_pool.make(small.policy, small.params, config, mesh=mesh)

    plain = made()
    assert type(plain) is Engine
    assert plain._mesh is None
    first = made(mesh=make_mesh())
    assert type(first) is Engine
    assert first._mesh is None  # the very same programs
    assert first._programs is plain._programs
    other = made(mesh=make_mesh(devices=jax.devices()[3:4]))
    assert type(other) is Engine
    assert list(other._mesh.devices.flat) == jax.devices()[3:4]
    group = made(SIZES, make_mesh(MeshConfig(fsdp=4)))
    assert type(group) is Engine
    assert group._mesh.shape["tensor"] == 4
    pool = made(SIZES, make_mesh(MeshConfig(fsdp=2, tensor=4)))
    assert [list(e._mesh.devices.flat) for e in pool.engines] == [
        jax.devices()[:4],
        jax.devices()[4:],
    ]
    assert pool.capacity == 4
    with pytest.raises(InputError, match="set a divisor"):
        made(dataclasses.replace(SIZES, tensor=8), make_mesh(MeshConfig(data=4)))


def test_nothing_runs_without_weights(small, two):
    pool = EnginePool(small.policy, small.params, PAIR, mesh=two)
    before = run_all(pool, groups(2))
    pool.submit(groups(1)[0])
    for call in (pool.free, pool.reset, lambda: pool.set_params(small.params)):
        with pytest.raises(RunError, match="while requests run"):
            call()
    pool.cancel()
    pool.free()
    assert pool.stats()["cache_bytes"] == 0
    pool.submit(groups(1)[0])
    with pytest.raises(RunError, match="weights were freed"):
        pool.step()
    pool.set_params(small.params)
    assert [c.logprobs for c in run_all(pool, groups(2))] == [
        c.logprobs for c in before
    ]
