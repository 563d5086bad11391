"""Bootstrap against closed forms, and against scipy's."""

import math

import numpy as np
import pytest
import scipy.stats

from gru_mem_jax.evaluation import statistics


def test_the_interval_is_the_percentile_bootstrap_of_scipy():
    values = np.random.default_rng(1).normal(3, 2, 60)
    low, high = statistics.interval(values)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=2
    ).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.03)
    assert high == pytest.approx(expected.high, abs=0.03)
    # And of the normal distribution, that means of 60 are close to.
    half = 1.96 * values.std() / math.sqrt(60)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)


def test_of_right_and_wrong_answers_it_is_the_binomial_distribution():
    """Means of resamples are counts / n, so quantiles are exact but for a step."""
    values = [1.0] * 90 + [0.0] * 38
    low, high = statistics.interval(values)
    exact = scipy.stats.binom(128, 90 / 128)
    assert low * 128 == pytest.approx(exact.ppf(0.025), abs=1)
    assert high * 128 == pytest.approx(exact.ppf(0.975), abs=1)
    low80, high80 = statistics.interval(values, level=0.8)
    assert low < low80 < high80 < high


def test_intervals_of_little():
    assert statistics.interval([0.25]) == (0.25, 0.25)
    assert statistics.interval([1.0] * 7) == (1.0, 1.0)
    assert statistics.interval([0.0, 1.0]) == (0.0, 1.0)


def test_equal_arguments_give_equal_intervals():
    values = np.random.default_rng(0).random(50)
    assert statistics.interval(values) == statistics.interval(values)
    assert statistics.interval(values) != statistics.interval(values, seed=1)


def test_many_questions_go_in_blocks(monkeypatch):
    """With the same spread as all at once."""
    values = np.random.default_rng(0).random(300)
    whole = statistics.interval(values)
    monkeypatch.setattr(statistics, "_MOST_HELD", 300 * 64)
    cut = statistics.interval(values)
    assert cut == pytest.approx(whole, abs=0.003)
    assert len(statistics._means(values, 1000, 0)) == 1000


def test_paired_differences():
    """Pairing removes what the questions have in common."""
    rng = np.random.default_rng(3)
    hard = rng.random(80)
    first, second = hard + 0.03 + 0.02 * rng.normal(size=80), hard
    found = statistics.paired(first, second)
    expected = scipy.stats.bootstrap(
        (first - second,), np.mean, n_resamples=10_000, method="percentile", rng=2
    ).confidence_interval
    assert found.mean == pytest.approx(np.mean(first - second))
    assert found.low == pytest.approx(expected.low, abs=4e-4)
    assert found.high == pytest.approx(expected.high, abs=4e-4)
    assert found.p == 2 / 10_001  # no resample on the other side
    assert found.count == 80
    back = statistics.paired(second, first)
    assert (back.mean, back.p) == (-found.mean, found.p)


def test_p_is_that_of_the_sign_test_where_that_is_known():
    """Six questions won of six that differ: means <= 0 are drawn in 1 of 2^... draws.

    Differences of 1 (k of n) and 0 (the others): a mean of 0 has no difference drawn,
    with probability (1 - k/n)^n.
    """
    n, k = 40, 3
    found = statistics.paired([1.0] * k + [0.0] * (n - k), [0.0] * n)
    assert found.p == pytest.approx(2 * (1 - k / n) ** n, rel=0.15)
    same = statistics.paired([0.5, 1.0], [0.5, 1.0])
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_deviation_over_policies():
    assert statistics.deviation([0.7, 0.8, 0.9]) == pytest.approx(0.1)
    assert statistics.deviation([0.7]) is None
