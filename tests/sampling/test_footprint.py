"""The engine's memory by formula, against arrays, and what no machine holds."""

import dataclasses
import types

import jax
import pytest

from gru_mem_jax import machine
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, device_memory, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.sampling import footprint
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def total(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("more", [{}, {"head_dim": 16}], ids=["plain", "head_dim"])
def test_the_formula_is_what_there_is(more, dtype):
    policy = make_policy(PolicyConfig(**SIZES, **more))
    config = EngineConfig(slots=3, max_length=40)
    cache = jax.eval_shape(lambda: policy.init_cache(3, 40, dtype))
    assert footprint.cache_bytes(policy.config, config, dtype) == total(cache)
    params = policy.abstract_params(dtype)
    assert footprint.weight_bytes(policy, dtype) == total(params)


def test_trunks_by_the_formula_and_in_an_engine():
    policy = make_policy(PolicyConfig(**SIZES))
    config = EngineConfig(
        slots=3, max_length=40, trunks=2, tail_length=12, dtype="float32"
    )
    assert config.pool_lengths == (28, 12)
    expected = 2 * 3 * 2 * 8 * (3 * 12 + 2 * 28) * 4
    assert footprint.cache_bytes(policy.config, config, "float32") == expected
    engine = Engine(policy, policy.init(jax.random.key(0)), config)
    assert engine.stats()["cache_bytes"] == expected


def test_three_times_the_slots_in_the_memory_of_the_papers_run():
    """gin/hardware/qwen2_5_7b_8x80gb.gin: 24 slots of 9216 positions are 11.8 GiB."""
    shape = PolicyConfig(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    plain = EngineConfig(slots=24, max_length=9216)
    before = footprint.cache_bytes(shape, plain, "bfloat16")
    assert before == 57344 * 24 * 9216
    # 1024 of memory, 1024 of completion, 256 of template and control tokens behind.
    config = EngineConfig(slots=72, max_length=9216, trunks=8, tail_length=2304)
    assert config.pool_lengths == (6912, 2304)
    assert footprint.cache_bytes(shape, config, "bfloat16") <= before


@pytest.fixture
def memory_of(monkeypatch):
    def of(size):
        monkeypatch.setattr(footprint, "device_memory", lambda device: size)

    return of


def test_an_engine_is_refused_before_anything_is_made(memory_of, monkeypatch):
    policy = make_policy(PolicyConfig(**SIZES))
    monkeypatch.setattr(Engine, "set_params", lambda self, params: None)
    config = EngineConfig(slots=4, max_length=1000, dtype="float32")
    cache = 2 * 3 * 2 * 8 * 4 * 1000 * 4
    weights = footprint.weight_bytes(policy, "float32")
    memory_of(weights + cache)
    Engine(policy, None, config)
    memory_of(weights + cache - 1)
    with pytest.raises(InputError) as caught:
        Engine(policy, None, config)
    assert "(2 x 3 layers x 2 heads x 8 x 4 slots x 1000 tokens x 4 bytes)" in str(
        caught.value
    )
    assert str(caught.value).endswith("that max_length is for")
    trunks = dataclasses.replace(config, trunks=2, tail_length=300)
    memory_of(weights)
    with pytest.raises(InputError) as caught:
        Engine(policy, None, trunks)
    assert "x (4 slots x 300 tokens + 2 trunks x 700 tokens) x 4" in str(caught.value)
    memory_of(weights - 1)
    with pytest.raises(InputError, match="take a smaller policy, a narrower dtype"):
        Engine(policy, None, config)
    memory_of(None)  # unknown: whoever tries will see
    Engine(policy, None, config)


def test_bytes_on_a_device_of_a_group_are_those_of_the_arrays(memory_of):
    policy = make_policy(PolicyConfig(**SIZES))
    config = EngineConfig(
        slots=4, max_length=64, dtype="float32", trunks=2, trunk_length=40
    )
    for tensor in (2, 4):  # 2 key heads do not divide by 4
        mesh = make_mesh(MeshConfig(tensor=tensor))
        engine = Engine(policy, policy.init(jax.random.key(0)), config, mesh=mesh)
        weights = footprint.weight_bytes(policy, "float32", tensor)
        cache = footprint.cache_bytes(policy.config, config, "float32", tensor)
        assert weights == on_a_device(engine._params)
        pools = (engine._slots.cache, engine._trunks.pool.cache)
        assert cache == on_a_device(pools)


def on_a_device(arrays):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(arrays))


def fake(count, platform="gpu"):
    return [types.SimpleNamespace(platform=platform, process_index=0)] * count


def test_each_device_of_an_accelerator_has_memory_and_those_of_a_cpu_share_it(
    memory_of,
):
    policy = make_policy(PolicyConfig(**SIZES))
    config = EngineConfig(slots=4, max_length=1000, dtype="float32")
    need = footprint.weight_bytes(policy, "float32", 2)
    need += footprint.cache_bytes(policy.config, config, "float32", 2)
    memory_of(need)
    footprint.check_engine_fits(policy, config, devices=fake(2))
    footprint.check_engine_fits(policy, config, devices=fake(8), tensor=2)
    with pytest.raises(InputError, match=r"keys and values .*, split over 2 devices"):
        footprint.check_engine_fits(policy, config, devices=fake(2, "cpu"))
    memory_of(2 * need)
    footprint.check_engine_fits(policy, config, devices=fake(2, "cpu"))
    with pytest.raises(InputError, match="on each device"):
        footprint.check_engine_fits(policy, config, devices=fake(8, "cpu"), tensor=2)


def test_an_engine_has_as_few_devices_as_hold_it(memory_of):
    policy = make_policy(PolicyConfig(**SIZES | {"num_key_value_heads": 4}))
    config = EngineConfig(slots=4, max_length=1000, dtype="float32")

    def need(tensor):
        weights = footprint.weight_bytes(policy, "float32", tensor)
        return weights + footprint.cache_bytes(policy.config, config, "float32", tensor)

    def chosen(memory, devices):
        memory_of(memory)
        return footprint.with_tensor(policy, config, devices).tensor

    assert need(1) > need(2) > need(4)
    assert need(8) > need(4)  # 8 do not divide the heads: each has the whole cache
    assert chosen(None, fake(8)) == 1
    assert chosen(need(1), fake(8)) == 1
    assert chosen(need(1) - 1, fake(8)) == 2
    assert chosen(need(2) - 1, fake(8)) == 4
    assert chosen(1, fake(8)) == 4  # it will be refused
    assert chosen(1, fake(6)) == 2  # 4 do not divide 6
    assert chosen(8 * need(1), fake(8, "cpu")) == 1
    assert chosen(8 * need(1) - 1, fake(8, "cpu")) == 2
    # Two processes of 4: a group is of one process.
    other = types.SimpleNamespace(platform="gpu", process_index=1)
    assert chosen(1, [*fake(4), *[other] * 4]) == 4
    given = dataclasses.replace(config, tensor=2)
    assert footprint.with_tensor(policy, given, fake(8)) is given


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (12, "12 B"),
        (1536, "1.5 KiB"),
        (3 << 29, "1.5 GiB"),
        (3 << 20, "3.0 MiB"),
        (5 << 40, "5.0 TiB"),
    ],
)
def test_sizes_for_readers(size, text):
    assert footprint.size_text(size) == text


class Device:
    platform = "gpu"

    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


def test_what_devices_say_of_their_memory(tmp_path, monkeypatch):
    assert device_memory(Device({"bytes_limit": 5})) == 5
    for stats in (None, {}, {"bytes_limit": 0}, NotImplementedError()):
        assert device_memory(Device(stats)) is None
    assert device_memory(Device(jax.errors.JaxRuntimeError("no"))) is None
    whole = device_memory()
    assert whole > 1 << 28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CONTAINER_LIMITS", (limit, tmp_path / "none"))
    for text, expected in (("max\n", whole), ("123456\n", 123456), (str(2**63), whole)):
        limit.write_text(text)
        found = device_memory()
        assert found == expected if expected < whole else found >= whole


def test_a_limit_of_a_group_above_this_process_counts(tmp_path, monkeypatch):
    """A batch system gives a job a group of its own, in one that may have less."""
    whole = machine.memory()
    v2, v1 = tmp_path / "memory.max", tmp_path / "v1" / "memory.limit_in_bytes"
    groups = tmp_path / "cgroup"
    monkeypatch.setattr(machine, "_CONTAINER_LIMITS", (str(v2), str(v1)))
    monkeypatch.setattr(machine, "_OWN_GROUPS", str(groups))
    assert machine.memory() == whole  # nothing is there
    groups.write_text("4:memory:/job/7\n3:cpuset:/job/8\n0::/slice/user.slice\n")
    assert machine.memory() == whole
    for folder, name, size in (
        ("v1/job/8", v1.name, 1),  # of another controller
        ("slice/user.slice", v2.name, "max"),
        ("slice", v2.name, 300),
        ("v1/job/7", v1.name, 200),
        ("v1/job", v1.name, 100),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(f"{size}\n")
        expected = whole if size in (1, "max") else size
        assert machine.memory() == expected
    groups.write_text("no such line\n")
    assert machine.memory() == whole


def test_slots_that_nobody_has_set_are_what_the_memory_is_for(memory_of):
    policy = make_policy(PolicyConfig(**SIZES))
    config = EngineConfig(max_length=1000, dtype="float32", tensor=1)
    assert config.slots == 32
    one = footprint.cache_bytes(
        policy.config, dataclasses.replace(config, slots=1), "float32"
    )
    assert one == 2 * 3 * 2 * 8 * 1000 * 4
    weights = footprint.weight_bytes(policy, "float32")

    def slots(memory, platform="cpu", count=1, of=config):
        memory_of(memory)
        return footprint.with_fitting_slots(policy, of, fake(count, platform)).slots

    assert slots(None) == 32
    assert slots(4 * 32 * one) == 32
    assert slots(4 * 32 * one - 4) == 16
    assert slots(4 * 32 * one, count=2) == 16  # of one memory
    assert slots(4 * 5 * one) == 4
    assert slots(one) == 1  # it will be refused
    assert slots(4 * 5 * one, of=dataclasses.replace(config, slots=31)) == 31
    # The memory of an accelerator is the engine's own.
    assert slots(weights + 32 * one, "gpu") == 32
    assert slots(weights + 32 * one - 1, "gpu") == 16
    assert slots(weights + 8 * one, "gpu", count=4) == 8


def test_a_large_cache_is_told(memory_of):
    policy = make_policy(PolicyConfig(**SIZES))
    config = EngineConfig(slots=32, max_length=8320, dtype="float32", tensor=1)
    cache = 2 * 3 * 2 * 8 * 32 * 8320 * 4
    assert footprint.size_text(cache) == "97.5 MiB"
    weights = footprint.size_text(footprint.weight_bytes(policy, "float32"))
    memory_of(4 * cache)
    assert footprint.size_note(policy, config, fake(1, "cpu")) == (
        f"weights {weights}, cache 97.5 MiB of 390.0 MiB of memory: 32 slots of 8320 "
        "tokens"
    )
    line = footprint.size_note(policy, config, fake(2))
    assert "390.0 MiB of memory of each device: 32 slots" in line
    memory_of(4 * cache + 4)
    assert footprint.size_note(policy, config, fake(1, "cpu")) is None
    memory_of(None)
    assert footprint.size_note(policy, config, fake(1)) is None


def test_a_length_that_nobody_has_set_is_what_is_needed():
    config = EngineConfig()
    assert config.sized_for(100).max_length == 128
    assert config.sized_for(100_000).max_length == 100_032
    assert EngineConfig(max_length=512).sized_for(100).max_length == 128
    assert EngineConfig(max_length=512).sized_for(100_000).max_length == 512
