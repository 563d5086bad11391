"""Where the paragraphs with evidence stand among the others.

Every paragraph gets a place, a number, and a document is its paragraphs in the order of
their places. A longer document adds paragraphs and moves none, so that the shorter one
is a subsequence of it.
"""

import random
from collections.abc import Sequence
from typing import Literal, Protocol

from gru_mem_jax.errors import InputError

EvidencePosition = Literal["uniform", "first_20", "last_20", "spread"]
EVIDENCE_POSITIONS: tuple[EvidencePosition, ...] = (
    "uniform",
    "first_20",
    "last_20",
    "spread",
)
EDGE = 0.2  # the share of a document that first_20 and last_20 mean


class Placing(Protocol):
    """Places for the paragraphs of one question."""

    @property
    def evidence(self) -> Sequence[float]:
        """Those of the paragraphs with evidence, in the order given."""

    def place(self, weight: float) -> float:
        """The place of the next other paragraph, whose length is `weight`."""

    def check(self) -> None:
        """Raises InputError if the paragraphs so far are too few for the evidence."""


class Uniform:
    """Each order of all paragraphs is equally likely, at every length.

    Args:
      rng: of the places.
      weights: lengths of the paragraphs with evidence.
    """

    def __init__(self, rng: random.Random, weights: Sequence[float]):
        self._rng = rng
        self.evidence: Sequence[float] = [rng.random() for _ in weights]

    def place(self, weight: float) -> float:
        """A number in 0..1."""
        return self._rng.random()

    def check(self) -> None:
        """None are too few."""


class Edge:
    """All evidence in the first, or in the last, fifth of the document.

    The fifth and the rest grow together, so that this holds at every length. Inside of
    the fifth each order is equally likely.

    Args:
      rng: of the places.
      weights: lengths of the paragraphs with evidence.
      last: the last fifth, not the first.
      fill: how much of the fifth may be filled, where weights are not quite exact.
    """

    def __init__(
        self,
        rng: random.Random,
        weights: Sequence[float],
        *,
        last: bool,
        fill: float = 1.0,
    ):
        self._rng, self._share = rng, EDGE * fill
        self._other = -1 if last else 1  # where the rest begins
        self._inside = self._total = sum(weights)
        self.evidence: Sequence[float] = [rng.random() for _ in weights]

    def place(self, weight: float) -> float:
        """A number in 0..1 in the fifth, beyond it in the rest."""
        self._total += weight
        if self._inside + weight <= self._share * self._total:
            self._inside += weight
            return self._rng.random()
        return self._rng.random() + self._other

    def check(self) -> None:
        """Raises InputError if the evidence is more than a fifth of the document."""
        if self._inside > self._share * self._total:
            raise InputError(
                f"its evidence is {self._inside / self._total:.0%} of the document, "
                f"and cannot lie in {EDGE:.0%} of it; take longer documents, or "
                "evidence_position uniform"
            )


class Spread:
    """Evidence evenly apart: of two paragraphs one after 1/4, the other after 3/4.

    Args:
      rng: of the places, and of the order of the evidence.
      weights: lengths of the paragraphs with evidence.
    """

    def __init__(self, rng: random.Random, weights: Sequence[float]):
        self._rng = rng
        count = len(weights)
        self.evidence: Sequence[float] = [
            float(place) for place in rng.sample(range(count), count)
        ]
        # Region i lies before the evidence at i; the outer two are half as long.
        self._shares = [(1 if 0 < i < count else 0.5) / count for i in range(count + 1)]
        self._have = [0.0] * (count + 1)

    def place(self, weight: float) -> float:
        """A number in the region that lacks most."""
        total = sum(self._have) + weight
        lacks = [share * total - h for share, h in zip(self._shares, self._have)]
        region = lacks.index(max(lacks))
        self._have[region] += weight
        return region - self._rng.uniform(0.001, 0.999)  # evidence is at whole numbers

    def check(self) -> None:
        """None are too few."""


def placing(
    position: EvidencePosition,
    rng: random.Random,
    weights: Sequence[float],
    *,
    exact: bool,
) -> Placing:
    """The places for a question.

    Args:
      position: where its evidence is to lie.
      rng: of the places.
      weights: lengths of the paragraphs with evidence, in paragraphs or in tokens.
      exact: whether lengths add up exactly; tokens of headings vary with the numbers.
    """
    if position == "uniform":
        return Uniform(rng, weights)
    if position == "spread":
        return Spread(rng, weights)
    last = position == "last_20"
    return Edge(rng, weights, last=last, fill=1.0 if exact else 0.98)
