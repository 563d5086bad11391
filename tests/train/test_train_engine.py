"""The sampler of a run: memory that it holds, and what a run learns with it."""

import gc
import json

import jax
import numpy as np
import pytest
from train_settings import changed, make_policy_dir, of_policy, quick_settings

from gru_mem_jax.agent.requests import Request, Segment
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh, param_shardings
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.footprint import cache_bytes, weight_bytes
from gru_mem_jax.train.engine import HeldEngine
from gru_mem_jax.train.plan import plan
from gru_mem_jax.train.run import train

POLICY = make_policy(
    PolicyConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
)


def live_bytes():
    """Of the buffers of all arrays; a view has no bytes of its own."""
    gc.collect()
    held = {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            held[shard.device.id, shard.data.unsafe_buffer_pointer()] = (
                shard.data.nbytes
            )
    return sum(held.values())


def held_engine(resident, tensor=2, devices=4):
    config = EngineConfig(
        slots=2,
        max_length=64,
        prefill_blocks=(32,),
        dtype="float32",
        tensor=tensor,
        resident=resident,
    )
    mesh = make_mesh(MeshConfig(fsdp=devices))
    at = param_shardings(mesh, POLICY.logical_axes(), POLICY.abstract_params())
    params = jax.device_put(jax.tree.map(np.array, POLICY.init(jax.random.key(0))), at)
    return HeldEngine(POLICY, config, None, mesh), config, params


def sampled(engine):
    requests = [
        Request(
            prompt=(Segment("chunk", tuple(range(i, i + 20))),),
            max_new_tokens=6,
            stop_ids=(),
            seed=i,
            pin=i,
        )
        for i in range(4)
    ]
    handles = [engine.submit(request) for request in requests]
    done = {}
    while ended := engine.step():
        done.update(ended)
    return [(done[h].ids, done[h].logprobs) for h in handles]


@pytest.mark.parametrize("resident", [True, False])
def test_what_is_held_between_rollouts_and_updates(resident):
    held, config, params = held_engine(resident)
    whole = 4 * (
        weight_bytes(POLICY, "float32", 2)
        + cache_bytes(POLICY.config, config, "float32", 2)
    )
    before = live_bytes()
    first = None
    for _ in range(3):
        engine = held(held.place(params))
        assert live_bytes() - before == whole
        result = sampled(engine)
        first = first or result
        assert result == first  # to the last bit
        del engine
        held.release()
        assert live_bytes() - before == (whole if resident else 0)


def test_old_weights_are_freed_before_new_ones_come(monkeypatch):
    held, _, params = held_engine(resident=True)
    held(held.place(params))
    full = live_bytes()
    seen = []
    from gru_mem_jax.train import engine as module

    hand_over = module.hand_over

    def looking(*arguments):
        seen.append(live_bytes())
        return hand_over(*arguments)

    monkeypatch.setattr(module, "hand_over", looking)
    laid = held.place(params)
    assert seen == [full - 4 * weight_bytes(POLICY, "float32", 2)]
    held(laid)
    del laid
    assert live_bytes() == full


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    return make_policy_dir(tmp_path_factory.mktemp("engine"))


def rows_of(folder):
    """The columns of each step that do not tell the time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: x for name, x in json.loads(line).items() if not is_time(name)}
        for line in lines
    ]


def test_a_run_with_engines_that_are_freed_learns_the_same(policy_dir, tmp_path):
    """On (1, 2, 2) devices, with two engines of two."""
    rows = {}
    for resident in (True, False):
        settings = changed(
            of_policy(quick_settings(num_steps=2, eval_every=0), policy_dir),
            mesh={"fsdp": 2, "tensor": 2},
            engine={"tensor": 2, "resident": resident},
            learner={"rows_per_device": 1},
        )
        train(settings, tmp_path / str(resident), quiet=True)
        rows[resident] = rows_of(tmp_path / str(resident))
    assert len(rows[True]) == 2
    assert rows[False] == rows[True]
    for row in rows[True]:
        assert row["logprob_gap"] < 1e-5  # the engines have the learner's weights


def test_engines_that_cannot_be_freed_or_placed_are_refused(policy_dir):
    settings = of_policy(quick_settings(), policy_dir)
    directory = open_policy_dir(policy_dir)
    freed = changed(settings, engine={"resident": False}, rollouts={"overlap": True})
    with pytest.raises(InputError, match="overlap samples while the policy is upd"):
        plan(freed, directory)
    with pytest.raises(InputError, match=r"tensor is 2, .* they have 1 devices each"):
        plan(changed(settings, engine={"tensor": 2}), directory)
    spread = changed(settings, mesh={"data": 4}, engine={"slots": 5})
    planned = plan(spread, directory)
    assert planned.engine.tensor == 1
    assert any("5 slots of each of 4 engines idle" in note for note in planned.notes)
