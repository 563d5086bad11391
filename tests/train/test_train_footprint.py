"""The memory formula against arrays as they lie, and against the compiler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.footprint import size_text
from gru_mem_jax.train.footprint import (
    check_memory,
    describe_memory,
    memory_estimate,
    planned_engine,
)

POLICY = make_policy(
    PolicyConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
)
CONFIG = LearnerConfig(row_tokens=256, rows_per_device=2, length_buckets=1)


def held(tree):
    """Bytes on one device of abstract arrays with shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize(
    "lora",
    [None, LoraConfig(rank=4), LoraConfig(rank=4, layers=(-1,))],
    ids=["full", "lora", "last_layer"],
)
@pytest.mark.parametrize(
    "mesh", [MeshConfig(), MeshConfig(data=2, fsdp=2, tensor=2)], ids=["one", "eight"]
)
def test_params_and_optimiser_are_exact(mesh, lora):
    config = dataclasses.replace(CONFIG, lora=lora)
    state = compile_learner(
        POLICY, config=config, mesh=make_mesh(mesh)
    ).abstract_state()
    estimate = memory_estimate(POLICY, config, mesh)
    assert estimate["params"] == held(state.params)
    assert estimate["optimizer"] == held(state.opt_state)
    assert estimate["gradients"] == 2 * estimate["params"]


@pytest.mark.parametrize("row_tokens", [256, 16384])
def test_activations_are_within_a_factor_of_two_of_the_compiler(row_tokens):
    config = dataclasses.replace(CONFIG, row_tokens=row_tokens)
    learner = compile_learner(POLICY, ObjectiveConfig(), config)
    rows, state = learner.abstract_rows(row_tokens), learner.abstract_state()
    real, count = rows.advantages, jax.ShapeDtypeStruct((), jnp.float32)
    batch = Batch(rows, real, real, count)
    carry = jax.eval_shape(learner.begin)
    lowered = learner.accumulate.lower(state.params, {}, carry, batch)
    temporary = lowered.compile().memory_analysis().temp_size_in_bytes
    estimate = memory_estimate(POLICY, config, MeshConfig())
    names = ("layer_inputs", "one_layer", "scores", "logits")
    formula = sum(estimate[name] for name in names) + estimate["params"]
    assert formula / 2 < temporary < formula * 2


def test_splash_stores_masks():
    """Rows of 256 tokens are one block of 256: a mask as bool, and twice as int32."""
    config = dataclasses.replace(CONFIG, attention="splash")
    estimate = memory_estimate(POLICY, config, MeshConfig())
    assert estimate["scores"] == 2 * 256**2 * (1 + 4 + 4)


def test_a_7b_step_on_eight_and_on_64_devices():
    """Qwen2.5 7B: 7.6e9 numbers; by hand, in GiB, for weights cut over 8 devices."""
    policy = make_policy(
        PolicyConfig(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            tie_word_embeddings=False,
        )
    )
    options = {
        "engine": EngineConfig(slots=32, max_length=9216),
        "reference": True,
        "dtype": "bfloat16",
    }
    eight = memory_estimate(policy, LearnerConfig(), MeshConfig(fsdp=8), **options)
    gib = {name: size / 2**30 for name, size in eight.items()}
    assert gib["params"] == pytest.approx(7.616 / 8 * 4 / 1.0737, rel=0.01)
    assert gib["optimizer"] == pytest.approx(2 * gib["params"], rel=1e-3)
    assert gib["reference"] == pytest.approx(gib["params"] / 2, rel=1e-3)
    # 2 (keys, values) x 28 layers x 4 heads x 128 x 32 slots x 9216 x 2 bytes
    assert gib["sampler_cache"] == pytest.approx(15.75, rel=1e-3)
    assert 55 < gib["total"] < 65
    pod = memory_estimate(policy, LearnerConfig(), MeshConfig(fsdp=64), **options)
    assert pod["params"] * 8 == pytest.approx(eight["params"], rel=0.01)
    assert pod["one_layer"] == eight["one_layer"]
    text = describe_memory(eight)
    assert text.startswith("total 59.")
    assert "sampler_cache 15.8 GiB" in text


def test_what_options_add():
    base = memory_estimate(POLICY, CONFIG, MeshConfig())
    more = memory_estimate(POLICY, CONFIG, MeshConfig(), reference=True, behaviour=True)
    assert more["reference"] == more["behaviour"] == base["params"]
    assert more["total"] == base["total"] + 2 * base["params"]
    kept = dataclasses.replace(CONFIG, remat=False)
    assert memory_estimate(POLICY, kept, MeshConfig())["total"] > base["total"]
    lora = dataclasses.replace(CONFIG, lora=LoraConfig(rank=4))
    small = memory_estimate(POLICY, lora, MeshConfig(), reference=True)
    last = dataclasses.replace(CONFIG, lora=LoraConfig(rank=4, layers=(-1,)))
    least = memory_estimate(POLICY, last, MeshConfig(), reference=True)
    # Below the last layer there are neither adapters nor a backward pass.
    depth = POLICY.config.num_hidden_layers
    for name in ("params", "optimizer", "gradients", "layer_inputs"):
        assert least[name] == pytest.approx(small[name] / depth, rel=0.01)
    assert least["frozen"] == small["frozen"]
    assert least["compute_copy"] < small["compute_copy"]
    assert "reference" not in small  # it is what is frozen
    assert small["optimizer"] < base["optimizer"] / 5


def test_the_sampler_of_a_group_and_one_that_is_not_resident():
    """By hand: 2 N K H (S C) 4 / T of the cache, whole where T does not divide K."""
    engine = EngineConfig(slots=8, max_length=512, dtype="float32", tensor=2)

    def estimate(**changes):
        changed = dataclasses.replace(engine, **changes)
        return memory_estimate(POLICY, CONFIG, MeshConfig(fsdp=8), changed)

    whole = 2 * 3 * 2 * 16 * 8 * 512 * 4
    two = estimate()
    assert two["sampler_cache"] == whole / 2
    assert estimate(tensor=4)["sampler_cache"] == whole
    one = estimate(tensor=1)
    assert one["sampler_cache"] == whole
    assert one["sampler_params"] > two["sampler_params"] > one["sampler_params"] / 2
    assert one == estimate(tensor=None)
    # Gradients and activations of the update, or weights and cache of the sampler.
    for tensor in (1, 2):
        both, freed = estimate(tensor=tensor), estimate(tensor=tensor, resident=False)
        sampler = both["sampler_params"] + both["sampler_cache"]
        held = both["params"] + both["optimizer"]
        assert both["total"] == sum(both.values()) - both["total"]
        assert freed["total"] == max(both["total"] - sampler, held + sampler)
        assert freed["total"] < both["total"]


@pytest.mark.parametrize(
    ("share", "tensor"), [(1.0, 1), (0.999, 2), (0.0, 2)], ids=["1", "2", "none"]
)
def test_as_few_devices_as_hold_an_engine_beside_the_learner(share, tensor):
    """2 key heads: 4 devices would each hold the whole cache, so 2 hold the least."""
    mesh, devices = MeshConfig(fsdp=8), jax.devices()
    engine = EngineConfig(slots=8, max_length=4096, dtype="float32")

    def estimate(config):
        return memory_estimate(POLICY, CONFIG, mesh, config)

    limit = int(share * estimate(engine)["total"])
    planned = planned_engine(engine, devices, estimate, limit)
    assert planned == dataclasses.replace(engine, tensor=tensor)
    assert planned_engine(planned, [], estimate, 0) is planned
    alone = planned_engine(engine, devices, estimate, None)
    assert alone.tensor == 1  # memory is unknown


def test_what_can_never_fit_is_refused_and_what_may_not_is_doubted():
    engine = EngineConfig(slots=8, max_length=512)
    estimate = memory_estimate(
        POLICY, CONFIG, MeshConfig(), engine, reference=True, dtype="float32"
    )
    names = ("params", "optimizer", "reference", "sampler_params", "sampler_cache")
    held = sum(estimate[name] for name in names)
    assert check_memory(estimate, None) is None
    assert check_memory(estimate, estimate["total"]) is None
    doubt = check_memory(estimate, estimate["total"] - 1)
    assert doubt.startswith("memory by formula, total ")
    assert doubt.endswith("may not fit")
    assert check_memory(estimate, held) == doubt.replace(
        size_text(estimate["total"] - 1) + " that", size_text(held) + " that"
    )
    with pytest.raises(InputError, match=r"a device needs .* for params, optim"):
        check_memory(estimate, held - 1)
