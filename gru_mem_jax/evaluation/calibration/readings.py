"""Readings to the end, against the labels of their questions: the two gates' turns."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.calibration.exits import (
    ExitCurve,
    choose_exit,
    exit_curve,
)
from gru_mem_jax.evaluation.calibration.gates import (
    Criterion,
    candidates,
    choose_gate,
    rates,
    reliability,
)
from gru_mem_jax.evaluation.calibration.result import GateCalibration
from gru_mem_jax.evaluation.records import AskedQuestion, QuestionKey
from gru_mem_jax.records import check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedReading:
    """One question, read to its end.

    Attributes:
      update, end: P(yes) and P(end) after each of T chunks, T at least 1.
      evidence: indices of the chunks with evidence, at least one.
    """

    update: tuple[float, ...]
    end: tuple[float, ...]
    evidence: tuple[int, ...]

    def __post_init__(self) -> None:
        chunks = len(self.update)
        if not chunks or len(self.end) != chunks:
            raise InputError(
                "a reading has P(yes) and P(end) of every chunk, got "
                f"{chunks} and {len(self.end)}"
            )
        if not self.evidence or not set(self.evidence) <= set(range(chunks)):
            raise InputError(
                f"a reading has evidence in some of its {chunks} chunks, got it in "
                f"{self.evidence!r:.80}"
            )
        for probability in (*self.update, *self.end):
            check_number("a gate's probability", probability, 0, 1)

    @property
    def last_evidence(self) -> int:
        """Index of the chunk after which reading should end."""
        return max(self.evidence)


def reading(trajectory: Trajectory, evidence: Sequence[int]) -> GatedReading | None:
    """The gates of a trajectory that read to the end.

    Args:
      trajectory: of constrained turns.
      evidence: indices of the chunks with evidence, as `agent.chunking.evidence_labels`
        gives them.

    Returns:
      None if it did not read the last evidence, or a turn has no probabilities: its
      generator does not give them, or the turn was cut.
    """
    turns = trajectory.memory_turns
    update = tuple(t.update_probability for t in turns)
    end = tuple(t.exit_probability for t in turns)
    known = tuple(p for p in (*update, *end) if p is not None)
    if len(known) < 2 * len(turns) or not evidence or max(evidence) >= len(turns):
        return None
    return GatedReading(
        update=known[: len(turns)], end=known[len(turns) :], evidence=tuple(evidence)
    )


def readings(
    questions: Mapping[QuestionKey, AskedQuestion],
    trajectories: Iterable[tuple[QuestionKey, Trajectory]],
) -> list[GatedReading]:
    """Those of an evaluation, in the order of their keys; what is none is left out.

    Raises:
      InputError: a trajectory has a number that is no probability.
    """
    found: dict[QuestionKey, GatedReading] = {}
    for key, trajectory in trajectories:
        question = questions.get(key)
        if question is None or trajectory.num_chunks != question.num_chunks:
            continue
        try:
            own = reading(trajectory, question.evidence_chunks)
        except InputError as error:
            raise InputError(f"question {question.id!r:.60}: {error}") from None
        if own is not None:
            found[key] = own
    return [found[key] for key in sorted(found)]


def calibrate_gates(
    read: Sequence[GatedReading],
    *,
    criterion: Criterion = "balanced_accuracy",
    max_loss: float = 0.01,
    before: tuple[float | None, float | None] = (None, None),
) -> tuple[GateCalibration, GateCalibration, ExitCurve | None]:
    """Reliability and thresholds of the update gate and of the exit gate.

    The update gate should open on chunks with evidence; the exit gate from the chunk
    with the last evidence on (the exact exit of arXiv 2602.10560 is at that chunk).

    Args:
      read: at least one.
      criterion, max_loss: see `calibrate`.
      before: update_threshold and exit_threshold of the settings.

    Returns:
      (update, exit, curve of the exit gate); without a curve if all documents have
      their last evidence in the first chunk.

    Raises:
      InputError: there is no reading, a number is no probability, or there is no such
        criterion.
    """
    if not read:
        raise InputError("a calibration needs at least one reading")
    update = _gate(
        [p for each in read for p in each.update],
        [t in each.evidence for each in read for t in range(len(each.update))],
        before[0],
    )
    exit_gate = _gate(
        [p for each in read for p in each.end],
        [t >= each.last_evidence for each in read for t in range(len(each.end))],
        before[1],
    )
    if update.has_both:
        cuts = candidates(update.probabilities)
        found = rates(update.probabilities, update.labels, cuts)
        place = choose_gate(found, criterion)
        update = dataclasses.replace(update, picked=float(cuts[place]))
    else:
        update = dataclasses.replace(
            update,
            problem="every chunk has evidence: there is none on which the gate should "
            "stay closed",
        )
    if not exit_gate.has_both:
        problem = (
            "the last evidence is in the first chunk of every document: there is no "
            "chunk after which reading should go on"
        )
        return update, dataclasses.replace(exit_gate, problem=problem), None
    curve = exit_curve([r.end for r in read], [r.last_evidence for r in read])
    chosen = choose_exit(curve, max_loss)
    if chosen is not None:
        picked = float(curve.thresholds[chosen])
        return update, dataclasses.replace(exit_gate, picked=picked), curve
    most = int(np.argmax(curve.complete))
    problem = (
        f"no threshold keeps the loss of evidence within {max_loss:g}: the least is "
        f"{1 - curve.complete[most]:.3g}, at {curve.thresholds[most]:g}; raise "
        "--max_loss, or read in mode without_exit_gate"
    )
    return update, dataclasses.replace(exit_gate, problem=problem), curve


def _gate(
    probabilities: Sequence[float], labels: Sequence[bool], before: float | None
) -> GateCalibration:
    return GateCalibration(
        probabilities=np.asarray(probabilities, np.float64),
        labels=np.asarray(labels, bool),
        reliability=reliability(probabilities, labels),
        before=before,
    )
