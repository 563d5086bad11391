"""Plots of a training run's rows: the dynamics that arXiv 2602.10560 shows, and more.

One PNG for each panel (of `runs.columns`) that the rows have numbers for, and one of
all panels. With one run a colour is a column; with several a colour is a run and a dash
pattern a column.
"""

import dataclasses
import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import InputError
from gru_mem_jax.runs.columns import Panel, declared, panel_columns

Rows = Sequence[Mapping[str, Any]]

OVERVIEW = "overview"
# Okabe and Ito's palette: distinct for the colour-blind and in grey.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222")
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
_INK = "#222222"
_MOST_LINES = 12  # of a panel: more are not distinguishable
_LARGEST_STEP = 1 << 53  # float64 holds whole numbers up to here
_SMOOTH_FROM = 60  # points; fewer are drawn as they are
_SMOOTH_SHARE = 30  # the mean is over this part of a line's points


def plot_training(
    runs: Mapping[str, Rows], folder: str | os.PathLike[str]
) -> list[Any]:
    """Draws each panel that has numbers, and all panels in one picture.

    Args:
      runs: a run's name to its rows, as `metrics.read_metrics` gives them.
      folder: of the PNGs; created if it does not exist. Files are replaced whole.

    Returns:
      The files, the overview first.

    Raises:
      InputError: no panel has a number, or the folder cannot be written.
    """
    folder = storage.locate(folder)
    names = dict.fromkeys(k for rows in runs.values() for row in rows for k in row)
    lines = {p.name: list(_lines(p, runs, names)) for p in declared().panels}
    shown = [panel for panel in declared().panels if lines[panel.name]]
    if not shown:
        raise InputError(f"{', '.join(runs)}: no numbers to plot yet")
    paths = []
    try:
        storage.make_folder(folder)
        for name, panels in [(OVERVIEW, shown), *((p.name, [p]) for p in shown)]:
            paths.append(folder / f"{name}.png")
            picture = _draw(panels, lines, list(runs))
            durable_files.write_atomically(paths[-1], picture)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    return paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    run: int
    column: int
    label: str
    steps: list[int]
    values: list[float]


def _lines(
    panel: Panel, runs: Mapping[str, Rows], names: Iterable[str]
) -> Iterator[_Line]:
    shown = panel_columns(panel, names)[:_MOST_LINES]
    for number, column in enumerate(shown):
        for run, rows in enumerate(runs.values()):
            points = [
                (row["step"], row[column.name])
                for row in rows
                if _usable(row, column.name)
            ]
            if points:
                steps, values = (list(x) for x in zip(*points))
                yield _Line(
                    run=run,
                    column=number,
                    label=column.label,
                    steps=steps,
                    values=values,
                )


def _usable(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a number to plot; numbers that are not finite are strings."""
    value = row.get(name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e300 and 0 <= row["step"] < _LARGEST_STEP


def smooth(values: Sequence[float]) -> tuple[list[float], int]:
    """Means over the last w values (fewer at the start), and w; w = 1 for few values.

    Args:
      values: of one line, in order.
    """
    width = 1
    if len(values) >= _SMOOTH_FROM:
        width = max(2, len(values) // _SMOOTH_SHARE)
    means = []
    for i in range(len(values)):
        window = values[max(0, i + 1 - width) : i + 1]
        means.append(math.fsum(window) / len(window))
    return means, width


def _draw(
    panels: Sequence[Panel], lines: Mapping[str, Sequence[_Line]], runs: Sequence[str]
) -> bytes:
    from matplotlib.figure import Figure  # slow to import, needed here only
    from matplotlib.lines import Line2D

    many = len(runs) > 1
    columns = min(3, len(panels))
    height = -(-len(panels) // columns)
    size = (4.6 * columns, 3.2 * height) if len(panels) > 1 else (7.0, 4.2)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(height, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    width = 1
    for panel, axes in zip(panels, grid):
        width = max(width, _draw_panel(axes, panel, lines[panel.name], many))
    if many:
        handles = [
            Line2D([], [], color=_COLORS[i % len(_COLORS)], linewidth=2)
            for i in range(len(runs))
        ]
        legend = figure.legend(
            handles,
            list(runs),
            loc="outside upper left",
            ncols=min(3, len(runs)),
            frameon=False,
            fontsize=8,
        )
        _plain(legend.get_texts())
    if width > 1:
        figure.supxlabel(
            f"thin: each step; bold: mean of the last {width} steps or fewer",
            fontsize=7,
            color="#777777",
        )
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters of a run's name that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, dpi=110 if len(panels) > 1 else 150, format="png")
    return file.getvalue()


def _draw_panel(axes, panel: Panel, lines: Sequence[_Line], many: bool) -> int:
    """Draws a panel's lines.

    Returns:
      The largest number of steps that a bold line is the mean of.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    widest = 1
    shown: dict[str, Any] = {}
    for line in lines:
        color = _COLORS[(line.run if many else line.column) % len(_COLORS)]
        dash = _DASHES[line.column % len(_DASHES)]
        if not many and line.column < len(_COLORS):
            dash = "-"
        means, width = smooth(line.values)
        if width > 1:
            axes.plot(line.steps, line.values, color=color, linewidth=0.6, alpha=0.3)
        few = len(line.steps) <= 12
        style = {"linestyle": dash, "linewidth": 1.6}
        style |= {"marker": "o" if few else None, "markersize": 3}
        axes.plot(line.steps, means, color=color, alpha=0.85, **style)
        shown.setdefault(line.label, Line2D([], [], color=_INK if many else color))
        shown[line.label].set(linestyle=dash, linewidth=1.6)
        widest = max(widest, width)
    axes.set_title(panel.title, fontsize=10, color=_INK, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel(panel.unit, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for limit in panel.limits:
        # Equal axes make runs comparable; values outside the limits extend them.
        low, high = axes.get_ylim()
        axes.set_ylim(min(limit, low), max(limit, high))
    if len(panel.limits) == 1:
        axes.set_ylim(bottom=panel.limits[0])
    if len(shown) > 1:
        legend = axes.legend(
            list(shown.values()),
            list(shown),
            frameon=False,
            fontsize=7,
            loc="best",
            ncols=1 + (len(shown) > 3),
        )
        _plain(legend.get_texts())
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, length=3, labelsize=8)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.6)
    axes.set_axisbelow(True)
    return widest


def _plain(texts) -> None:
    """Disables formulas in names."""
    for text in texts:
        text.set_parse_math(False)
