"""Llama 3's RoPE scaling, found again in the factors that a GGUF file stores."""

from typing import Any

import numpy as np

from gru_mem_jax.policy.rope_config import RopeConfig

_USUAL_CONTEXT = 8192
_TOLERANCE = 1e-4


def llama3_rope(
    factors: np.ndarray, theta: float, original: int | None = None
) -> RopeConfig | None:
    """The settings of type "llama3" whose frequencies are divided by `factors`.

    With wavelength w of a frequency and its place s = (C / w - low) / (high - low), the
    factor is 1 from s = 1 on, `factor` up to s = 0, and 1 / ((1 - s) / factor + s)
    between (Llama 3.1). Only C / low and C / high matter: C is `original`, or else as
    it follows from low = 1.

    Args:
      factors: float32 [head_dim / 2], from the highest frequency to the lowest.
      theta: base of the frequencies.
      original: the original context length, where the file says it.

    Returns:
      None if no settings give these factors.
    """
    stored = np.asarray(factors, np.float64)
    if not np.isfinite(stored).all() or stored.min(initial=1.0) <= 0 or theta <= 1:
        return None
    if np.allclose(stored, 1.0, rtol=_TOLERANCE, atol=0):
        return RopeConfig(theta=theta)
    factor = float(np.round(stored[-1], 4))
    usual = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    tries: list[dict[str, Any]]
    tries = [{**usual, "original_max_position_embeddings": original or _USUAL_CONTEXT}]
    tries += _fitted(stored, theta, factor, original)
    for fields in tries:
        low, high = fields["low_freq_factor"], fields["high_freq_factor"]
        context = fields["original_max_position_embeddings"]
        if not (factor >= 1 and 1e-6 <= low < high and 1 <= context < 2**31):
            continue
        expected = llama3_factors(2 * len(stored), theta, factor, low, high, context)
        if np.allclose(stored, expected, rtol=_TOLERANCE, atol=0):
            return RopeConfig(theta=theta, type="llama3", factor=factor, **fields)
    return None


def llama3_factors(
    head_dim: int, theta: float, factor: float, low: float, high: float, context: float
) -> np.ndarray:
    """What the frequencies are divided by, float64 [head_dim / 2]."""
    turns = context / _wavelengths(head_dim, theta)
    place = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - place) / factor + place)


def _wavelengths(head_dim: int, theta: float) -> np.ndarray:
    return 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)


def _fitted(
    stored: np.ndarray, theta: float, factor: float, original: int | None
) -> list[dict[str, Any]]:
    """Settings by the line through the places of all factors that are between."""
    between = (stored > 1 + _TOLERANCE) & (stored < factor * (1 - _TOLERANCE))
    if factor <= 1 or between.sum() < 2:
        return []
    place = (1 / stored[between] - 1 / factor) / (1 - 1 / factor)
    slope, start = np.polyfit(
        1 / _wavelengths(2 * len(stored), theta)[between], place, 1
    )
    if slope <= 0 or start >= 0:
        return []
    # place = slope / w + start, with slope = C / (high - low), start = -low / width.
    width = original / slope if original else 1 / -start
    context = original or round(slope * width)
    low = -start * width
    return [
        {
            "low_freq_factor": float(np.round(low, digits)),
            "high_freq_factor": float(np.round(low + width, digits)),
            "original_max_position_embeddings": context,
        }
        for digits in (2, 6)
    ]
