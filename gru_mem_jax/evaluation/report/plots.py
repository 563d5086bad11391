"""The figures of a report: which there are, and their files."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.evaluation.report import curves
from gru_mem_jax.evaluation.report.collect import Sample
from gru_mem_jax.evaluation.report.curves import Point, Series
from gru_mem_jax.evaluation.report.words import context_title, mode_style, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure = Callable[[Iterable[Sample]], Point | None]
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
    """Figures on one matter."""

    title: str
    caption: str
    plots: tuple[Plot, ...]


def plot_groups(samples: Sequence[Sample], modes: Sequence[str]) -> list[PlotGroup]:
    """The figures that samples have numbers for.

    Args:
      samples: of one policy, or of several that are seeds of one training.
      modes: in order.
    """
    clean = [sample for sample in samples if "attack" not in sample.answer.labels]
    clean = clean or list(samples)
    by = curves.series(clean, modes)
    groups = [
        PlotGroup(
            title="Score and time",
            caption="Mean score with its 95% interval (bootstrap over questions), and "
            "seconds a question.",
            plots=(
                *_measured(by, "score", "Score", curves.score, "%", True),
                *_measured(by, "time", "Time", curves.seconds, "seconds", False),
            ),
        ),
        PlotGroup(
            title="Memory over turns",
            caption="Mean memory after each chunk, over those that read it; below, the "
            "share that still read: the exit gate thins them out.",
            plots=tuple(_memories(clean, modes)),
        ),
        PlotGroup(
            title="Evidence in the memory",
            caption="Captured: evidence that is in the memory after its chunk. Retained: "
            "of that, what is still in the last memory. Read: share of the document.",
            plots=(
                *_pooled(by, "captured", "Captured", curves.ratio("captured")),
                *_pooled(by, "retained", "Retained", curves.ratio("retained")),
                *_pooled(by, "read", "Read", curves.read_share),
            ),
        ),
        PlotGroup(
            title="Gates",
            caption="Share of turns whose update gate is right, on chunks with evidence "
            "and on others; share of exits at the last evidence; share of turns that "
            "have the form.",
            plots=(
                *_pooled(
                    by,
                    "update_on",
                    "Update on evidence",
                    curves.ratio("updates_on"),
                ),
                *_pooled(
                    by,
                    "update_off",
                    "Update off evidence",
                    curves.ratio("updates_off"),
                ),
                *_pooled(by, "exact_exit", "Exact exit", curves.share("exact")),
                *_pooled(by, "well_formed", "Well formed", curves.well_formed),
            ),
        ),
        PlotGroup(
            title="Exits",
            caption="Chunks between the last evidence and the exit, 0: exact, negative: "
            "too early. A document that ends is no late exit.",
            plots=tuple(_exits(clean)),
        ),
    ]
    return [group for group in groups if group.plots]


def _measured(
    by: Sequence[Series],
    name: str,
    title: str,
    measure: Measure,
    unit: str,
    percent: bool,
) -> Iterator[Plot]:
    """A measure set by set: a curve each, or all sets of one context in one plot."""
    for number, each in enumerate(by):
        cells = {place: measure(own) for place, own in each.cells.items()}
        if not any(point is not None for point in cells.values()):
            continue
        if not each.axis:
            rows = {
                shown: {
                    mode: point
                    for mode in each.modes
                    if (point := cells.get((shown, mode, 0))) is not None
                }
                for shown in each.sets
            }
            yield _dots(f"{name}_{number}", _titled(title, each), rows, unit, percent)
            continue
        for own in each.sets:
            points = {
                mode: [cells.get((own, mode, i)) for i in range(len(each.ticks))]
                for mode in each.modes
            }
            full = f"{title}: {visible(own)}"
            yield _lines(
                f"{name}_{number}_{_slug(own)}",
                _titled(full, each),
                each,
                points,
                unit,
                percent,
            )


def _pooled(
    by: Sequence[Series], name: str, title: str, measure: Measure
) -> Iterator[Plot]:
    """A share over all sets together, along the axis; set by set if there is none."""
    for number, each in enumerate(by):
        if not each.axis:
            yield from _measured([each], f"{name}_{number}", title, measure, "%", True)
            continue
        pooled: dict[str, list[Point | None]] = {
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
            full = _titled(title, each)
            yield _lines(f"{name}_{number}", full, each, shown, "%", True)


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
            full = f"Memory: {title}" if title else "Memory"
            yield Plot(
                name=f"memory_{number}",
                label=full,
                modes=tuple(found),
                draw=_memory(full, found),
            )


def _exits(samples: Sequence[Sample]) -> Iterator[Plot]:
    for number, (title, own) in enumerate(_contexts(samples)):
        by_mode: dict[str, list[Sample]] = {}
        for sample in own:
            by_mode.setdefault(sample.answer.mode, []).append(sample)
        for mode, group in by_mode.items():
            distances = curves.exit_distances(group)
            if distances:
                full = ": ".join(filter(None, [mode_style(mode)[1], title]))
                yield Plot(
                    name=f"exits_{number}_{_slug(mode)}",
                    label=f"Exits, {full}",
                    modes=(mode,),
                    draw=_histogram(full, distances, mode),
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


def _titled(title: str, each: Series) -> str:
    return f"{title}, {visible(each.title)}" if each.title else title


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40]


def _lines(
    name: str,
    title: str,
    each: Series,
    points: Mapping[str, Sequence[Point | None]],
    unit: str,
    percent: bool,
) -> Plot:
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        ticks = [visible(tick) for tick in each.ticks]
        return drawing.lines(
            title, each.axis, ticks, points, unit=unit, percent=percent
        )

    return Plot(name=name, label=title, modes=tuple(points), draw=draw)


def _dots(
    name: str,
    title: str,
    rows: Mapping[str, Mapping[str, Point]],
    unit: str,
    percent: bool,
) -> Plot:
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        shown = {visible(row): points for row, points in rows.items()}
        return drawing.dots(title, shown, unit=unit, percent=percent)

    modes = dict.fromkeys(mode for points in rows.values() for mode in points)
    return Plot(name=name, label=title, modes=tuple(modes), draw=draw)


def _memory(title: str, found: Mapping[str, Any]) -> "Callable[[], Figure]":
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        return drawing.memory(title, found)

    return draw


def _histogram(
    title: str, distances: Sequence[int], mode: str
) -> "Callable[[], Figure]":
    def draw() -> "Figure":
        from gru_mem_jax.evaluation.report import drawing

        return drawing.histogram(title, distances, mode)

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
      Of each group title, caption and plots; of each plot its name and its SVG.

    Raises:
      OSError: the folder cannot be written.
    """
    from gru_mem_jax.evaluation.report import drawing, svg

    folder = storage.locate(folder)
    storage.make_folder(folder)
    shown = []
    for group in groups:
        plots = []
        for plot in group.plots:
            name = f"{prefix}{plot.name}"
            figure = plot.draw()
            picture = svg.inline(drawing.saved(figure, "svg"), name, plot.label)
            plots.append({"name": name, "svg": picture})
            drawing.add_legend(figure, plot.modes)
            for form in ("png", "svg"):
                content = drawing.saved(figure, form)
                durable_files.write_atomically(folder / f"{name}.{form}", content)
        shown.append({"title": group.title, "caption": group.caption, "plots": plots})
    return shown
