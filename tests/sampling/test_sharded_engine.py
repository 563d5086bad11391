"""The engine on a mesh of eight devices, against the engine on one."""

import jax
import numpy as np
import pytest
from conftest import random_ids, request, run_all

from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.sampling.programs import Programs

SIZES = EngineConfig(slots=4, max_length=64, prefill_blocks=(32,), prefill_tokens=32)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_a_mesh_changes_nothing(small, mesh):
    prefix = random_ids(0, 20)
    requests = [
        request(prefix, random_ids(i, 5), seed=i, budget=8, temperature=i % 2)
        for i in range(6)
    ]
    alone = run_all(Engine(small.policy, small.params, SIZES), requests)
    engine = Engine(small.policy, small.params, SIZES, mesh=mesh)
    spread = run_all(engine, requests)
    for one, many in zip(alone, spread):
        assert many.ids == one.ids
        assert many.shared_prompt_tokens == one.shared_prompt_tokens
        np.testing.assert_allclose(many.logprobs, one.logprobs, atol=2e-5)
    key = engine._slots.cache[0].keys
    assert {s.data.shape for s in key.addressable_shards} == {(1, 1, 64, 8)}


def test_programs_are_planned_without_weights(small, mesh):
    plan = Programs(small.policy, SIZES, "float32", mesh)
    text = plan.lower_decode(64).as_text()
    assert "sharding" in text
    assert plan.compile_seconds == 0
    leaf = plan.params["layers"][0]["mlp"]["up"]["kernel"]
    assert leaf.shape == (48, 32)  # [out, in]: ffw over tensor, embed over fsdp
    assert tuple(leaf.sharding.spec) == ("tensor", "fsdp")
    assert isinstance(leaf, jax.ShapeDtypeStruct)
