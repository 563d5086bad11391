"""How sure means and shares are: paired bootstrap over questions, Wilson's interval."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_Z = 1.959964  # of LEVEL
_MOST_HELD = 1 << 22  # numbers of questions, of one block


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean difference of two paired samples.

    Attributes:
      mean: of first - second.
      low, high: its interval.
      p: two-sided, that it is 0: twice the share of resamples on the other side of 0.
      count: pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int


def interval(
    values: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean (Efron 1979).

    Args:
      values: [n] at least one; the questions are what is drawn anew, with replacement.
      level: of confidence, in 0..1.
      resamples: how many.
      seed: of the draws; equal for equal arguments.
    """
    means = _means(np.asarray(values, np.float64), resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired bootstrap: both on the same questions, drawn together.

        p = 2 min(1 + #(d* <= 0), 1 + #(d* >= 0)) / (resamples + 1), at most 1

    over the resampled mean differences d* (Davison and Hinkley 1997, 4.4: a resample
    more, the data's own, so that p is never 0).

    Args:
      first, second: [n] at least one, of the same questions in the same order.
      level, resamples, seed: as of `interval`.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    means = _means(differences, resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    fewer = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (1 + int(fewer)) / (resamples + 1)),
        count=len(differences),
    )


@dataclasses.dataclass(frozen=True)
class Share:
    """Some of several, with a 95% interval.

    Attributes:
      count, of: how many of how many.
      share: count / of; NaN of none.
      low, high: Wilson's score interval (Wilson 1927), which holds for shares of 0
        and 1 too.
    """

    count: int
    of: int
    share: float
    low: float
    high: float


def share(count: int, of: int) -> Share:
    """A share with its interval; all of 0..1 is possible where there is nothing."""
    if not of:
        return Share(0, 0, math.nan, 0.0, 1.0)
    p, z2 = count / of, _Z**2
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z * math.sqrt(p * (1 - p) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return Share(count, of, p, max(0.0, middle - half), min(1.0, middle + half))


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample, by n - 1; None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of values [n] drawn anew: float64 [resamples]."""
    blocks = _draws(len(values), resamples, seed)
    return np.concatenate([values[drawn].mean(axis=1) for drawn in blocks])


def _draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Which are drawn: int32 [rows, count], of all blocks together [resamples, count].

    Most sets of an evaluation have equally many questions, so the last draws are kept.
    """
    rows = max(1, _MOST_HELD // count)
    if rows >= resamples:
        yield _kept_draws(count, resamples, seed)
        return
    random = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), count)
        yield random.integers(0, count, shape, np.int32)


@functools.lru_cache(maxsize=2)
def _kept_draws(count: int, resamples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, count, (resamples, count), np.int32)
