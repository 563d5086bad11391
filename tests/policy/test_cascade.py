"""Attention to a shared trunk and own keys, against numpy and against whole rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_functional import counting, random_tokens, setup

from gru_mem_jax.policy import cascade as cascades
from gru_mem_jax.policy.cascade import Trunk, cascade
from gru_mem_jax.policy.key_values import KeyValues

DIM, HEADS, KV_HEADS = 4, 4, 2


def reference(query, keys, values, seen, scale, softcap):
    """One query [Q, H] over keys and values [K, n, H] that it sees; float64."""
    out = []
    for head, one in enumerate(np.asarray(query, np.float64)):
        kv_head = head // (HEADS // KV_HEADS)
        scores = keys[kv_head, seen].astype(np.float64) @ one * scale
        if softcap:
            scores = np.tanh(scores / softcap) * softcap
        weights = np.exp(scores - scores.max())
        out.append(weights @ values[kv_head, seen] / weights.sum())
    return np.concatenate(out)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (12, 2.0)])
def test_against_numpy(monkeypatch, window, softcap, length):
    """Four rows: two share trunk 2, one has trunk 0, one has none. Blocks of 4 keys,
    of a pool of 11, so that a trunk's last block begins within the block before."""
    monkeypatch.setattr(cascades, "KEY_BLOCK", 4)
    rng = np.random.default_rng(0)
    lengths, entries = [11, 6, 0, 10], [2, 0, -1, 2]
    pool = rng.normal(size=(2, 3, KV_HEADS, 11, DIM)).astype(np.float32)
    own = rng.normal(size=(2, 4, KV_HEADS, 9, DIM)).astype(np.float32)
    query = rng.normal(size=(4, length, HEADS, DIM)).astype(np.float32)
    at = np.asarray([[3], [0], [5], [6]]) + np.arange(length)
    cells = [[2, n, 0, 3] for n in (0, 4, 8)] + [[0, n, 1, 4] for n in (0, 4)]
    trunk = Trunk(
        (),
        jnp.asarray(lengths, jnp.int32),
        jnp.asarray([*cells, [1, 0, 0, 1]], jnp.int32),  # the last is not counted
        jnp.int32(5),
    )
    got = jax.jit(
        functools.partial(cascade, scale=0.7, window=window, softcap=softcap)
    )(
        query,
        KeyValues(*own),
        at.astype(np.int32),
        counting(4, 9),
        trunk,
        KeyValues(*pool),
    )
    for row, (t, entry) in enumerate(zip(lengths, entries)):
        keys, values = np.concatenate([pool[:, entry, :, :t], own[:, row]], axis=2)
        for i in range(length):
            position = t + at[row, i]
            seen = np.arange(position + 1)
            seen = seen[seen > position - window] if window else seen
            expected = reference(query[row, i], keys, values, seen, 0.7, softcap)
            np.testing.assert_allclose(got[row, i], expected, atol=2e-6)


def test_rows_that_see_nothing_are_finite():
    zeros = np.zeros((2, 2, KV_HEADS, 4, DIM), np.float32)
    trunk = Trunk(
        (), jnp.zeros(2, jnp.int32), jnp.zeros((1, 3), jnp.int32), jnp.int32(0)
    )
    got = cascade(
        jnp.ones((2, 1, HEADS, DIM)),
        KeyValues(*zeros),
        jnp.full((2, 1), -1),
        counting(2, 4),
        trunk,
        KeyValues(*zeros),
        scale=1.0,
    )
    assert np.isfinite(got).all()


@functools.partial(jax.jit, static_argnums=0, static_argnames=("attend", "fresh"))
def extend(policy, params, cache, tokens, positions, slots, trunk=None, **static):
    hidden, cache = policy.extend(
        params, cache, tokens, positions, slots, trunk=trunk, **static
    )
    return policy.logits(params, hidden), cache


@pytest.mark.parametrize(
    ("name", "fresh"), [("full", False), ("local_and_global", True)]
)
def test_a_trunk_changes_nothing(name, fresh):
    """Two rows share 7 tokens and read 6 more each: two blocks of three."""
    policy, params = setup(name)
    sampling = policy.sampling_params(params)
    tokens = random_tokens(2, 13)
    tokens[1, :7] = tokens[0, :7]
    expected = jax.jit(policy.apply)(params, tokens, counting(2, 13))
    pool = policy.init_cache(2, 8)
    _, pool = extend(
        policy,
        sampling,
        pool,
        tokens[:1, :7],
        counting(1, 7),
        np.asarray([1], np.int32),
        attend=7,
        fresh=True,
    )
    trunk = Trunk(
        pool,
        jnp.full(2, 7, jnp.int32),
        jnp.asarray([[1, 0, 0, 1]], jnp.int32),
        jnp.int32(1),
    )
    cache, slots = policy.init_cache(3, 6), np.asarray([2, 0], np.int32)
    for start in (7, 10):
        logits, cache = extend(
            policy,
            sampling,
            cache,
            tokens[:, start : start + 3],
            start + counting(2, 3),
            slots,
            trunk,
            attend=6,
            fresh=fresh and start == 7,
        )
        np.testing.assert_allclose(logits, expected[:, start : start + 3], atol=1e-5)
