"""Attention in packed rows: blocks against the formula in double precision."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads
from row_forests import ancestors, forest, inputs

from gru_mem_jax.policy import row_attention
from gru_mem_jax.policy.row_attention import attend_in_rows, row_layout


def by_hand(query, key, value, seen, weight, scale, softcap=None):
    """Output and gradients of sum(output * weight), head by head in float64."""
    query, key, value, weight = (
        np.asarray(x, np.float64) for x in (query, key, value, weight)
    )
    rows, length, heads, dim = query.shape
    group = heads // key.shape[2]
    weight = weight.reshape(query.shape)
    out = np.zeros(query.shape)
    grads = np.zeros(query.shape), np.zeros(key.shape), np.zeros(value.shape)
    for b, h in np.ndindex(rows, heads):
        k = h // group
        scores = scale * query[b, :, h] @ key[b, :, k].T
        slope = np.ones_like(scores)
        if softcap is not None:
            share = np.tanh(scores / softcap)
            scores, slope = softcap * share, 1 - share**2
        scores = np.where(seen[b], scores, -np.inf)
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        out[b, :, h] = probs @ value[b, :, k]
        grad_probs = weight[b, :, h] @ value[b, :, k].T
        along = (grad_probs * probs).sum(-1, keepdims=True)
        grad_scores = probs * (grad_probs - along) * slope * scale
        grads[0][b, :, h] = grad_scores @ key[b, :, k]
        grads[1][b, :, k] += grad_scores.T @ query[b, :, h]
        grads[2][b, :, k] += probs.T @ weight[b, :, h]
    return out.reshape(rows, length, heads * dim), grads


def out_and_grads(query, key, value, weight, positions, reach, window, **options):
    @jax.jit
    def run(query, key, value):
        def total(*arrays):
            layout = row_layout(positions, reach, (window,))
            out = attend_in_rows(*arrays, layout, **options)
            return (out * weight).sum(), out

        grads, out = jax.grad(total, (0, 1, 2), has_aux=True)(query, key, value)
        return out, grads

    return run(query, key, value)


@hypothesis.given(
    seed=st.integers(0, 10**6),
    length=st.integers(1, 40),
    window=st.sampled_from([None, 1, 3, 8]),
    softcap=st.sampled_from([None, 0.7]),
    size=st.sampled_from([(4, 4), (4, 8), (8, 4), (64, 64)]),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_random_forests(seed, length, window, softcap, size):
    rng = np.random.default_rng(seed)
    parents, positions, reach = zip(*(forest(rng, length) for _ in range(2)))
    positions, reach = np.array(positions, np.int32), np.array(reach, np.int32)
    seen = np.array([ancestors(p, at, window) for p, at in zip(parents, positions)])
    arrays = inputs(seed, 2, length)
    # Padding has no part in any loss.
    weight = arrays[3] * (positions >= 0)[:, :, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_attention, "block_size", lambda length: size)
        out, grads = out_and_grads(
            *arrays[:3],
            weight,
            jnp.array(positions),
            jnp.array(reach),
            window,
            scale=0.5,
            softcap=softcap,
        )
    seen |= np.eye(length, dtype=bool) & (positions < 0)[:, None]
    expected, by_formula = by_hand(*arrays[:3], seen, weight, 0.5, softcap)
    real = positions >= 0
    np.testing.assert_allclose(out[real], expected[real], atol=1e-5)
    for ours, theirs in zip(grads, by_formula, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("group", [1, 3])
def test_the_gradient_is_that_of_the_plain_formula(group):
    arrays = inputs(group, 2, 5, heads=2 * group)
    place = jnp.broadcast_to(jnp.arange(5), (2, 5))
    out, grads = out_and_grads(*arrays, place, None, None, scale=0.5)
    causal = np.tril(np.ones((5, 5), bool))
    expected, by_formula = by_hand(*arrays[:3], [causal] * 2, arrays[3], 0.5)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for ours, theirs in zip(grads, by_formula, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_blocks_that_nobody_sees_are_not_listed():
    """Two conversations of 128 tokens and two that share the first half of 256."""
    place = np.arange(256)
    apart = np.where(place < 128, 128, 256)
    tree = np.where(place < 128, 256, np.where(place < 192, 192, 256))
    reach = jnp.array([apart], jnp.int32)
    positions = jnp.array([place % 128], jnp.int32)
    layout = row_layout(positions, reach, (None,))
    assert layout.size == (128, 128)
    assert layout.counts.tolist() == [[1, 1]]
    assert layout.key_blocks[0, 1, 0] == 1
    layout = row_layout(positions, jnp.array([tree], jnp.int32), (None,))
    assert layout.counts.tolist() == [[1, 2]]
    # Windows: the second block of one long conversation is beyond the first one's.
    long = jnp.full((1, 512), 512), jnp.arange(512, dtype=jnp.int32)[None]
    layout = row_layout(long[1], long[0], (None, 64, None, 64))
    assert layout.window_index == (1, 0, 1, 0)
    assert layout.counts.tolist() == [[1, 2, 2, 2], [1, 2, 3, 4]]


def test_a_row_without_reach_is_one_conversation():
    query, key, value, weight = inputs(0, 2, 9)
    positions = np.array([np.arange(9), [0, 1, 2, 3, -1, -1, -1, -1, -1]], np.int32)
    out, _ = out_and_grads(
        *(query, key, value, weight, jnp.array(positions), None, None), scale=0.5
    )
    causal = np.tril(np.ones((9, 9), bool))
    expected, _ = by_hand(query, key, value, [causal, causal], weight, 0.5)
    real = positions >= 0
    np.testing.assert_allclose(out[real], expected[real], atol=1e-5)


def test_padding_gives_finite_numbers_and_finite_gradients():
    query, key, value, weight = inputs(0, 2, 9)
    positions = jnp.full((2, 9), -1)
    for reach in (None, jnp.zeros((2, 9), jnp.int32)):
        out, grads = out_and_grads(
            *(query, key, value, weight, positions, reach, None), scale=0.5
        )
        assert np.isfinite(out).all()
        assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_gradients_equal_numerical_ones(softcap):
    query, key, value, weight = inputs(1, 1, 4, heads=2, kv_heads=1, dim=2)
    positions = jnp.arange(4)[None]

    def total(query, key, value):
        layout = row_layout(positions, None, (None,))
        attend = functools.partial(attend_in_rows, scale=0.5, softcap=softcap)
        return (attend(query, key, value, layout) * weight).sum()

    check_grads(
        total, (query, key, value), order=1, modes=("rev",), atol=1e-2, rtol=1e-2
    )


def test_bfloat16_is_close():
    arrays = inputs(2, 1, 200)
    place = jnp.arange(200)[None]
    exact, _ = out_and_grads(*arrays, place, None, None, scale=0.5)
    coarse = [x.astype(jnp.bfloat16) for x in arrays[:3]]
    out, grads = out_and_grads(*coarse, arrays[3], place, None, None, scale=0.5)
    assert out.dtype == jnp.bfloat16
    assert {g.dtype for g in grads} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)
