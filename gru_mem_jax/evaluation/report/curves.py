"""What the plots show, as numbers: measures by set, context and mode."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.evaluation import hijack
from gru_mem_jax.evaluation.records import ScoredAnswer
from gru_mem_jax.evaluation.report.collect import Sample
from gru_mem_jax.evaluation.report.embed import exit_distance
from gru_mem_jax.evaluation.report.words import context_title
from gru_mem_jax.evaluation.statistics import share
from gru_mem_jax.records import to_record

Labels = tuple[tuple[str, str | int], ...]
# Labels that can be an axis, the first that varies; and what follows from another.
_AXES = ("gap", "length", "num_chunks")
_FOLLOWS = {"length": "num_chunks"}
_AXIS_NAMES = {
    "gap": "gap (chunks)",
    "length": "length of the context",
    "num_chunks": "chunks of the context",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A mean, and its 95% interval where one is drawn."""

    value: float
    low: float | None = None
    high: float | None = None


Measure = Callable[[Iterable[Sample]], Point | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Sets of one kind of context, along what varies in it.

    Attributes:
      title: of what the contexts have in common; may be empty.
      axis: what varies; empty: nothing, and there is one context.
      ticks: its values as text.
      cells: samples by (set, mode, number of the tick).
      sets, modes: in the order of the tables.
    """

    title: str
    axis: str
    ticks: tuple[str, ...]
    cells: dict[tuple[str, str, int], list[Sample]]
    sets: tuple[str, ...]
    modes: tuple[str, ...]


def series(samples: Sequence[Sample], modes: Sequence[str]) -> list[Series]:
    """Groups samples so that contexts that differ in one label alone make a curve.

    Args:
      samples: those on clean documents.
      modes: in order.
    """
    values: dict[str, dict[str | int, None]] = {}
    for sample in samples:
        for name, label in sample.answer.labels.items():
            values.setdefault(name, {})[label] = None
    axis = next((name for name in _AXES if len(values.get(name, ())) > 1), None)
    groups: dict[Labels, list[Sample]] = {}
    for sample in samples:
        dropped = (axis, _FOLLOWS.get(axis or ""))
        kept = tuple(
            item for item in sample.answer.labels.items() if item[0] not in dropped
        )
        groups.setdefault(kept, []).append(sample)
    return [_series(dict(kept), axis, own, modes) for kept, own in groups.items()]


def _series(
    kept: dict[str, str | int],
    axis: str | None,
    samples: Sequence[Sample],
    modes: Sequence[str],
) -> Series:
    ticks = dict.fromkeys(s.answer.labels.get(axis or "", "") for s in samples)
    if all(isinstance(tick, int) for tick in ticks):
        ticks = dict.fromkeys(sorted(ticks))
    title = context_title(kept)
    if len(ticks) == 1 and axis is not None:
        title = context_title(samples[0].answer.labels)
    places = {tick: number for number, tick in enumerate(ticks)}
    cells: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        answer = sample.answer
        place = places[answer.labels.get(axis or "", "")]
        cells.setdefault((answer.set, answer.mode, place), []).append(sample)
    own = {mode for _, mode, _ in cells}
    return Series(
        title=title,
        axis=_AXIS_NAMES[axis] if axis is not None and len(ticks) > 1 else "",
        ticks=tuple(map(str, ticks)),
        cells=cells,
        sets=tuple(dict.fromkeys(name for name, _, _ in cells)),
        modes=tuple(mode for mode in modes if mode in own),
    )


def score(samples: Iterable[Sample]) -> Point | None:
    """Mean score, failed ones included, with its interval over the questions."""
    from gru_mem_jax.evaluation.statistics import interval

    by_question: dict[object, list[float]] = {}
    for sample in samples:
        by_question.setdefault(sample.question.key, []).append(sample.answer.score)
    values = [statistics.fmean(own) for own in by_question.values()]
    if not values:
        return None
    low, high = interval(values, resamples=2000)
    return Point(value=statistics.fmean(values), low=low, high=high)


def seconds(samples: Iterable[Sample]) -> Point | None:
    """Mean seconds a question: alone where that was measured, else in company."""
    answers = _done(samples)
    alone = [a.seconds_alone for a in answers if a.seconds_alone is not None]
    values = alone or [a.seconds_share for a in answers]
    return Point(value=statistics.fmean(values)) if values else None


def ratio(name: str) -> Measure:
    """A measure: the sum of (part, whole) counts, such as of `captured`."""

    def measure(samples: Iterable[Sample]) -> Point | None:
        counts = [getattr(answer, name) for answer in _done(samples)]
        counts = [count for count in counts if count is not None]
        whole = sum(whole for _, whole in counts)
        return Point(value=sum(part for part, _ in counts) / whole) if whole else None

    return measure


def exact_exit(samples: Iterable[Sample]) -> Point | None:
    """Share of exits that are at the last evidence."""
    exits = [a.exit for a in _done(samples) if a.exit is not None]
    return Point(value=exits.count("exact") / len(exits)) if exits else None


def well_formed(samples: Iterable[Sample]) -> Point | None:
    """Share of trajectories whose turns all have the form."""
    shares = [a.well_formed for a in _done(samples) if a.well_formed is not None]
    return Point(value=shares.count(1.0) / len(shares)) if shares else None


def read_share(samples: Iterable[Sample]) -> Point | None:
    """Share of the document's chunks that were read; None of modes that read none."""
    shares = [
        s.answer.chunks_read / s.question.num_chunks
        for s in samples
        if s.answer.failed is None and s.question.num_chunks
    ]
    return Point(value=statistics.fmean(shares)) if any(shares) else None


def _done(samples: Iterable[Sample]) -> list[ScoredAnswer]:
    return [s.answer for s in samples if s.answer.failed is None]


def memory_curve(samples: Iterable[Sample]) -> tuple[list[float], list[float]]:
    """Memory and company turn by turn, up to the last memory turn that anyone took.

    Returns:
      float [K], the mean memory size in tokens after memory turn k, over the
      trajectories that took it; float [K], the share of trajectories that did.
    """
    runs = [s.answer.memory_tokens for s in samples if s.answer.memory_tokens]
    sizes, reading = [], []
    for turn in range(max(map(len, runs), default=0)):
        reached = [run[turn] for run in runs if len(run) > turn]
        sizes.append(statistics.fmean(reached))
        reading.append(len(reached) / len(runs))
    return sizes, reading


def exit_distances(samples: Iterable[Sample]) -> list[int]:
    """Chunks between the last evidence and the exit, of those that have both."""
    distances = (exit_distance(s.question, s.answer) for s in samples)
    return [distance for distance in distances if distance is not None]


def pooled_attacks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `hijack.hijack_rows` with the counts of all policies added up.

    Returns:
      Rows like these without a policy, by attack and mode in the order of their first.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["mode"]), []).append(row)
    made = []
    for (attack, mode), own in groups.items():
        pooled: dict[str, Any] = {"attack": attack, "mode": mode}
        pooled |= {n: sum(row[n] for row in own) for n in ("pairs", "unpaired")}
        for name in hijack.MEASURES:
            known = [row[name] for row in own if row[name] is not None]
            counts = (sum(each[n] for each in known) for n in ("count", "of"))
            pooled[name] = to_record(share(*counts)) if known else None
        made.append(pooled)
    return made
