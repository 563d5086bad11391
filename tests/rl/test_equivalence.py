"""One loss and one gradient, however the same conversations are laid out.

A tiny policy learns from twelve conversations with the whole objective: KL to another
policy, old logprobs of a third. Packed into rows, with prefixes shared or not, cut into
micro-batches, spread over devices or taken one at a time, total, count and gradient
agree.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.logprobs import row_logprobs
from gru_mem_jax.rl.objective import ObjectiveConfig, TokenSum, dapo_objective
from gru_mem_jax.rl.packing import (
    Conversation,
    PackConfig,
    PackedRows,
    pack,
    unpack,
)
from gru_mem_jax.rl.row_counts import count_rows

VOCAB = 31
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
}
POLICY = make_policy(PolicyConfig(**SHAPE))
NOW, OLD, REFERENCE = (POLICY.init(jax.random.key(seed)) for seed in range(3))
OBJECTIVE = ObjectiveConfig(beta=0.1, dual_clip=3.0)


def twelve():
    """Two questions, two rollouts of three turns each.

    Prompts of a turn begin alike; at the first turn they are equal, at the second one
    is the beginning of the other.
    """
    rng = np.random.default_rng(0)
    items = []
    for i in range(12):
        question, rollout, turn = i // 6, i // 3 % 2, i % 3
        if rollout == 0 and turn == 0:
            fronts = rng.integers(0, VOCAB, (3, 9)).tolist()
        own = [[], [3, 4, 5] * rollout, rng.integers(0, VOCAB, 1 + 3 * rollout)]
        prompt, completion = [*fronts[turn], *own[turn]], rng.integers(1, 9)
        items.append(
            Conversation(
                index=(question, rollout, turn),
                prompt_ids=tuple(map(int, prompt)),
                completion_ids=tuple(rng.integers(0, VOCAB, completion).tolist()),
                sampler_logprobs=(0.0,) * int(completion),
                advantage=float(rng.normal()),
            )
        )
    return items


ITEMS = twelve()
LONGEST = max(map(len, ITEMS))


@jax.jit
def score(params, rows):
    return row_logprobs(POLICY, params, rows, chunk=4)[0]


@jax.jit
def gradient(params, rows, old=OLD, reference=REFERENCE):
    def loss(params):
        logprobs, entropy = row_logprobs(POLICY, params, rows, chunk=4, remat=True)
        total, _ = dapo_objective(
            logprobs,
            score(old, rows),
            rows.advantages,
            rows.completion_mask,
            OBJECTIVE,
            ref_logprobs=score(reference, rows),
            entropy=entropy,
        )
        return total.total, total

    (_, total), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return total, grads


ADD = functools.partial(jax.tree.map, jnp.add)


def accumulated(batches):
    """The step's TokenSum and its summed gradient, micro-batch by micro-batch."""
    parts = [gradient(NOW, rows) for rows in batches]
    return functools.reduce(TokenSum.__add__, [total for total, _ in parts]), (
        functools.reduce(ADD, [grads for _, grads in parts])
    )


@pytest.fixture(scope="module")
def one_at_a_time():
    """Each conversation alone in a row that is as long as the longest."""
    config = PackConfig(row_tokens=LONGEST, rows=1, length_buckets=1)
    return accumulated([rows for item in ITEMS for rows in pack([item], config)])


def assert_same(got, expected, tolerance=1e-5):
    assert float(got[0].count) == float(expected[0].count)
    assert float(got[0].total) == pytest.approx(float(expected[0].total), rel=tolerance)
    for mine, theirs in zip(*map(jax.tree.leaves, (got[1], expected[1]))):
        largest = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(
            mine, theirs, rtol=tolerance, atol=tolerance * largest
        )


def test_the_reference_is_no_trivial_one(one_at_a_time):
    total, grads = one_at_a_time
    assert float(total.count) == sum(len(item.completion_ids) for item in ITEMS)
    assert abs(float(total.total)) > 0.1
    assert all(float(jnp.abs(leaf).max()) > 1e-4 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("row_tokens", "rows", "share"),
    [
        (300, 1, False),  # all in one row
        (300, 1, True),
        (50, 3, False),
        (50, 3, True),
        (25, 3, True),  # trees that are cut
        (64, 8, True),  # one micro-batch, with rows of padding
    ],
)
def test_packed_equals_one_at_a_time(one_at_a_time, row_tokens, rows, share):
    config = PackConfig(
        row_tokens=row_tokens, rows=rows, length_buckets=1, share_prefixes=share
    )
    batches = pack(ITEMS, config)
    every = sum(map(len, ITEMS))
    assert (count_rows(batches).tokens < 0.8 * every) == share
    assert_same(accumulated(batches), one_at_a_time)


def test_windows_and_soft_caps_see_the_same_in_a_tree():
    """Layers with a window of three positions, scores and logits capped."""
    policy = make_policy(
        PolicyConfig(
            **SHAPE,
            family="gemma3_text",
            layer_types=("sliding_attention", "full_attention"),
            sliding_window=3,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=5.0,
        )
    )
    params = policy.init(jax.random.key(5))

    @jax.jit
    @jax.grad
    def grads_of(params, rows):
        logprobs, _ = row_logprobs(policy, params, rows, chunk=4)
        return (logprobs * rows.advantages).sum()

    trees, alone = (
        [grads_of(params, rows) for rows in pack(ITEMS, config)]
        for config in (
            PackConfig(row_tokens=100, length_buckets=1),
            PackConfig(row_tokens=LONGEST, length_buckets=1, share_prefixes=False),
        )
    )
    assert len(trees) == 2 < len(alone)
    trees, alone = (functools.reduce(ADD, parts) for parts in (trees, alone))
    for mine, theirs in zip(*map(jax.tree.leaves, (trees, alone)), strict=True):
        largest = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * largest)


def test_without_padding_or_packing_at_all():
    """A row exactly as long as its conversation, without `reach`."""
    item = ITEMS[0]
    (rows,) = pack([item], PackConfig(row_tokens=len(item), length_buckets=1))
    alone = gradient(NOW, PackedRows(**vars(rows) | {"reach": None}))
    padded = PackConfig(row_tokens=LONGEST, rows=1, length_buckets=1)
    assert len(item) < LONGEST
    assert_same(alone, accumulated(pack([item], padded)))


def test_micro_batches_change_nothing(one_at_a_time):
    """The same rows, eight at once or one by one, in any order."""
    (batch,) = pack(ITEMS, PackConfig(row_tokens=64, rows=8, length_buckets=1))
    parts = [jax.tree.map(lambda x, b=b: x[b : b + 1], batch) for b in range(8)]
    whole = gradient(NOW, batch)
    assert_same(accumulated(parts), whole)
    assert_same(accumulated(parts[::-1]), whole)
    assert_same(whole, one_at_a_time)


def test_eight_devices_equal_one(one_at_a_time):
    """Rows spread over a mesh of eight; the compiler reduces the gradient over it."""
    (batch,) = pack(ITEMS, PackConfig(row_tokens=64, rows=8, length_buckets=1))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    over_rows, everywhere = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data",), ())
    )
    spread = jax.device_put(batch, over_rows)
    assert len(spread.tokens.sharding.device_set) == 8
    params, old, reference = jax.device_put((NOW, OLD, REFERENCE), everywhere)
    step = jax.jit(gradient.__wrapped__, out_shardings=everywhere)
    total, grads = step(params, spread, old, reference)
    assert_same((total, grads), one_at_a_time)


def test_logprobs_come_back_to_their_conversations():
    """Packed logprobs of each conversation equal those that it has alone."""
    batches = pack(ITEMS, PackConfig(row_tokens=64, rows=8, length_buckets=1))
    values = [score(NOW, rows) for rows in batches]
    packed = unpack(values, batches, len(ITEMS))
    alone = PackConfig(row_tokens=LONGEST, rows=1, length_buckets=1)
    for item, got in zip(ITEMS, packed, strict=True):
        (rows,) = pack([item], alone)
        (expected,) = unpack([score(NOW, rows)], [rows], 1)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert len(got) == len(item.completion_ids)
