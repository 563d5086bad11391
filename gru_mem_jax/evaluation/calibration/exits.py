"""Where reading would have ended at a threshold, from readings to the end.

P(end) of every chunk was recorded with the exit gate ignored. At a threshold reading
ends after the first chunk whose P(end) is at least so much, or after the last chunk.
That is exact as long as the memories up to there are those that were recorded: the
update gate must be as it was.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.calibration.gates import HALF, Floats, candidates
from gru_mem_jax.evaluation.statistics import Share, share

_SLACK = 1e-12  # of shares, which are quotients


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExitCurve:
    """What reading n questions would have taken at each of m thresholds.

    Attributes:
      thresholds: float64 [m], ascending.
      complete: float64 [m], share of the questions of which the chunk with the last
        evidence was read.
      exact: float64 [m], share of which it was the last chunk read.
      chunks: float64 [m], mean number of chunks read.
      questions: n.
      all_chunks: mean number of chunks of a document.
    """

    thresholds: Floats
    complete: Floats
    exact: Floats
    chunks: Floats
    questions: int
    all_chunks: float

    def complete_share(self, index: int) -> Share:
        """`complete` at a threshold, with its interval over the questions."""
        return share(round(self.complete[index] * self.questions), self.questions)


def stops(
    ends: Sequence[Sequence[float]], thresholds: Sequence[float] | Floats
) -> npt.NDArray[np.int64]:
    """The last chunk that would have been read: int64 [m, n].

    Args:
      ends: P(end) after each chunk, of n documents, at least one chunk each.
      thresholds: float [m].
    """
    cuts = np.asarray(thresholds, np.float64)
    found = np.empty((len(cuts), len(ends)), np.int64)
    for number, own in enumerate(ends):
        highest = np.maximum.accumulate(np.asarray(own, np.float64))
        first = np.searchsorted(highest, cuts, "left")
        found[:, number] = np.minimum(first, len(highest) - 1)
    return found


def exit_curve(
    ends: Sequence[Sequence[float]],
    last_evidence: Sequence[int],
    thresholds: Sequence[float] | Floats | None = None,
) -> ExitCurve:
    """Complete evidence and chunks read at each threshold.

    Args:
      ends: as of `stops`.
      last_evidence: [n], index of the chunk with the last evidence.
      thresholds: None: one for each result that differs.

    Raises:
      InputError: there is no document, one without a chunk, or numbers differ.
    """
    some = len(ends) and all(len(own) for own in ends)
    if not some or len(ends) != len(last_evidence):
        raise InputError(
            "expected at least one document, chunks in each, and the last evidence of "
            f"each, got {len(ends)} documents and {len(last_evidence)} places"
        )
    if thresholds is None:
        # Only a probability above all before it can end a reading.
        records = [np.maximum.accumulate(np.asarray(own, np.float64)) for own in ends]
        thresholds = candidates(np.concatenate(records))
    cuts = np.sort(np.asarray(thresholds, np.float64))
    stop, last = stops(ends, cuts), np.asarray(last_evidence)
    return ExitCurve(
        thresholds=cuts,
        complete=(stop >= last).mean(axis=1),
        exact=(stop == last).mean(axis=1),
        chunks=(stop + 1).mean(axis=1),
        questions=len(ends),
        all_chunks=float(np.mean([len(own) for own in ends])),
    )


def choose_exit(curve: ExitCurve, max_loss: float = 0.01) -> int | None:
    """Index of the threshold that reads the fewest chunks for complete evidence.

    Of the thresholds whose share of complete evidence is at least 1 - max_loss (reading
    everything has 1), the one with the fewest chunks; of equal ones that nearest to
    0.5.

    Returns:
      None if no threshold loses so little.
    """
    good = np.flatnonzero(curve.complete >= 1 - max_loss - _SLACK)
    if not len(good):
        return None
    fewest = good[curve.chunks[good] <= curve.chunks[good].min() + _SLACK]
    return int(fewest[np.argmin(np.abs(curve.thresholds[fewest] - HALF))])


def neighbours(curve: ExitCurve, chosen: int, step: float = 0.05) -> list[int]:
    """The nearest thresholds on both sides that read noticeably less or more.

    Args:
      curve: of all candidates.
      chosen: index of a threshold.
      step: by how much, as a share of all chunks. Where none is so far away, the
        farthest that reads another number of chunks.

    Returns:
      None, one or two indices, ascending.
    """
    distance = (curve.chunks - curve.chunks[chosen]) / curve.all_chunks
    found = []
    below, above = np.flatnonzero(distance < 0), np.flatnonzero(distance > 0)
    if len(below):
        far = below[distance[below] <= -step]
        found.append(int(far[-1] if len(far) else below[0]))
    if len(above):
        far = above[distance[above] >= step]
        found.append(int(far[0] if len(far) else above[-1]))
    return found
