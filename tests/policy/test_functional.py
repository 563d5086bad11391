"""The policy's functions agree with each other: cached with full, packed with single,
padded with bare, scanned with unrolled, jitted with not."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.policy.config import FULL, SLIDING, PolicyConfig
from gru_mem_jax.policy.families import FAMILIES
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_names import tensor_table
from gru_mem_jax.policy.rope_config import RopeConfig

VOCAB = 31
FULL_ATTENTION = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
LOCAL_AND_GLOBAL = FULL_ATTENTION | {
    "family": "gemma3_text",
    "num_hidden_layers": 3,
    "layer_types": (SLIDING, FULL, SLIDING),
    "sliding_window": 3,
    "rope": RopeConfig(theta=1e5, type="linear", factor=4.0),
    "rope_local": RopeConfig(theta=1e3),
    "final_logit_softcapping": 4.0,
    "attn_logit_softcapping": 3.0,
}
CONFIGS = {"full": FULL_ATTENTION, "local_and_global": LOCAL_AND_GLOBAL}


@functools.cache
def setup(name):
    policy = make_policy(PolicyConfig(**CONFIGS[name]))
    return policy, policy.init(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def apply(policy, params, tokens, positions, reach=None):
    return policy.apply(params, tokens, positions, reach)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("attend", "fresh"))
def extend(policy, params, cache, tokens, positions, slots=None, **static):
    hidden, cache = policy.extend(params, cache, tokens, positions, slots, **static)
    return policy.logits(params, hidden), cache


def random_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length), np.int32)


def counting(rows, length):
    return np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_full(name):
    """Rows of 7, 11 and 9 tokens in slots 2, 0 and 3: a prefill of up to 6 padded to
    8, a block of up to 4 behind it, the rest token by token in all slots at once."""
    policy, params = setup(name)
    sampling = policy.sampling_params(params)
    lengths, slots = [7, 11, 9], np.array([2, 0, 3], np.int32)
    tokens = random_tokens(3, 11)
    expected = apply(policy, params, tokens, counting(3, 11))
    seen = np.full((3, 11, VOCAB), np.nan)
    cache = policy.init_cache(4, 16)
    # Rows of one program may start and end anywhere; slot 1 stays empty.
    first, second = [6, 5, 3], [1, 4, 4]

    block = np.zeros((3, 8), np.int32)
    positions = np.full((3, 8), -1, np.int32)
    for row, count in enumerate(first):
        block[row, :count] = tokens[row, :count]
        positions[row, :count] = np.arange(count)
    logits, cache = extend(
        policy, sampling, cache, block, positions, slots, attend=8, fresh=True
    )
    for row, count in enumerate(first):
        seen[row, :count] = logits[row, :count]

    block = np.zeros((3, 4), np.int32)
    positions = np.full((3, 4), -1, np.int32)
    for row, (start, count) in enumerate(zip(first, second)):
        block[row, :count] = tokens[row, start : start + count]
        positions[row, :count] = np.arange(start, start + count)
    logits, cache = extend(policy, sampling, cache, block, positions, slots, attend=12)
    for row, (start, count) in enumerate(zip(first, second)):
        seen[row, start : start + count] = logits[row, :count]

    at = np.add(first, second)
    while (at < lengths).any():
        block = np.zeros((4, 1), np.int32)
        positions = np.full((4, 1), -1, np.int32)
        for row in np.flatnonzero(at < lengths):
            block[slots[row], 0] = tokens[row, at[row]]
            positions[slots[row], 0] = at[row]
        logits, cache = extend(policy, sampling, cache, block, positions, attend=12)
        for row in np.flatnonzero(at < lengths):
            seen[row, at[row]] = logits[slots[row], 0]
            at[row] += 1
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            seen[row, :length], expected[row, :length], atol=1e-5
        )


def test_padding_is_not_written():
    policy, params = setup("full")
    cache = jax.tree.map(lambda x: x + 7, policy.init_cache(2, 4))
    tokens = random_tokens(2, 3)
    positions = np.array([[0, 1, -1], [-1, -1, -1]], np.int32)
    _, cache = extend(
        policy, policy.sampling_params(params), cache, tokens, positions, attend=4
    )
    for layer in cache:
        for array in layer:
            written = np.asarray((array != 7).any(axis=(1, 3)))
            np.testing.assert_array_equal(
                written, [[True, True, False, False], [False] * 4]
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_equal_single_ones(name):
    """Three sequences of 5, 3 and 4 tokens in one row of 14, padding at the end."""
    policy, params = setup(name)
    lengths = [5, 3, 4]
    tokens = random_tokens(1, 14)
    positions = np.full((1, 14), -1, np.int32)
    reach = np.arange(1, 15, dtype=np.int32)[None]
    start = 0
    for length in lengths:
        positions[0, start : start + length] = np.arange(length)
        reach[0, start : start + length] = start + length
        start += length
    packed = apply(policy, params, tokens, positions, reach)
    start = 0
    for length in lengths:
        alone = apply(
            policy, params, tokens[:, start : start + length], counting(1, length)
        )
        np.testing.assert_allclose(packed[:, start : start + length], alone, atol=1e-5)
        start += length


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_on_either_side_changes_nothing(name):
    policy, params = setup(name)
    tokens = random_tokens(1, 6)
    bare = apply(policy, params, tokens, counting(1, 6))
    padded = np.zeros((2, 10), np.int32)
    positions = np.full((2, 10), -1, np.int32)
    padded[0, 4:], padded[1, :6] = tokens, tokens
    positions[0, 4:], positions[1, :6] = np.arange(6), np.arange(6)
    logits = apply(policy, params, padded, positions)
    np.testing.assert_allclose(logits[0, 4:], bare[0], atol=1e-5)
    np.testing.assert_allclose(logits[1, :6], bare[0], atol=1e-5)


def test_only_differences_of_positions_count():
    policy, params = setup("local_and_global")
    tokens = random_tokens(1, 8)
    near = apply(policy, params, tokens, counting(1, 8))
    far = apply(policy, params, tokens, counting(1, 8) + 1000)
    np.testing.assert_allclose(near, far, atol=2e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_later_tokens_are_not_seen_and_the_window_ends(name):
    policy, params = setup(name)
    tokens = random_tokens(1, 12)
    changed = tokens.copy()
    changed[0, 6] += 1
    changed %= VOCAB
    before = apply(policy, params, tokens, counting(1, 12))
    after = apply(policy, params, changed, counting(1, 12))
    same = np.abs(np.asarray(before - after)).max(axis=-1)[0] == 0
    np.testing.assert_array_equal(same[:6], True)
    np.testing.assert_array_equal(same[6:], False)


def test_a_window_of_three_in_two_layers_reaches_back_four_tokens():
    config = FULL_ATTENTION | {"family": "mistral", "sliding_window": 3}
    policy = make_policy(PolicyConfig(**config))
    params = policy.init(jax.random.key(0))
    tokens = random_tokens(1, 12)
    changed = tokens.copy()
    changed[0, 2] = (changed[0, 2] + 1) % VOCAB
    before = apply(policy, params, tokens, counting(1, 12))
    after = apply(policy, params, changed, counting(1, 12))
    differs = np.abs(np.asarray(before - after)).max(axis=-1)[0] > 0
    assert np.flatnonzero(differs).tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("options", [{"remat": True}, {"unroll": 3}])
def test_remat_and_unrolling_change_no_gradient(options):
    policy, params = setup("local_and_global")
    tokens, positions = random_tokens(2, 6), counting(2, 6)

    def loss(params, **options):
        hidden = policy.hidden(params, tokens, positions, **options)
        return jnp.square(policy.logits(params, hidden)).sum()

    plain = jax.jit(jax.grad(loss))(params)
    other = jax.jit(jax.grad(functools.partial(loss, **options)))(params)
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    for expected, got in zip(jax.tree.leaves(plain), jax.tree.leaves(other)):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(got, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_forms_give_the_same_logits(name):
    policy, params = setup(name)
    sampling = policy.sampling_params(params)
    assert isinstance(sampling["layers"], tuple)
    assert len(sampling["layers"]) == policy.config.num_hidden_layers
    hidden = jax.random.normal(jax.random.key(1), (3, 16))
    np.testing.assert_allclose(
        policy.logits(params, hidden), policy.logits(sampling, hidden), atol=1e-6
    )
    again = policy.sampling_params(sampling, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {jnp.dtype("bfloat16")}
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, sampling)


def test_an_untied_head_is_transposed_for_sampling():
    config = PolicyConfig(**FULL_ATTENTION | {"tie_word_embeddings": False})
    policy = make_policy(config)
    params = policy.init(jax.random.key(0))
    sampling = policy.sampling_params(params)
    assert params["ends"]["head"]["kernel"].shape == (16, VOCAB)
    assert sampling["ends"]["head"]["kernel"].shape == (VOCAB, 16)
    hidden = jax.random.normal(jax.random.key(1), (2, 3, 16))
    expected = hidden @ params["ends"]["head"]["kernel"]
    np.testing.assert_allclose(policy.logits(params, hidden), expected, atol=1e-5)
    np.testing.assert_allclose(policy.logits(sampling, hidden), expected, atol=1e-5)


def test_logits_are_capped_and_float32():
    policy, params = setup("local_and_global")
    hidden = 1e3 * jax.random.normal(jax.random.key(1), (2, 16), jnp.bfloat16)
    logits = policy.logits(policy.sampling_params(params, jnp.bfloat16), hidden)
    assert logits.dtype == jnp.float32
    assert np.abs(logits).max() == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trees_agree_with_each_other(family):
    config = PolicyConfig(**FULL_ATTENTION | {"family": family, "sliding_window": 5})
    policy = make_policy(config)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    abstract = policy.abstract_params()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract
    )
    axes = policy.logical_axes()

    def same_rank(leaf, names):
        return len(leaf.shape) == len(names)

    assert all(jax.tree.leaves(jax.tree.map(same_rank, abstract, axes)))
    stored = [math.prod(spec.shape) for spec in tensor_table(config).values()]
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == sum(stored)
    kernel = axes["layers"]["mlp"]["gate"]["kernel"]
    assert kernel == ("layers", "embed", "ffw")


def test_init_draws_what_the_config_says():
    config = PolicyConfig(**FULL_ATTENTION | {"hidden_size": 64})
    policy = make_policy(config)
    params = policy.init(jax.random.key(3), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    kernel = np.asarray(params["layers"]["attn"]["q"]["kernel"], np.float32)
    assert kernel.std() == pytest.approx(0.3, rel=0.05)
    assert np.abs(kernel[0] - kernel[1]).min() < np.abs(kernel[0] - kernel[1]).max()
    np.testing.assert_array_equal(params["layers"]["attn"]["q"]["bias"], 0)
    np.testing.assert_array_equal(params["ends"]["final_norm"]["scale"], 1)
    gemma = make_policy(PolicyConfig(**LOCAL_AND_GLOBAL)).init(jax.random.key(0))
    np.testing.assert_array_equal(gemma["ends"]["final_norm"]["scale"], 0)


def test_bfloat16_stays_close_to_float32():
    policy, params = setup("full")
    tokens, positions = random_tokens(2, 9), counting(2, 9)
    exact = apply(policy, params, tokens, positions)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    coarse = apply(policy, low, tokens, positions)
    assert coarse.dtype == jnp.float32
    error = np.abs(np.asarray(coarse - exact)).max()
    assert 0 < error < 0.1 * np.abs(exact).max()


def test_shapes_are_checked():
    policy, params = setup("full")
    with pytest.raises(ValueError, match=r"positions: expected shape \(2, 3\)"):
        policy.apply(params, random_tokens(2, 3), counting(2, 4))
    with pytest.raises(
        ValueError, match=r"tokens: expected shape \(_, _\), got \(3,\)"
    ):
        policy.apply(params, random_tokens(2, 3)[0], counting(2, 3))


def test_a_policy_is_a_static_argument():
    first = make_policy(PolicyConfig(**FULL_ATTENTION))
    second = make_policy(PolicyConfig(**FULL_ATTENTION))
    assert first == second
    assert hash(first) == hash(second)
