"""RoPE by hand: few pairs, round numbers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.policy.rope import cos_sin, frequencies, rotate
from gru_mem_jax.policy.rope_config import RopeConfig


def test_frequencies_fall_geometrically():
    freq, factor = frequencies(RopeConfig(theta=1e4), 8)
    np.testing.assert_allclose(freq, [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert (freq.dtype, factor) == (np.float32, 1.0)


def test_linear_scaling_divides_every_frequency():
    freq, _ = frequencies(RopeConfig(theta=1e4, type="linear", factor=4.0), 4)
    np.testing.assert_allclose(freq, [0.25, 0.0025], rtol=1e-6)


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones():
    """Window 1000: wavelengths under 250 are kept, over 1000 divided by 8.

    Wavelengths here are 6.28, 62.8, 628 and 6283; 628 is between: with
    smooth = (1000/628.3 - 1) / 3 = 0.1972 its frequency is multiplied by
    (1 - smooth)/8 + smooth = 0.2975.
    """
    config = RopeConfig(
        theta=1e4,
        type="llama3",
        factor=8.0,
        original_max_position_embeddings=1000,
    )
    freq, _ = frequencies(config, 8)
    expected = [1, 0.1, 0.01 * 0.29753, 0.001 / 8]
    np.testing.assert_allclose(freq, expected, rtol=1e-4)


def test_yarn_keeps_fast_pairs_stretches_slow_ones_and_scales_attention():
    """Window 1000, theta 1e4, 8 dimensions: pair(r) = 8 ln(1000/(2 pi r)) / (2 ln 1e4).

    pair(32) = 0.70, rounded down to 0; pair(1) = 2.20, rounded up to 3: pairs 0 to 3
    are stretched by 0, 1/3, 2/3 and all of the way to a fourth.
    """
    config = RopeConfig(
        theta=1e4,
        type="yarn",
        factor=4.0,
        original_max_position_embeddings=1000,
    )
    freq, factor = frequencies(config, 8)
    kept = np.array([1, 2 / 3, 1 / 3, 0])
    expected = np.array([1, 0.1, 0.01, 0.001]) * (kept + (1 - kept) / 4)
    np.testing.assert_allclose(freq, expected, rtol=1e-5)
    assert factor == pytest.approx(0.1 * math.log(4) + 1)


def test_rotation_turns_halves_against_each_other():
    """Frequency 1 at position pi/2 is a quarter turn: (1, 0) to (0, 1)."""
    x = jnp.array([[[[1.0, 0.0]]]])
    quarter = jnp.full((1, 1, 1), math.pi / 2)
    turned = rotate(x, jnp.cos(quarter), jnp.sin(quarter))
    np.testing.assert_allclose(turned[0, 0, 0], [0.0, 1.0], atol=1e-6)


def test_products_depend_on_distance_only():
    config = RopeConfig(theta=1e4)
    vectors = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)

    def product(first, second):
        positions = jnp.array([[first, second]])
        turned = rotate(
            jnp.asarray(vectors)[None, :, None], *cos_sin(config, 8, positions)
        )
        return float(jnp.vdot(turned[0, 0, 0], turned[0, 1, 0]))

    assert product(3, 10) == pytest.approx(product(103, 110), abs=1e-4)
    assert product(3, 10) != pytest.approx(product(3, 11), abs=1e-2)


def test_angles_are_exact_far_out():
    """At position 200,000 cosines agree with double precision of the same angles."""
    config = RopeConfig(theta=1e6)
    positions = jnp.array([[0, 1, 4097, 65_535, 200_000]])
    cos, sin = cos_sin(config, 16, positions)
    freq, _ = frequencies(config, 16)
    angles = np.asarray(positions, np.float32)[..., None] * freq
    np.testing.assert_allclose(cos, np.cos(angles.astype(np.float64)), atol=2e-6)
    np.testing.assert_allclose(sin, np.sin(angles.astype(np.float64)), atol=2e-6)
