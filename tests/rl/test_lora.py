"""Adapters: what they start as, what they add, what is trained, what others read."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch, host_count
from gru_mem_jax.rl.lora import (
    LoraConfig,
    abstract_adapters,
    adapter_axes,
    from_record,
    init_adapters,
    merge,
    save_adapters,
    to_record,
)
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.packing import Conversation, pack

POLICY = make_policy(
    PolicyConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
)
LORA = LoraConfig(rank=3, alpha=6.0, targets=("q", "v", "down"))


@pytest.fixture(scope="module")
def params():
    return POLICY.init(jax.random.key(0))


def trained_adapters(seed=5):
    adapters = init_adapters(POLICY, LORA)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(rng.normal(size=x.shape), np.float32), adapters
    )


def test_they_start_at_nothing(params):
    adapters = init_adapters(POLICY, LORA)
    assert set(adapters["layers"]["attn"]) == {"q", "v"}
    assert adapters["layers"]["mlp"]["down"]["a"].shape == (2, 24, 3)
    assert adapters["layers"]["mlp"]["down"]["b"].shape == (2, 3, 16)
    merged = merge(params, adapters, LORA)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    a = np.asarray(adapters["layers"]["attn"]["q"]["a"])
    assert 0.1 < a.std() * 4 < 3  # variance 1 / in = 1/16
    assert not np.array_equal(a[0], a[1])


def test_merged_kernels_by_hand(params):
    adapters = trained_adapters()
    merged = merge(params, adapters, LORA)
    for part, name in (("attn", "q"), ("attn", "v"), ("mlp", "down")):
        for layer in range(2):
            pair = adapters["layers"][part][name]
            product = pair["a"][layer].astype(np.float64) @ pair["b"][layer]
            want = params["layers"][part][name]["kernel"][layer] + 2.0 * product
            got = merged["layers"][part][name]["kernel"][layer]
            np.testing.assert_allclose(got, want, atol=1e-4)
    same = ("k", "o")
    for name in same:
        np.testing.assert_array_equal(
            merged["layers"]["attn"][name]["kernel"],
            params["layers"]["attn"][name]["kernel"],
        )
    np.testing.assert_array_equal(
        merged["layers"]["attn"]["q"]["bias"], params["layers"]["attn"]["q"]["bias"]
    )


def test_the_learner_trains_adapters_alone(params):
    """After one step from B = 0, only B has moved: A's gradient is 0 there."""
    config = LearnerConfig(
        learning_rate=0.1,
        warmup_steps=0,
        weight_decay=0.0,
        row_tokens=16,
        length_buckets=1,
        remat=False,
        lora=LORA,
    )
    learner = compile_learner(POLICY, ObjectiveConfig(beta=0.1), config)
    state, frozen = learner.init(params), learner.freeze(params)
    item = Conversation(
        index=(0, 0, 0),
        prompt_ids=(1, 2, 3),
        completion_ids=(4, 5),
        sampler_logprobs=(-3.0, -3.0),
        advantage=1.0,
    )
    batches = pack([item], learner.packing)
    before = learner.logprobs(learner.put(params), batches[0])
    carry = learner.begin()
    for rows in batches:
        carry = learner.accumulate(
            state.params,
            frozen,
            carry,
            Batch(rows, before.logprobs, before.logprobs, host_count(batches)),
        )
    start = jax.tree.map(np.asarray, state.params)
    state, _, report = learner.apply(state, carry)
    assert float(report.sums["kl"].total) == 0  # B = 0: still the reference
    for part, name in (("attn", "q"), ("attn", "v"), ("mlp", "down")):
        old, new = (s["layers"][part][name] for s in (start, state.params))
        np.testing.assert_array_equal(new["a"], old["a"])
        assert np.abs(new["b"]).max() > 0.01
    merged = learner.policy_params(state.params, frozen, jnp.float32)
    after = learner.logprobs(merged, batches[0])
    sampled = batches[0].completion_mask > 0
    gained = np.asarray(after.logprobs - before.logprobs)[sampled]
    assert gained.sum() > 0.1  # the advantage was positive
    np.testing.assert_array_equal(
        merged["ends"]["embedding"], params["ends"]["embedding"]
    )


def test_eight_devices_train_the_same_adapters(params):
    """Adapters that are not 0, and a KL to the policy without them."""
    rng = np.random.default_rng(7)
    items = [
        Conversation(
            index=(0, i, 0),
            prompt_ids=(1, 2, 3, *rng.integers(0, 32, 4).tolist()),
            completion_ids=tuple(rng.integers(0, 32, 5).tolist()),
            sampler_logprobs=(-3.0,) * 5,
            advantage=float(rng.normal()),
        )
        for i in range(8)
    ]
    carries = []
    for mesh, rows in ((MeshConfig(), 4), (MeshConfig(data=2, fsdp=2, tensor=2), 1)):
        config = LearnerConfig(
            row_tokens=32, length_buckets=1, rows_per_device=rows, lora=LORA
        )
        learner = compile_learner(
            POLICY, ObjectiveConfig(beta=0.1), config, make_mesh(mesh)
        )
        frozen, carry = learner.freeze(params), learner.begin()
        adapters = jax.device_put(trained_adapters(), learner.shardings.params)
        batches = pack(items, learner.packing)
        for rows in batches:
            ref = learner.logprobs(learner.put(params), rows).logprobs
            batch = Batch(rows, rows.sampler_logprobs, ref, host_count(batches))
            carry = learner.accumulate(adapters, frozen, carry, batch)
        carries.append(jax.tree.map(np.asarray, carry))
    one, eight = carries
    assert one.sums["kl"].total > 0.01
    np.testing.assert_allclose(
        eight.sums["loss"].total, one.sums["loss"].total, rtol=1e-5
    )
    scale = max(np.abs(x).max() for x in jax.tree.leaves(one.grads))
    for a, b in zip(jax.tree.leaves(eight.grads), jax.tree.leaves(one.grads)):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_adapters_are_cut_as_their_kernels():
    learner = compile_learner(
        POLICY,
        config=LearnerConfig(lora=LORA, row_tokens=16),
        mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)),
    )
    axes = adapter_axes(POLICY, LORA)["layers"]["attn"]["q"]
    assert axes == {"a": ("layers", "embed", "rank"), "b": ("layers", "rank", "heads")}
    abstract = learner.abstract_state()
    pair = abstract.params["layers"]["attn"]["q"]
    assert pair["a"].sharding.shard_shape((2, 16, 3)) == (2, 8, 3)
    assert pair["b"].sharding.shard_shape((2, 3, 16)) == (2, 3, 8)
    moment = abstract.opt_state[1][0].mu["layers"]["attn"]["q"]["b"]
    assert moment.sharding == pair["b"].sharding


def test_peft_layout(tmp_path, params):
    """W + alpha / r * (lora_B @ lora_A), with torch's [out, in] kernels."""
    adapters = trained_adapters()
    save_adapters(adapters, LORA, tmp_path, base="some/model")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 3
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6.0)
    assert config["target_modules"] == ["q_proj", "v_proj", "down_proj"]
    assert config["base_model_name_or_path"] == "some/model"
    merged = merge(params, adapters, LORA)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    a, b = (tensors[f"{name}{letter}.weight"] for letter in "AB")
    assert (a.shape, b.shape) == ((3, 24), (16, 3))
    kernel = np.asarray(params["layers"]["mlp"]["down"]["kernel"][1])
    scale = config["lora_alpha"] / config["r"]
    np.testing.assert_allclose(
        kernel.T + scale * b @ a,
        merged["layers"]["mlp"]["down"]["kernel"][1].T,
        atol=1e-4,
    )


def gradient(params, config, adapters, mesh=None):
    """Of adapters that are not 0, on one row; and the operations that it takes."""
    settings = LearnerConfig(
        row_tokens=16,
        length_buckets=1,
        rows_per_device=1 if mesh else 4,
        unroll_layers=2,
        remat=False,
        lora=config,
        compute_dtype="float32",
    )
    learner = compile_learner(POLICY, None, settings, mesh and make_mesh(mesh))
    items = [
        Conversation(
            index=(0, i, 0),
            prompt_ids=(1 + i, 2, 3),
            completion_ids=(4, 5 + i),
            sampler_logprobs=(-3.0, -3.0),
            advantage=1.0,
        )
        for i in range(4)
    ]
    (rows,) = pack(items, dataclasses.replace(learner.packing, share_prefixes=False))
    trained = jax.device_put(adapters, learner.shardings.params)
    batch = Batch(rows, None, None, np.float32(8))
    arguments = (trained, learner.freeze(params), learner.begin(), batch)
    compiled = learner.accumulate.lower(*arguments).compile()
    return jax.device_get(compiled(*arguments)), compiled.cost_analysis()["flops"]


def test_chosen_layers_have_the_gradient_of_all_and_no_backward_pass_below(params):
    """Adapters of the second of 2 layers, against those of both, the first ones 0."""
    whole, upper = LORA, dataclasses.replace(LORA, layers=(-1,))
    rng = np.random.default_rng(5)
    some = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32),
        abstract_adapters(POLICY, upper),
    )
    every = jax.tree.map(lambda x: np.concatenate([0 * x, x]), some)
    merged = merge(params, some, upper)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        merged,
        merge(params, every, whole),
    )
    for before, after in zip(
        *(jax.tree.leaves(tree["layers"]) for tree in (params, merged))
    ):
        np.testing.assert_array_equal(after[:1], before[:1])
    want, full = gradient(params, whole, every)
    got, less = gradient(params, upper, some)
    np.testing.assert_allclose(got.sums["loss"].total, want.sums["loss"].total)
    assert_same_upper(got, want)
    # Of 2 forward and 2 double backward passes, 1 backward one is not made.
    assert less < 0.8 * full
    spread, _ = gradient(params, upper, some, MeshConfig(data=2, fsdp=2, tensor=2))
    assert_same_upper(spread, want)


def assert_same_upper(got, want):
    scale = max(np.abs(x).max() for x in jax.tree.leaves(want.grads))
    for a, b in zip(jax.tree.leaves(got.grads), jax.tree.leaves(want.grads)):
        assert (len(a), len(b)) == (1, 2)
        np.testing.assert_allclose(a, b[1:], atol=1e-5 * scale)
        assert np.any(a)


def test_peft_layout_of_chosen_layers(tmp_path):
    config = dataclasses.replace(LORA, layers=(1,))
    adapters = jax.tree.map(np.asarray, init_adapters(POLICY, config))
    save_adapters(adapters, config, tmp_path)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert len(names) == 2 * 3
    assert all(".layers.1." in name for name in names)
    record = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (record["layers_to_transform"], record["layers_pattern"]) == ([1], "layers")
    with pytest.raises(InputError, match="numbers from 0"):
        save_adapters(adapters, dataclasses.replace(LORA, layers=(-1,)), tmp_path)


def test_records_of_checkpoints():
    """Those of all layers are those of earlier checkpoints, which knew no others."""
    for layers in (None, (0, 1), (-1, -2)):
        config = dataclasses.replace(LORA, layers=layers)
        record = json.loads(json.dumps(to_record(config, 2)))
        assert record == {
            "rank": 3,
            "alpha": 6.0,
            "targets": ["q", "v", "down"],
            "seed": 0,
        }
        assert from_record(record) == LORA
    record = to_record(dataclasses.replace(LORA, layers=(-1, 3)), 8)
    assert record["layers"] == [3, 7]
    assert from_record(record).layers == (3, 7)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((0, 2), "has layer 2, and the policy has 2: 0 to 1, or -2 to -1 from the end"),
        ((-3,), "has layer -3, and the policy has 2"),
        ((1, -1), "names layer 1 twice"),
    ],
)
def test_layers_that_the_policy_has_not(layers, says):
    with pytest.raises(InputError, match=says):
        abstract_adapters(POLICY, dataclasses.replace(LORA, layers=layers))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": ()}, "layers must be a tuple"),
        ({"layers": 2}, "layers must be a tuple of numbers of layers"),
        ({"layers": "last"}, "got 'last'"),
        ({"layers": (1.5,)}, "a layer of layers"),
        ({"rank": 0}, "rank must be from 1"),
        ({"targets": ("q", "qkv")}, "got 'qkv'"),
        ({"targets": "q"}, "targets must be names"),
        ({"alpha": -1}, "alpha must be a number"),
    ],
)
def test_refused(changes, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(LORA, **changes)
