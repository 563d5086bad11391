"""The learner against conversations one at a time, and against itself cut otherwise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch, host_count
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.packing import Conversation, pack, unpack

POLICY = make_policy(
    PolicyConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
)
OBJECTIVE = ObjectiveConfig(beta=0.1, dual_clip=1.5)
CONFIG = LearnerConfig(
    learning_rate=0.01,
    warmup_steps=0,
    clip_norm=0.5,
    row_tokens=40,
    rows_per_device=2,
    length_buckets=1,
    remat=False,
    logits_chunk=64,
)


def some_conversations(seed=0, number=12):
    """Four of a question, whose prompts begin with the same tokens: trees in a row."""
    rng = np.random.default_rng(seed)

    def ids(low, high):
        return tuple(rng.integers(0, 48, rng.integers(low, high)).tolist())

    result = []
    for i in range(number):
        if i % 4 == 0:
            front = ids(3, 9)
        completion = ids(1, 9)
        logprobs = tuple((-4 + 0.5 * rng.normal(size=len(completion))).tolist())
        result.append(
            Conversation(
                index=(i // 4, i // 2 % 2, i % 2),
                prompt_ids=front + ids(1, 12),
                completion_ids=completion,
                sampler_logprobs=logprobs,
                advantage=float(rng.normal()),
            )
        )
    return result


@pytest.fixture(scope="module")
def params():
    return POLICY.init(jax.random.key(0))


@pytest.fixture(scope="module")
def reference(params):
    """Another policy near the one that is trained."""
    noise = POLICY.init(jax.random.key(1))
    return jax.tree.map(lambda x, n: x + 0.03 * n, params, noise)


@pytest.fixture(scope="module")
def base():
    return compile_learner(POLICY, OBJECTIVE, CONFIG)


def gradients(learner, params, reference, conversations):
    """Sum over all micro-batches; old logprobs are the sampler's, to be off-policy."""
    batches = pack(conversations, learner.packing)
    count = host_count(batches)
    trained = learner.init(params).params
    frozen, carry = learner.freeze(params), learner.begin()
    for rows in batches:
        ref = learner.logprobs(learner.put(reference), rows).logprobs
        carry = learner.accumulate(
            trained, frozen, carry, Batch(rows, rows.sampler_logprobs, ref, count)
        )
    return carry


def reference_logprobs(learner, reference, conversations):
    """Of each conversation's sampled tokens, one after the other."""
    batches = pack(conversations, learner.packing)
    placed = learner.put(reference)
    values = [learner.logprobs(placed, rows).logprobs for rows in batches]
    return np.concatenate(unpack(values, batches, len(conversations)))


def naive_gradients(params, reference, conversations):
    """The objective written out for one conversation at a time, all logits at once."""
    total = sum(len(item.completion_ids) for item in conversations)
    longest = max(len(item) for item in conversations)
    positions = jnp.arange(longest)[None]

    def logprobs(params, ids):
        every = jax.nn.log_softmax(POLICY.apply(params, ids, positions)[0, :-1])
        return jnp.take_along_axis(every, ids[0, 1:, None], axis=1)[:, 0]

    def loss(params, ids, sampled, old, advantage):
        new = logprobs(params, ids)
        ratio = jnp.exp(new - old)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
        gain = jnp.where(advantage < 0, jnp.maximum(gain, 1.5 * advantage), gain)
        drift = logprobs(reference, ids) - new
        kl = jnp.exp(drift) - 1 - drift
        return jnp.sum(jnp.where(sampled, 0.1 * kl - gain, 0)) / total

    gradient = jax.jit(jax.grad(loss))

    def of(item):
        # What follows a conversation is not seen by it: padding is any token.
        ids = np.zeros((1, longest), np.int32)
        ids[0, : len(item)] = item.prompt_ids + item.completion_ids
        start, end = len(item.prompt_ids) - 1, len(item) - 1
        old = np.zeros(longest - 1, np.float32)
        old[start:end] = item.sampler_logprobs
        sampled = np.arange(longest - 1)
        sampled = (sampled >= start) & (sampled < end)
        return gradient(params, ids, sampled, old, item.advantage)

    return jax.tree.map(
        lambda *x: np.sum(np.asarray(x, np.float64), axis=0), *map(of, conversations)
    )


def assert_close(got, want, rtol=1e-5):
    """Relative to the largest entry of the whole tree."""
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=rtol * scale)


@pytest.fixture(scope="module")
def base_carry(base, params, reference):
    return gradients(base, params, reference, some_conversations())


def test_packed_gradient_is_that_of_one_conversation_at_a_time(
    base_carry, params, reference
):
    want = naive_gradients(params, reference, some_conversations())
    assert_close(base_carry.grads, want)
    clipped = base_carry.sums["clip_low"].total + base_carry.sums["clip_high"].total
    assert 0 < clipped < base_carry.sums["loss"].count  # both branches were compared
    assert base_carry.sums["kl"].total > 0.01


@pytest.mark.parametrize(
    ("changes", "mesh"),
    [
        ({"rows_per_device": 1, "remat": True, "logits_chunk": 3}, None),
        ({"rows_per_device": 1}, MeshConfig(data=2, fsdp=2, tensor=2)),
        ({"rows_per_device": 1, "logits_chunk": 3}, MeshConfig(data=8)),
        ({"rows_per_device": 1, "remat": True, "logits_chunk": 3}, MeshConfig(fsdp=8)),
        # Neither 4 query heads nor 2 key heads: attention is whole on each device.
        ({"logits_chunk": 3}, MeshConfig(tensor=8)),
    ],
    ids=["single_rows_remat_small_blocks", "2,2,2", "8,1,1", "1,8,1", "1,1,8"],
)
def test_cutting_and_spreading_change_rounding_only(
    changes, mesh, base, params, reference, base_carry
):
    config = dataclasses.replace(CONFIG, **changes)
    learner = compile_learner(POLICY, OBJECTIVE, config, mesh and make_mesh(mesh))
    carry = gradients(learner, params, reference, some_conversations())
    assert_close(carry.grads, base_carry.grads)
    got, want = (
        reference_logprobs(each, reference, some_conversations())
        for each in (learner, base)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    for name, item in base_carry.sums.items():
        other = carry.sums[name]
        assert float(other.count) == float(item.count)
        np.testing.assert_allclose(other.total, item.total, rtol=1e-5, atol=1e-4)
    if mesh == MeshConfig(data=2, fsdp=2, tensor=2):
        kernel = carry.grads["layers"]["mlp"]["up"]["kernel"]
        assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
        assert kernel.addressable_shards[0].data.shape == (2, 8, 12)
        state = learner.init(params)
        moment = state.opt_state[1][0].mu["layers"]["mlp"]["up"]["kernel"]
        assert moment.sharding == kernel.sharding
        state, _, report = learner.apply(state, carry)
        fresh = jax.tree.map(jnp.array, base_carry)
        want, _, _ = base.apply(base.init(params), fresh)
        assert_close(state.params, want.params, rtol=1e-4)
        assert bool(report.taken)


def test_apply_is_clipped_adamw(base, params, base_carry):
    """First step from zero moments: each entry moves by lr g / (|g| + eps')."""
    carry = jax.tree.map(jnp.array, base_carry)
    grads = jax.tree.map(np.asarray, carry.grads)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    assert norm > CONFIG.clip_norm
    state, carry, report = base.apply(base.init(params), carry)
    np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-5)
    assert float(report.learning_rate) == pytest.approx(0.01)
    assert (int(state.step), int(state.skipped)) == (1, 0)
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(carry))

    def moved(path, w, g):
        g = g * CONFIG.clip_norm / norm
        decay = 0.0 if path[-1].key in ("scale", "bias") else CONFIG.weight_decay
        return w - 0.01 * (g / (np.abs(g) + CONFIG.eps) + decay * w)

    want = jax.tree_util.tree_map_with_path(
        moved, jax.tree.map(np.asarray, params), grads
    )
    for got, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(want)):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_steps_that_are_not_finite_are_skipped(base, params):
    def poisoned(value):
        carry = base.begin()
        carry.grads["ends"]["embedding"] = (
            carry.grads["ends"]["embedding"].at[3].set(value)
        )
        return carry

    state = base.init(params)
    for value, skipped, in_a_row in (
        (np.nan, 1, 1),
        (np.inf, 2, 2),
        (0.1, 2, 0),
        (-np.inf, 3, 1),
    ):
        before = jax.tree.map(np.asarray, (state.params, state.opt_state))
        state, _, report = base.apply(state, poisoned(value))
        taken = np.isfinite(value)
        assert bool(report.taken) == taken
        assert (int(state.skipped), int(state.skipped_in_a_row)) == (skipped, in_a_row)
        after = jax.tree.map(np.asarray, (state.params, state.opt_state))
        if not taken:
            jax.tree.map(np.testing.assert_array_equal, before, after)
    assert int(state.step) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


def test_the_state_shares_nothing_with_what_it_was_made_of(base, params):
    """apply donates the state: the caller's arrays, and the sampler's, must live on."""
    state = base.init(params)
    sampler = base.policy_params(state.params, base.freeze(params), jnp.float32)
    base.apply(state, base.begin())
    assert np.isfinite(np.asarray(params["ends"]["embedding"])).all()
    np.testing.assert_array_equal(
        sampler["ends"]["embedding"], params["ends"]["embedding"]
    )


def test_scores_report_the_gap_to_the_sampler(base, params):
    (rows, *_) = pack(some_conversations(number=3), base.packing)
    score = base.logprobs(params, rows)
    inside = rows.completion_mask > 0
    gap = np.abs(np.asarray(score.logprobs) - rows.sampler_logprobs)[inside]
    assert float(score.gap.mean()) == pytest.approx(gap.mean(), rel=1e-5)
    assert float(score.largest_gap) == pytest.approx(gap.max(), rel=1e-5)
    exact = dataclasses.replace(rows, sampler_logprobs=np.asarray(score.logprobs))
    assert float(base.logprobs(params, exact).largest_gap) == 0


def test_on_policy_the_old_logprobs_come_along(base, params, reference):
    """None for the old logprobs is what `logprobs` says of the same params."""
    batches = pack(some_conversations(), base.packing)
    assert len(batches) > 1
    trained, frozen = base.init(params).params, base.freeze(params)
    scores = [base.logprobs(params, rows) for rows in batches]
    carries = []
    for olds in ([score.logprobs for score in scores], [None] * len(batches)):
        carry = base.begin()
        for rows, old in zip(batches, olds, strict=True):
            ref = base.logprobs(base.put(reference), rows).logprobs
            carry = base.accumulate(
                trained, frozen, carry, Batch(rows, old, ref, host_count(batches))
            )
        carries.append(carry)
    given, own = carries
    assert_close(own.grads, given.grads)
    assert float(own.sums["ratio"].total) == float(own.sums["ratio"].count)
    assert float(own.sums["clip_low"].total + own.sums["clip_high"].total) == 0
    for carry in carries:
        gap = sum((score.gap for score in scores[1:]), start=scores[0].gap)
        assert carry.gap.value() == pytest.approx(gap.value(), rel=1e-5)
        largest = max(float(score.largest_gap) for score in scores)
        assert float(carry.largest_gap) == pytest.approx(largest, rel=1e-5)


def test_supervised_gradients_are_those_of_the_mean_nll(params):
    """No objective: the negative log-likelihood; DAPO's on policy at advantage 1."""
    conversations = [
        dataclasses.replace(item, advantage=1.0) for item in some_conversations()
    ]
    supervised = compile_learner(POLICY, None, CONFIG)
    dapo = compile_learner(POLICY, ObjectiveConfig(beta=0), CONFIG)
    carries = []
    for learner in (supervised, dapo):
        batches = pack(conversations, learner.packing)
        trained, frozen = learner.init(params).params, learner.freeze(params)
        carry = learner.begin()
        for rows in batches:
            batch = Batch(rows, None, None, host_count(batches))
            carry = learner.accumulate(trained, frozen, carry, batch)
        carries.append(carry)
    total = 0.0
    for item in conversations:
        ids = jnp.asarray(item.prompt_ids + item.completion_ids)[None]
        logits = POLICY.apply(params, ids, jnp.arange(ids.shape[1])[None])[0]
        every = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)), np.float64)
        first = len(item.prompt_ids)
        for at, token in enumerate(item.completion_ids, first):
            total -= every[at - 1, token]
    assert float(carries[0].sums["loss"].total) == pytest.approx(total, rel=1e-5)
    assert_close(carries[0].grads, carries[1].grads)


def test_predicted_tokens_are_the_argmax(params):
    learner = compile_learner(POLICY, None, CONFIG)
    (rows, *_) = pack(some_conversations(number=3), learner.packing)
    right = np.asarray(learner.predicted(params, rows))
    for b in range(rows.tokens.shape[0]):
        for end in np.flatnonzero(np.diff(rows.conversation[b], append=-1)):
            where = np.flatnonzero(rows.reach[b, : end + 1] > end)
            ids = jnp.asarray(rows.tokens[b, where])[None]
            logits = POLICY.apply(params, ids, jnp.arange(len(where))[None])[0]
            best = np.asarray(jnp.argmax(logits, -1))[:-1] == np.asarray(ids)[0, 1:]
            sampled = rows.completion_mask[b, where] > 0
            np.testing.assert_array_equal(right[b, where][1:], best & sampled[1:])
    assert not right[rows.completion_mask == 0].any()


def test_programs_lower_without_weights_for_a_mesh(base):
    learner = compile_learner(
        POLICY, OBJECTIVE, CONFIG, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    )
    rows, state = learner.abstract_rows(40), learner.abstract_state()
    assert rows.tokens.shape == (2 * 4, 40)
    carry = jax.eval_shape(learner.begin)
    real, count = rows.advantages, jax.ShapeDtypeStruct((), jnp.float32)
    learner.score.lower(learner.abstract_params(), rows, None)
    batch = Batch(rows, real, real, count)
    learner.accumulate.lower(state.params, {}, carry, batch)
    lowered = learner.apply.lower(state, carry)
    assert "sdy.mesh" in lowered.as_text()
    kernel = state.opt_state[1][0].nu["layers"]["attn"]["o"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "tensor", "fsdp")
    assert state.opt_state[1][0].count.sharding.is_fully_replicated


def test_any_optax_factory(params):
    config = dataclasses.replace(CONFIG, optimizer=optax.sgd, clip_norm=None)
    learner = compile_learner(POLICY, ObjectiveConfig(beta=0), config)
    carry = learner.begin()
    assert "kl" not in carry.sums
    carry.grads["ends"]["embedding"] = carry.grads["ends"]["embedding"] + 2.0
    state, _, _ = learner.apply(learner.init(params), carry)
    np.testing.assert_allclose(
        state.params["ends"]["embedding"],
        np.asarray(params["ends"]["embedding"]) - 0.02,
        rtol=1e-5,
    )
    abstract = compile_learner(
        POLICY, OBJECTIVE, dataclasses.replace(CONFIG, optimizer=optax.adafactor)
    ).abstract_state()
    assert all(leaf.sharding is not None for leaf in jax.tree.leaves(abstract))


def test_greedy_rollouts_cannot_be_learned_from():
    with pytest.raises(InputError, match="temperature 0"):
        compile_learner(POLICY, OBJECTIVE, CONFIG, temperature=0)
