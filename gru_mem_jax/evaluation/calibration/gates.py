"""The probabilities of a gate against labels: reliability, and where to cut them.

Pure functions of two arrays, one number for each turn: P(yes) or P(end) of the gate,
and whether the gate should have opened.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.gate_measures import auc
from gru_mem_jax.evaluation.statistics import Share, share

Criterion = Literal["balanced_accuracy", "f1"]
CRITERIA: tuple[Criterion, ...] = ("balanced_accuracy", "f1")
BINS = 10
HALF = 0.5  # where a gate opens that takes the likelier token
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bin:
    """Turns whose probabilities are alike.

    Attributes:
      low, high: the probabilities are in [low, high), in the last bin in [low, high].
      predicted: their mean.
      observed: share of the turns whose gate should have opened, with Wilson's 95%
        interval. It takes turns as independent, which those of one question are not.
    """

    low: float
    high: float
    predicted: float
    observed: Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far the probabilities of a gate can be believed.

    Attributes:
      turns: n, how many.
      positives: of these the gate should have opened in so many.
      bins: of equal width; those without a turn are left out.
      calibration_error: sum over bins of (turns of the bin / n) |predicted - observed|
        (expected calibration error; Guo et al. 2017, arXiv 1706.04599, Eq. 3).
      brier: mean (p - label)^2 (Brier 1950).
      auc: as `gate_measures.auc`; None where all labels are the same.
    """

    turns: int
    positives: int
    bins: tuple[Bin, ...]
    calibration_error: float
    brier: float
    auc: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What a gate would do at each of some thresholds: arrays of float64 [n].

    Attributes:
      thresholds: ascending; the gate opens where its probability is at least so much.
      true_positive: share of the turns on which it should open, and does.
      false_positive: share of the turns on which it should not open, and does.
      precision: of the turns on which it opens, the share on which it should; 1 where
        it never opens.
    """

    thresholds: Floats
    true_positive: Floats
    false_positive: Floats
    precision: Floats

    @property
    def balanced_accuracy(self) -> Floats:
        """(true positive rate + true negative rate) / 2."""
        return (self.true_positive + 1 - self.false_positive) / 2

    @property
    def f1(self) -> Floats:
        """2 precision recall / (precision + recall); 0 where both are 0."""
        both = self.precision + self.true_positive
        product = 2 * self.precision * self.true_positive
        return np.divide(product, both, out=np.zeros_like(both), where=both > 0)


def reliability(
    probabilities: Sequence[float] | Floats,
    labels: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    bins: int = BINS,
) -> Reliability:
    """Predicted probabilities against what should have happened, in bins.

    Args:
      probabilities: [n] at least one, in 0..1.
      labels: bool [n], whether the gate should have opened.
      bins: how many, of equal width.

    Raises:
      InputError: there is none, they are not as many, or one is no probability.
    """
    predicted, wanted = _checked(probabilities, labels)
    places = np.minimum((predicted * bins).astype(int), bins - 1)
    found, error = [], 0.0
    for number in range(bins):
        own = places == number
        if not own.any():
            continue
        each = Bin(
            low=number / bins,
            high=(number + 1) / bins,
            predicted=float(predicted[own].mean()),
            observed=share(int(wanted[own].sum()), int(own.sum())),
        )
        found.append(each)
        error += own.mean() * abs(each.predicted - each.observed.share)
    return Reliability(
        turns=len(predicted),
        positives=int(wanted.sum()),
        bins=tuple(found),
        calibration_error=float(error),
        brier=float(np.mean((predicted - wanted) ** 2)),
        auc=auc(predicted.tolist(), wanted.tolist()),
    )


def rates(
    probabilities: Sequence[float] | Floats,
    labels: Sequence[bool] | npt.NDArray[np.bool_],
    thresholds: Sequence[float] | Floats,
) -> Rates:
    """What a gate would do at each threshold.

    Args:
      probabilities, labels: as of `reliability`; both labels must occur.
      thresholds: float [m] in 0..1.

    Raises:
      InputError: as `reliability`, or all labels are the same.
    """
    predicted, wanted = _checked(probabilities, labels)
    positive, negative = np.sort(predicted[wanted]), np.sort(predicted[~wanted])
    if not len(positive) or not len(negative):
        raise InputError(
            "rates of a gate need turns on which it should open and turns on which it "
            f"should not, got {len(positive)} and {len(negative)}"
        )
    cuts = np.sort(np.asarray(thresholds, np.float64))
    right = len(positive) - np.searchsorted(positive, cuts, "left")
    wrong = len(negative) - np.searchsorted(negative, cuts, "left")
    opened = right + wrong
    ones = np.ones(len(cuts))
    return Rates(
        thresholds=cuts,
        true_positive=right / len(positive),
        false_positive=wrong / len(negative),
        precision=np.divide(right, opened, out=ones, where=opened > 0),
    )


def choose_gate(found: Rates, criterion: Criterion = "balanced_accuracy") -> int:
    """Index of the best threshold by a criterion; of equal ones that nearest to 0.5.

    Raises:
      InputError: there is no such criterion.
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"criterion must be one of {', '.join(CRITERIA)}; got {criterion!r:.40}"
        )
    values = getattr(found, criterion)
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return int(best[np.argmin(np.abs(found.thresholds[best] - HALF))])


def candidates(probabilities: Sequence[float] | Floats) -> Floats:
    """Thresholds at which something changes, and 0.5: float64 [m], ascending.

    One between each two neighbouring probabilities, one below all and one above all,
    where 0 and 1 leave room. Each is a short decimal about the middle, so that a
    rounding error of a probability moves no gate across it.

    Args:
      probabilities: [n] in 0..1.
    """
    values = np.unique(np.asarray(probabilities, np.float64))
    edges = np.unique(np.concatenate([[0.0], values, [1.0]])).tolist()
    cuts = [_between(low, high) for low, high in itertools.pairwise(edges)]
    return np.unique([*cuts, HALF])


def _between(low: float, high: float) -> float:
    """The shortest decimal in the middle half of what lies between two numbers."""
    quarter = (high - low) / 4
    for digits in range(1, 18):
        cut = round(low + 2 * quarter, digits)
        if low + quarter <= cut <= high - quarter and low < cut < high:
            return cut
    return high


def _checked(
    probabilities: Sequence[float] | Floats,
    labels: Sequence[bool] | npt.NDArray[np.bool_],
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    predicted = np.asarray(probabilities, np.float64)
    wanted = np.asarray(labels, bool)
    if predicted.ndim != 1 or predicted.shape != wanted.shape or not len(predicted):
        raise InputError(
            "expected as many probabilities as labels, and at least one, got shapes "
            f"{predicted.shape} and {wanted.shape}"
        )
    if not np.all((predicted >= 0) & (predicted <= 1)):  # NaN is neither
        odd = predicted[~((predicted >= 0) & (predicted <= 1))][0]
        raise InputError(f"expected probabilities in 0..1, got {odd}")
    return predicted, wanted
