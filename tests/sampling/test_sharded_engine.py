"""An engine on a tensor group of several devices, against the engine on one."""

import jax
import numpy as np
import pytest
from conftest import random_ids, request, run_all

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.planning.collectives import read_collectives
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.sampling.programs import Programs

SIZES = EngineConfig(slots=4, max_length=64, prefill_blocks=(32,), prefill_tokens=32)


@pytest.fixture(scope="module")
def pair():
    return make_mesh(MeshConfig(tensor=2))


@pytest.fixture(scope="module")
def planned():
    """Programs of a policy whose every axis divides by 4, and which is only planned."""
    policy = make_policy(
        PolicyConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=4,
            tie_word_embeddings=False,
        )
    )
    return policy, Programs(policy, SIZES, "float32", make_mesh(MeshConfig(tensor=4)))


@pytest.mark.parametrize("devices", [2, 8])
def test_a_tensor_group_changes_nothing(small, devices):
    """2 devices divide the 2 key heads. 8 do not, nor the 4 heads: each then has all.

    101 tokens divide by neither: each device has the whole head.
    """
    prefix = random_ids(0, 20)
    requests = [
        request(prefix, random_ids(i, 5), seed=i, budget=8, temperature=i % 2)
        for i in range(6)
    ]
    alone = run_all(Engine(small.policy, small.params, SIZES), requests)
    mesh = make_mesh(MeshConfig(tensor=devices))
    engine = Engine(small.policy, small.params, SIZES, mesh=mesh)
    spread = run_all(engine, requests)
    for one, many in zip(alone, spread):
        assert many.ids == one.ids
        assert many.shared_prompt_tokens == one.shared_prompt_tokens
        np.testing.assert_allclose(many.logprobs, one.logprobs, atol=2e-5)
    key = engine._slots.cache[0].keys
    heads = 1 if devices == 2 else 2
    assert {s.data.shape for s in key.addressable_shards} == {(4, heads, 64, 8)}


def test_slots_are_not_cut_over_devices(small):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with pytest.raises(InputError, match=r"not on \(2, 2, 2\): EnginePool has"):
        Engine(small.policy, small.params, SIZES, mesh=mesh)


def test_programs_are_planned_without_weights(small, pair):
    plan = Programs(small.policy, SIZES, "float32", pair)
    text = plan.lower_decode(64).as_text()
    assert "sharding" in text
    assert plan.compile_seconds == 0
    leaf = plan.params["layers"][0]["mlp"]["up"]["kernel"]
    assert leaf.shape == (48, 32)  # [out, in]: ffw over tensor, embed over 1
    assert tuple(leaf.sharding.spec) == ("tensor", "fsdp")
    assert isinstance(leaf, jax.ShapeDtypeStruct)


def test_a_copied_prefix_crosses_no_device(planned):
    _, programs = planned
    assert read_collectives(programs.lower_copy(64).compile().as_text()).total == 0


@pytest.mark.parametrize("tables", [(), (1, 16, 8, 4)])
def test_a_decode_step_gathers_logits_and_no_weights(planned, tables):
    """Of a step: [S, V] float32 once; sums of [S, D], two a layer and one before.

    Constrained rows send no more.
    """
    policy, programs = planned
    config, slots = policy.config, SIZES.slots
    found = read_collectives(programs.lower_decode(64, *tables).compile().as_text())
    logits = 4 * slots * config.vocab_size
    gathers = [item for item in found.items if item.kind == "all-gather"]
    assert [(item.bytes, item.dtype) for item in gathers] == [(logits, "f32")]
    sums = [item.bytes for item in found.items if item.kind == "all-reduce"]
    layers, width = config.num_hidden_layers, 4 * slots * config.hidden_size
    assert sum(sums) == (2 * layers + 1) * width
    assert {item.kind for item in found.items} == {"all-gather", "all-reduce"}


def test_a_prefill_sums_and_gathers_nothing(planned):
    policy, programs = planned
    found = read_collectives(programs.lower_prefill(1, 32, 64).compile().as_text())
    layers, width = policy.config.num_hidden_layers, policy.config.hidden_size
    # The embedding, and two sums a layer; of the last layer only keys are wanted.
    sums = 1 + 2 * (layers - 1)
    assert found.bytes_by_kind() == {"all-reduce": sums * 4 * 32 * width}
