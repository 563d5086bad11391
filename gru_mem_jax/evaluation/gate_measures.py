"""How well a gate tells chunks apart, whatever is the more frequent."""

from collections.abc import Sequence

import numpy as np


def auc(scores: Sequence[float], is_open: Sequence[bool]) -> float | None:
    """Area under the ROC curve.

    The probability that a turn whose gate is to open has a higher score than one whose
    gate is to stay closed, ties by half: the rank sum of Mann and Whitney (1947),

        (sum of the ranks of the open ones - n (n + 1) / 2) / (n m)

    0.5: no better than chance, 1: one threshold is right for all.

    Args:
      scores: of n + m turns, finite, the higher the more the gate is open.
      is_open: what is right; n of them true.

    Returns:
      In 0..1; None where n or m is 0.
    """
    values, opens = np.asarray(scores, np.float64), np.asarray(is_open, bool)
    n, m = int(opens.sum()), int((~opens).sum())
    if not n or not m:
        return None
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = ends - (counts - 1) / 2  # from 1, those of equal values in the mean
    total = ranks[place][opens].sum()
    return float((total - n * (n + 1) / 2) / (n * m))


def balanced_accuracy(said: Sequence[bool], is_open: Sequence[bool]) -> float | None:
    """The mean of two shares: right where the gate is to open, and where it is not.

    0.5 for a gate that always says the same.

    Args:
      said: whether the gate opens, of each turn.
      is_open: what is right.

    Returns:
      In 0..1; None where one of the two does not occur.
    """
    found, opens = np.asarray(said, bool), np.asarray(is_open, bool)
    if opens.all() or not opens.any():
        return None
    return float((found[opens].mean() + (~found[~opens]).mean()) / 2)
