"""What a calibration found, and its JSON form."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from gru_mem_jax.evaluation.calibration.exits import ExitCurve
from gru_mem_jax.evaluation.calibration.gates import (
    HALF,
    Criterion,
    Floats,
    Reliability,
    rates,
)
from gru_mem_jax.evaluation.statistics import Share
from gru_mem_jax.records import to_record

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateCalibration:
    """One gate.

    Attributes:
      probabilities: float64 [n], P(yes) or P(end) of n turns.
      labels: bool [n], whether the gate should have opened.
      reliability: of them.
      before: the threshold that the policy's settings have.
      picked: the threshold that was picked; None: none was, and `before` stays.
      problem: why none was picked, else None.
    """

    probabilities: Floats
    labels: npt.NDArray[np.bool_]
    reliability: Reliability
    before: float | None
    picked: float | None = None
    problem: str | None = None

    @property
    def threshold(self) -> float | None:
        """The one that the policy will have."""
        return self.before if self.picked is None else self.picked

    @property
    def has_both(self) -> bool:
        """Whether it should have opened on some turns, and not on others."""
        return 0 < self.reliability.positives < self.reliability.turns

    def at(self, threshold: float) -> dict[str, float] | None:
        """The measures of `gates.Rates` there; None where all labels are the same."""
        if not self.has_both:
            return None
        found = rates(self.probabilities, self.labels, [threshold])
        names = ("true_positive", "false_positive", "precision")
        measures = {name: float(getattr(found, name)[0]) for name in names}
        own = {"balanced_accuracy": found.balanced_accuracy, "f1": found.f1}
        return measures | {name: float(value[0]) for name, value in own.items()}

    def record(self) -> dict[str, Any]:
        """As JSON values; the turns themselves are in the folder's trajectories."""
        return {
            **to_record(self.reliability),
            "threshold_before": self.before,
            "threshold": self.threshold,
            "picked": self.picked is not None,
            "problem": self.problem,
            "at_threshold": None if self.threshold is None else self.at(self.threshold),
            "at_half": self.at(HALF),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over questions, with its 95% interval (bootstrap, `statistics`)."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The questions, asked at one pair of thresholds.

    Attributes:
      update_threshold, exit_threshold: None: the likelier side of the gate was taken.
      mode: "without_exit_gate" of the run to the end, else "with_exit_gate".
      chosen: whether these are the thresholds that were picked.
      questions, failed: how many, and how many of them have no answer.
      score: of the answers, 0 of those that failed.
      loss: of score against the run to the end, question by question; None of that run.
      complete: questions of which the chunk with the last evidence was read; None if
        all failed.
      exact: questions of which it was the last chunk read.
      chunks: mean number of chunks read.
      predicted_complete, predicted_chunks: what the readings to the end said; None of
        themselves.
    """

    update_threshold: float | None
    exit_threshold: float | None
    mode: str
    chosen: bool = False
    questions: int
    failed: int
    score: Mean
    loss: Mean | None = None
    complete: Share | None
    exact: Share | None
    chunks: float
    predicted_complete: float | None = None
    predicted_chunks: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was found.

    Attributes:
      policy: where it is.
      questions: read to the end.
      left_out: questions that were not, or have no gate on some chunk.
      criterion: by which the update threshold was picked.
      max_loss: by which the exit threshold was picked.
      update, exit: the gates.
      curve: of the exit gate, at each threshold; None if it has only one label.
      runs: to the end, and, where they were asked, at thresholds; by chunks read.
      settings: of the policy with the thresholds, as gru_mem.json holds them; None if
        no threshold was picked.
    """

    policy: str
    questions: int
    left_out: int
    criterion: Criterion
    max_loss: float
    update: GateCalibration
    exit: GateCalibration
    curve: ExitCurve | None
    runs: tuple[Run, ...]
    settings: dict[str, Any] | None

    @property
    def gates(self) -> dict[str, GateCalibration]:
        """By name."""
        return {"update": self.update, "exit": self.exit}

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        curve = self.curve
        return {
            "format": FORMAT,
            "policy": self.policy,
            "questions": self.questions,
            "left_out": self.left_out,
            "criterion": self.criterion,
            "max_loss": self.max_loss,
            "update": self.update.record(),
            "exit": self.exit.record(),
            "exit_curve": None
            if curve is None
            else {
                "all_chunks": curve.all_chunks,
                "thresholds": curve.thresholds.tolist(),
                "complete": curve.complete.tolist(),
                "exact": curve.exact.tolist(),
                "chunks": curve.chunks.tolist(),
            },
            "runs": to_record(self.runs),
            "settings": self.settings,
        }
