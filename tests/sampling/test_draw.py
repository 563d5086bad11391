"""Draws against a float64 reference in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.sampling import draw as draw_lib

DRAW = jax.jit(draw_lib.draw)


def reference(logits, temperature, top_k, top_p):
    """Probabilities float64[V] that one row is to be drawn from."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    if top_k:
        weights[scaled < np.sort(scaled)[-min(top_k, len(scaled))]] = 0.0
    if top_p < 1:
        order = np.argsort(-scaled, kind="stable")
        mass = np.cumsum(weights[order])
        last = np.argmax(mass >= top_p * mass[-1])
        weights[scaled < scaled[order[last]]] = 0.0
    return weights / weights.sum()


def run(logits, *, temperature=1.0, top_k=0, top_p=1.0, seed=0, position=0):
    """Draws one token per row of float32[B, V]; settings are scalars or [B]."""
    rows = logits.shape[0]

    def spread(value, dtype):
        return jnp.asarray(np.broadcast_to(np.asarray(value), (rows,)), dtype)

    seeds = jnp.stack([jnp.zeros(rows, jnp.uint32), spread(seed, jnp.uint32)], 1)
    return DRAW(
        jnp.asarray(logits, jnp.float32),
        seeds,
        spread(position, jnp.int32),
        spread(temperature, jnp.float32),
        spread(top_k, jnp.int32),
        spread(top_p, jnp.float32),
    )


def chi_square_z(counts, expected):
    """Standard score of Pearson's statistic, bins under 5 expected joined."""
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    small = int(np.searchsorted(expected, 5.0))
    counts = np.r_[counts[:small].sum(), counts[small:]]
    expected = np.r_[expected[:small].sum(), expected[small:]]
    used = expected > 0
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    freedom = used.sum() - 1
    return (statistic - freedom) / np.sqrt(2 * max(freedom, 1))


@pytest.mark.parametrize("vocab", [5, 37, 700, 5003])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.5, 20, 1.0), (1.0, 30, 0.8)],
)
def test_drawn_frequencies_are_the_references(vocab, temperature, top_k, top_p):
    logits = np.random.default_rng(vocab).normal(size=vocab).astype(np.float32) * 2
    n, rows = 20000, 500
    step = jax.jit(
        lambda i: (
            draw_lib.draw(
                jnp.broadcast_to(jnp.asarray(logits), (rows, vocab)),
                jnp.stack(
                    [jnp.zeros(rows, jnp.uint32), jnp.full(rows, 7, jnp.uint32)], 1
                ),
                i * rows + jnp.arange(rows),
                jnp.full(rows, temperature),
                jnp.full(rows, top_k),
                jnp.full(rows, top_p),
            ).tokens
        )
    )
    tokens = np.concatenate([step(i) for i in range(n // rows)])
    counts = np.bincount(tokens, minlength=vocab)
    expected = reference(logits, temperature, top_k, top_p) * n
    assert counts[expected == 0].sum() == 0
    assert abs(chi_square_z(counts, expected)) < 5


@pytest.mark.parametrize("top_k", [0, 1, 5, 256, 300, 699, 10**6])
@pytest.mark.parametrize("top_p", [1.0, 0.999, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("heat", [0.3, 1.0, 3.0])
def test_log_probabilities(top_k, top_p, heat):
    logits = np.random.default_rng(top_k).normal(size=(4, 700)).astype(np.float32)
    for position in range(2):
        got = run(logits, temperature=heat, top_k=top_k, top_p=top_p, position=position)
        for row, token in enumerate(np.asarray(got.tokens)):
            plain = reference(logits[row], 1.0, 0, 1.0)
            drawn_from = reference(logits[row], heat, top_k, top_p)
            np.testing.assert_allclose(
                got.logprobs[row], np.log(plain[token]), atol=2e-5
            )
            np.testing.assert_allclose(
                got.sampling_logprobs[row], np.log(drawn_from[token]), atol=2e-5
            )


def test_bisection_finds_the_same_threshold_as_the_sorted_prefix():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(64, 200)) * 5, jnp.float32)
    heat = jnp.asarray(rng.uniform(0.2, 2, 64), jnp.float32)
    top_k = jnp.asarray(rng.integers(0, 250, 64), jnp.int32)
    top_p = jnp.asarray(rng.choice([0.2, 0.5, 0.9, 0.99, 1.0], 64), jnp.float32)
    args = (logits, logits.max(-1), heat, jnp.minimum(top_k, 200), top_p)
    np.testing.assert_array_equal(
        jax.jit(draw_lib._thresholds)(*args), jax.jit(draw_lib._bisected)(*args)
    )


def test_a_nucleus_larger_than_the_prefix_is_exact():
    logits = np.zeros((1, 4000), np.float32)
    logits[0, ::2] = 0.5  # 2000 tokens hold exp(.5) / (1 + exp(.5)) = .622 of the mass
    got = run(logits, top_p=0.5)
    assert int(got.tokens[0]) % 2 == 0
    np.testing.assert_allclose(got.sampling_logprobs[0], -np.log(2000), atol=1e-4)


def test_tokens_that_tie_with_the_last_one_are_kept():
    logits = np.asarray([[3.0, 1.0, 1.0, 0.0]], np.float32)
    seen = {int(run(logits, top_k=2, position=i).tokens[0]) for i in range(64)}
    assert seen == {0, 1, 2}


def test_greedy_takes_the_first_of_equals_with_certainty():
    logits = np.asarray([[0.0, 2.0, 2.0], [5.0, 1.0, -3.0]], np.float32)
    got = run(logits, temperature=0.0, top_k=2, top_p=0.1)
    assert got.tokens.tolist() == [1, 0]
    assert got.sampling_logprobs.tolist() == [0.0, 0.0]
    total = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(got.logprobs, [2 - total[0], 5 - total[1]], atol=1e-6)


def test_a_row_draws_alike_in_any_company():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6, 900)).astype(np.float32)
    heat = np.asarray([1.0, 0.0, 0.5, 2.0, 1.0, 1.0])
    top_k, top_p = np.asarray([0, 0, 7, 0, 400, 0]), np.asarray([1, 1, 1, 0.9, 1, 0.5])
    seed, position = np.arange(6) * 77, np.arange(6)[::-1].copy()
    settings = {
        "temperature": heat,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "position": position,
    }
    together = run(logits, **settings)
    for i in range(6):
        alone = run(logits[i : i + 1], **{k: v[i] for k, v in settings.items()})
        assert int(alone.tokens[0]) == int(together.tokens[i])
        np.testing.assert_allclose(
            alone.sampling_logprobs[0], together.sampling_logprobs[i], atol=1e-6
        )


def test_seed_words_and_positions_all_matter():
    seeds = jnp.asarray([[0, 1], [1, 0], [0, 2], [0, 1]], jnp.uint32)
    got = np.asarray(draw_lib.uniforms(seeds, jnp.asarray([0, 0, 0, 1])))
    assert len({tuple(row) for row in got}) == 4
    assert (got >= 0).all()
    assert (got < 1).all()


def test_extreme_rows_stay_finite():
    tiny = np.float32(1e-44)  # a denormal temperature
    logits = np.asarray([[0, -np.inf, 1e30], [-1e30, -1e30, -1e30]], np.float32)
    for heat in (tiny, 1e-5, 1.0, 100.0):
        got = run(logits, temperature=heat, top_p=0.9)
        assert int(got.tokens[0]) == 2
        assert np.isfinite(np.asarray(got.sampling_logprobs)).all()
        np.testing.assert_allclose(got.logprobs[1], -np.log(3), atol=1e-6)


def test_the_last_group_is_drawn_from_though_it_is_not_full():
    logits = np.full((1, 33), -50.0, np.float32)
    logits[0, 32] = 0.0
    got = run(logits)
    assert int(got.tokens[0]) == 32


@pytest.mark.parametrize("size", [1, 2, 5, 300, 699])
@pytest.mark.parametrize("top_k", [0, 2, 256, 400, 10**6])
@pytest.mark.parametrize("top_p", [1.0, 0.999, 0.9, 1e-6])
def test_tokens_outside_a_support_are_never_drawn(size, top_k, top_p):
    """-inf for all logits but `size`: a support smaller than top-k, or as large."""
    rng = np.random.default_rng(size)
    logits = np.full((8, 700), -np.inf, np.float32)
    for row in logits:
        row[rng.permutation(700)[:size]] = rng.normal(size=size) * 3
    heats = np.asarray([1e-5, 0.3, 1.0, 3.0] * 2)
    got = run(logits, temperature=heats, top_k=top_k, top_p=top_p, seed=np.arange(8))
    for row, token in enumerate(np.asarray(got.tokens)):
        plain = reference(logits[row], 1.0, 0, 1.0)
        drawn_from = reference(logits[row], heats[row], top_k, top_p)
        assert drawn_from[token] > 0
        np.testing.assert_allclose(got.logprobs[row], np.log(plain[token]), atol=2e-5)
        np.testing.assert_allclose(
            got.sampling_logprobs[row], np.log(drawn_from[token]), atol=2e-5
        )


def test_draws_of_a_support_have_its_frequencies():
    logits = np.random.default_rng(0).normal(size=700).astype(np.float32)
    logits[np.random.default_rng(1).permutation(700)[40:]] = -np.inf
    rows = 3000
    got = run(np.tile(logits, (rows, 1)), seed=3, position=np.arange(rows))
    counts = np.bincount(got.tokens, minlength=700)
    expected = reference(logits, 1.0, 0, 1.0) * rows
    assert counts[np.isinf(logits)].sum() == 0
    assert abs(chi_square_z(counts, expected)) < 5
