"""The figures of a report: which there are, and their files."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.evaluation import hijack
from gru_mem_jax.evaluation.report import curves
from gru_mem_jax.evaluation.report.collect import Sample
from gru_mem_jax.evaluation.report.curves import Measure, Point, Series
from gru_mem_jax.evaluation.report.words import context_title, mode_style, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS = 12  # of one kind, a context each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure.

    Attributes:
      name: of its files.
      label: what it shows.
      modes: that it has.
      draw: makes it.
    """

    name: str
    label: str
    modes: tuple[str, ...]
    draw: "Callable[[], Figure]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotGroup:
    """Figures on one matter, in rows of what belongs together."""

    title: str
    caption: str
    rows: tuple[tuple[Plot, ...], ...]


def plot_groups(samples: Sequence[Sample], modes: Sequence[str]) -> list[PlotGroup]:
    """The figures that samples have numbers for.

    Args:
      samples: of one policy, or of several that are seeds of one training.
      modes: in order.
    """
    clean = [sample for sample in samples if "attack" not in sample.answer.labels]
    clean = clean or list(samples)
    by = list(enumerate(curves.series(clean, modes)))
    groups = [
        PlotGroup(
            title="Score and time",
            caption="Mean score with its 95% interval (bootstrap over questions), and "
            "seconds a question.",
            rows=tuple(row for place in by for row in _score_and_time(*place)),
        ),
        PlotGroup(
            title="Memory over turns",
            caption="Mean memory after each memory turn, over those that took it: a "
            "chunk each, and again where the text is read in several passes; below, "
            "the share that still read: the exit gate thins them out.",
            rows=(tuple(_memories(clean, modes)),),
        ),
        PlotGroup(
            title="Evidence in the memory",
            caption="Captured: evidence that is in the memory after its chunk. "
            "Retained: of that, what is still in the last memory. Read: share of the "
            "document.",
            rows=tuple(_pooled(*place, _EVIDENCE) for place in by),
        ),
        PlotGroup(
            title="Gates",
            caption="Share of the chunks read whose update gate is right, of those "
            "with evidence and of others; share of exits at the last evidence; share "
            "of questions whose turns all have the form.",
            rows=tuple(_pooled(*place, _GATES) for place in by),
        ),
        PlotGroup(
            title="Exits",
            caption="Chunks between the last evidence and the exit; 0 is exact, a "
            "negative number too early. Where the document ends no exit is late.",
            rows=(tuple(_exits(clean)),),
        ),
    ]
    shown = [
        dataclasses.replace(group, rows=tuple(filter(None, group.rows)))
        for group in groups
    ]
    return [group for group in shown if group.rows]


def injection_group(rows: Sequence[Mapping[str, Any]]) -> list[PlotGroup]:
    """What attacks caused, all policies together; none without attacks.

    Args:
      rows: of `hijack.hijack_rows`.
    """
    plots = []
    for name, title in _attack_titles().items():
        shown: dict[str, dict[str, Point]] = {}
        for row in curves.pooled_attacks(rows):
            if (found := row[name]) is not None:
                point = Point(
                    value=found["share"], low=found["low"], high=found["high"]
                )
                shown.setdefault(row["attack"], {})[row["mode"]] = point
        if shown:
            plots.append(_dots(f"attack_{name}", title, "% by attack", shown, True))
    caption = (
        "Shares of the table of injected text, all policies together, with Wilson's "
    )
    caption += "95% intervals."
    group = PlotGroup(title="Injected text", caption=caption, rows=(tuple(plots),))
    return [group] if plots else []


def reading_group(sample: Sample, trajectory: Trajectory) -> PlotGroup:
    """One run of mode parallel, pass by pass."""

    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import readings

        evidence = sample.question.evidence_chunks
        return readings.draw_reading(trajectory, evidence)

    said = "right" if sample.answer.score >= 1 else "wrong"
    caption = (
        "Of each pass the chunks that were scanned against one memory at once, the "
        "update gates that were open, and below them, numbered, those that were merged "
        f"in order, with the size of the memory. The answer is {said}; under "
        "Trajectories it stands turn by turn."
    )
    label = f"One run of {mode_style(sample.answer.mode)[1]}, pass by pass"
    plot = Plot(
        name="one_parallel_run", label=label, modes=(sample.answer.mode,), draw=draw
    )
    return PlotGroup(title="One parallel run", caption=caption, rows=((plot,),))


def _attack_titles() -> dict[str, str]:
    """The measures of `hijack` by the names that readers see."""
    return {name: name.replace("_", " ").capitalize() for name in hijack.MEASURES}


# Name of the files, title and measure of shares.
_EVIDENCE = (
    ("captured", "Captured", curves.ratio("captured")),
    ("retained", "Retained", curves.ratio("retained")),
    ("read", "Read", curves.read_share),
)
_GATES = (
    ("update_on", "Update on evidence", curves.ratio("updates_on")),
    ("update_off", "Update off evidence", curves.ratio("updates_off")),
    ("exact_exit", "Exact exit", curves.exact_exit),
    ("well_formed", "Well formed", curves.well_formed),
)


def _score_and_time(number: int, each: Series) -> tuple[tuple[Plot, ...], ...]:
    """A row of each, set by set; one row where a plot has all sets."""
    score = _measured(f"score_{number}", "Score", each, curves.score)
    time = _measured(f"time_{number}", "Time", each, curves.seconds, "seconds")
    return (score, time) if each.axis else ((*score, *time),)


def _measured(
    name: str, title: str, each: Series, measure: Measure, unit: str = "%"
) -> tuple[Plot, ...]:
    """A measure set by set: a curve each, or dots for all sets of one context."""
    percent = unit == "%"
    cells = {place: measure(own) for place, own in each.cells.items()}
    if not any(point is not None for point in cells.values()):
        return ()
    if each.axis:
        return tuple(
            _lines(
                f"{name}_{_slug(own)}",
                f"{title}: {visible(own)}",
                _below(each, unit),
                each,
                {
                    mode: [cells.get((own, mode, i)) for i in range(len(each.ticks))]
                    for mode in each.modes
                },
                percent,
            )
            for own in each.sets
        )
    rows = {
        shown: {
            mode: point
            for mode in each.modes
            if (point := cells.get((shown, mode, 0))) is not None
        }
        for shown in each.sets
    }
    return (_dots(name, title, _below(each, unit), rows, percent),)


def _pooled(
    number: int, each: Series, shares: Sequence[tuple[str, str, Measure]]
) -> tuple[Plot, ...]:
    """Shares over all sets together, along the axis; set by set if there is none."""
    plots: list[Plot] = []
    for short, title, measure in shares:
        name = f"{short}_{number}"
        if not each.axis:
            plots += _measured(name, title, each, measure)
            continue
        pooled = {
            mode: [
                measure(
                    sample
                    for own in each.sets
                    for sample in each.cells.get((own, mode, i), ())
                )
                for i in range(len(each.ticks))
            ]
            for mode in each.modes
        }
        shown = {mode: points for mode, points in pooled.items() if any(points)}
        if shown:
            plots.append(_lines(name, title, _below(each, "%"), each, shown, True))
    return tuple(plots)


def _memories(samples: Sequence[Sample], modes: Sequence[str]) -> Iterator[Plot]:
    for number, (title, own) in enumerate(_contexts(samples)):
        found = {
            mode: curve
            for mode in modes
            if (curve := curves.memory_curve(s for s in own if s.answer.mode == mode))[
                0
            ]
        }
        if found:
            below = f"{title}; tokens" if title else "tokens"
            yield Plot(
                name=f"memory_{number}",
                label=f"Memory after each memory turn, {below}",
                modes=tuple(found),
                draw=_memory(below, found),
            )


def _exits(samples: Sequence[Sample]) -> Iterator[Plot]:
    for number, (title, own) in enumerate(_contexts(samples)):
        by_mode: dict[str, list[Sample]] = {}
        for sample in own:
            by_mode.setdefault(sample.answer.mode, []).append(sample)
        for mode, group in by_mode.items():
            distances = curves.exit_distances(group)
            if distances:
                full = f"Exits: {mode_style(mode)[1]}"
                below = f"{title}; % of exits" if title else "% of exits"
                yield Plot(
                    name=f"exits_{number}_{_slug(mode)}",
                    label=f"{full}, {below}",
                    modes=(mode,),
                    draw=_histogram(full, below, distances, mode),
                )


def _contexts(samples: Sequence[Sample]) -> list[tuple[str, list[Sample]]]:
    """Samples by context; of too many, the first, the last and some between."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(context_title(sample.answer.labels), []).append(sample)
    every = [(visible(title), own) for title, own in groups.items()]
    if len(every) <= _MOST_PANELS:
        return every
    last = len(every) - 1
    return [every[i * last // (_MOST_PANELS - 1)] for i in range(_MOST_PANELS)]


def _below(each: Series, unit: str) -> str:
    """The line below a title: the context, and the unit."""
    return f"{visible(each.title)}; {unit}" if each.title else unit


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40]


def _lines(
    name: str,
    title: str,
    below: str,
    each: Series,
    points: Mapping[str, Sequence[Point | None]],
    percent: bool,
) -> Plot:
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        ticks = [visible(tick) for tick in each.ticks]
        return drawing.lines(title, below, each.axis, ticks, points, percent=percent)

    label = f"{title}, {below}"
    return Plot(name=name, label=label, modes=tuple(points), draw=draw)


def _dots(
    name: str,
    title: str,
    below: str,
    rows: Mapping[str, Mapping[str, Point]],
    percent: bool,
) -> Plot:
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        shown = {visible(row): points for row, points in rows.items()}
        return drawing.dots(title, below, shown, percent=percent)

    modes = dict.fromkeys(mode for points in rows.values() for mode in points)
    label = f"{title}, {below}"
    return Plot(name=name, label=label, modes=tuple(modes), draw=draw)


def _memory(below: str, found: Mapping[str, Any]) -> "Callable[[], Figure]":
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        return drawing.memory("Memory", below, found)

    return draw


def _histogram(
    title: str, below: str, distances: Sequence[int], mode: str
) -> "Callable[[], Figure]":
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        return drawing.histogram(title, below, distances, mode)

    return draw


def write_plots(
    groups: Sequence[PlotGroup], folder: Any, prefix: str = ""
) -> list[dict[str, Any]]:
    """Draws the figures: into files, and for the page.

    Args:
      groups: of `plot_groups`.
      folder: made if absent; gets a PNG and an SVG of each.
      prefix: before the names of the files.

    Returns:
      Of each group title, caption and rows; of each plot of a row its name and its SVG.

    Raises:
      OSError: the folder cannot be written.
    """
    from gru_mem_jax.evaluation.report import drawing, svg

    folder = storage.locate(folder)
    storage.make_folder(folder)
    shown = []
    for group in groups:
        rows = []
        for row in group.rows:
            plots = []
            for plot in row:
                name = f"{prefix}{plot.name}"
                figure = plot.draw()
                picture = svg.inline(drawing.saved(figure, "svg"), name, plot.label)
                plots.append({"name": name, "svg": picture})
                drawing.add_legend(figure, plot.modes)
                for form in ("png", "svg"):
                    content = drawing.saved(figure, form)
                    durable_files.write_atomically(folder / f"{name}.{form}", content)
            rows.append(plots)
        shown.append({"title": group.title, "caption": group.caption, "rows": rows})
    return shown
