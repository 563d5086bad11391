"""Rotary position embedding and the ways of stretching it (RoPE scaling).

Su et al., "RoFormer", arXiv 2104.09864. Halves are rotated against each other
(`x[:H/2]` with `x[H/2:]`), the layout of Hugging Face checkpoints.
"""

import math

import jax.numpy as jnp
import numpy as np

from gru_mem_jax.policy.rope_config import RopeConfig


def frequencies(config: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    """Angle per position of each rotated pair, and the factor of cos and sin.

    Rounds to float32 in the order that Hugging Face does: at position 100,000 one
    unit in the last place of a frequency is 0.006 of a radian.

    Args:
      config: how the frequencies are made.
      head_dim: H, even.

    Returns:
      float32 [H/2] and a float.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    period = np.power(np.float64(config.theta), exponent.astype(np.float64))
    period = period.astype(np.float32)
    freq = np.float32(1.0) / period
    if config.type == "linear":
        return freq / np.float32(config.factor), 1.0
    if config.type == "llama3":
        return _llama3(config, freq), 1.0
    if config.type == "yarn":
        return _yarn(config, period, head_dim), _yarn_attention_factor(config)
    return freq, 1.0


def _llama3(config: RopeConfig, freq: np.ndarray) -> np.ndarray:
    """Long wavelengths are stretched, short ones kept, with a ramp between them."""
    window = config.original_max_position_embeddings
    wavelength = (2 * math.pi / freq).astype(np.float32)
    low = window / config.low_freq_factor
    high = window / config.high_freq_factor
    factor = np.float32(config.factor)
    stretched = np.where(wavelength > low, freq / factor, freq)
    span = config.high_freq_factor - config.low_freq_factor
    ramp = ((window / wavelength - config.low_freq_factor) / span).astype(np.float32)
    smooth = (1 - ramp) * stretched / factor + ramp * stretched
    between = (wavelength >= high) & (wavelength <= low)
    return np.where(between, smooth, stretched).astype(np.float32)


def _yarn(config: RopeConfig, period: np.ndarray, head_dim: int) -> np.ndarray:
    """Fast rotating pairs are kept, slow ones are stretched."""

    def pair_of(rotations: float) -> float:
        window = config.original_max_position_embeddings
        turns = math.log(window / (rotations * 2 * math.pi))
        return head_dim * turns / (2 * math.log(config.theta))

    low, high = pair_of(config.beta_fast), pair_of(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    index = np.arange(head_dim // 2, dtype=np.float32)
    keep = 1 - np.clip((index - low) / (high - low), 0, 1).astype(np.float32)
    kept = np.float32(1.0) / period
    stretched = np.float32(1.0) / (np.float32(config.factor) * period)
    return (stretched * (1 - keep) + kept * keep).astype(np.float32)


def _yarn_attention_factor(config: RopeConfig) -> float:
    if config.attention_factor is not None:
        return config.attention_factor

    def scale(weight: float) -> float:
        if config.factor <= 1:
            return 1.0
        return 0.1 * weight * math.log(config.factor) + 1.0

    if config.mscale and config.mscale_all_dim:
        return scale(config.mscale) / scale(config.mscale_all_dim)
    return scale(1.0)


def cos_sin(
    config: RopeConfig, head_dim: int, positions: jnp.ndarray
) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Cosine and sine of every position's angles.

    Args:
      config: how the frequencies are made.
      head_dim: H.
      positions: int32 [B, L].

    Returns:
      Two float32 [B, L, H/2].
    """
    freq, factor = frequencies(config, head_dim)
    angles = positions.astype(jnp.float32)[..., None] * freq[None, None, :]
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: jnp.ndarray, cos: jnp.ndarray, sin: jnp.ndarray) -> jnp.ndarray:
    """Rotates the heads of `x` by their positions' angles.

    Args:
      x: [B, L, heads, H].
      cos: float32 [B, L, H/2].
      sin: float32 [B, L, H/2].

    Returns:
      As `x`, in its dtype; computed in float32.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
