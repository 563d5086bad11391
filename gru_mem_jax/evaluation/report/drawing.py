"""The kinds of plots: lines along an axis, dots by name, memory, histograms.

Each is a figure of one panel, small enough for a phone. The page has it as SVG, in
colours of its own (`svg.inline`); the files are for papers and slides.
"""

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gru_mem_jax.evaluation.report.curves import Point
from gru_mem_jax.evaluation.report.words import mode_style, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, FAINT = "#1D1F22", "#5C6167", "#E3E3DF"
GOOD, BAD = "#00704F", "#B3400A"
EVIDENCE = "#E69F00"
_WIDTH = 4.3  # inches
_TITLE, _TEXT = 9.5, 8
_LEGEND_COLUMNS = 3
_BESIDE = 0.055  # of the distance of two ticks
_MARKS = ("o", "s", "D", "^", "v", "P", "X", "p")


def panel(
    height: float, title: str, below: str, left: float = 0.12
) -> "tuple[Figure, Axes]":
    """A figure of one panel, with a title and a smaller line below it."""
    from matplotlib.figure import Figure  # slow to import, needed here only

    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes((left, 0.42 / height, 0.97 - left, 1 - 0.88 / height))
    style: dict[str, Any] = {"ha": "left", "va": "baseline", "parse_math": False}
    figure.text(0.01, 1 - 0.17 / height, title, fontsize=_TITLE, color=INK, **style)
    figure.text(0.01, 1 - 0.34 / height, below, fontsize=_TEXT, color=SOFT, **style)
    return figure, axes


def clean(axes: "Axes", grid: Literal["x", "y"] = "y") -> None:
    """The look of all plots: two thin spines, small ticks, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.spines[["left", "bottom"]].set_linewidth(0.7)
    axes.tick_params(colors=SOFT, length=2.5, width=0.7, labelsize=_TEXT)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def tip(artist: Any, mode: str, text: str = "") -> None:
    """For the page: whose it is, and what a pointer on it shows (`svg.inline`)."""
    artist.set_gid(f"mode={visible(mode)}|{visible(text)}")


def lines(
    title: str,
    below: str,
    axis: str,
    ticks: Sequence[str],
    curves: Mapping[str, Sequence[Point | None]],
    *,
    percent: bool = False,
) -> "Figure":
    """A line for each mode along the ticks, with intervals.

    Args:
      title, below: above the plot; `below` has the unit.
      axis: of what varies.
      ticks: names of the places along it.
      curves: points of each mode, one for each tick; None: there is none.
      percent: whether points are shares: then the axis is from 0 to 100.
    """
    from matplotlib.ticker import PercentFormatter

    figure, axes = panel(2.85, title, below)
    values = [p.value for points in curves.values() for p in points if p is not None]
    for number, (mode, points) in enumerate(curves.items()):
        known = [(i, p) for i, p in enumerate(points) if p is not None]
        if not known:
            continue
        color, name = mode_style(mode)
        # Beside one another, so that equal ones are seen.
        beside = _BESIDE * (number - (len(curves) - 1) / 2)
        places = [i + beside for i, _ in known]
        (line,) = axes.plot(
            places, [p.value for _, p in known], color=color, linewidth=1.4
        )
        tip(line, mode)
        for x, (i, point) in zip(places, known):
            if point.low is not None and point.high is not None:
                (bar,) = axes.plot(
                    [x, x], [point.low, point.high], color=color, linewidth=0.9
                )
                tip(bar, mode)
            (dot,) = axes.plot(
                [x],
                [point.value],
                marker=_MARKS[number % len(_MARKS)],
                color=color,
                markersize=4.8,
                markeredgewidth=0,
            )
            tip(dot, mode, f"{name}, {ticks[i]}: {_number(point, percent)}")
    labels = axes.set_xticks(range(len(ticks)), ticks)
    for label in labels:
        label.label1.set_parse_math(False)
    axes.set_xlim(-0.35, len(ticks) - 0.65)
    axes.set_xlabel(axis, fontsize=_TEXT, color=SOFT)
    if percent:
        axes.set_ylim(-0.02, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    elif values and min(values) > 0 and max(values) / min(values) > 12:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(bottom=0)
    clean(axes)
    return figure


def dots(
    title: str,
    below: str,
    rows: Mapping[str, Mapping[str, Point]],
    *,
    percent: bool = False,
) -> "Figure":
    """A row for each name, with a dot for each mode and its interval."""
    from matplotlib.ticker import PercentFormatter

    modes = list(dict.fromkeys(mode for row in rows.values() for mode in row))
    pitch = 0.13 * max(len(modes), 2) + 0.12
    left = min(0.4, 0.03 + 0.0155 * max(map(len, rows), default=0))
    figure, axes = panel(1.0 + pitch * max(len(rows), 2), title, below, left)
    for row, (name, points) in enumerate(rows.items()):
        for mode, point in points.items():
            color, shown = mode_style(mode)
            number = modes.index(mode)
            y = row + 0.7 * ((number + 0.5) / len(modes) - 0.5)
            if point.low is not None and point.high is not None:
                (bar,) = axes.plot(
                    [point.low, point.high], [y, y], color=color, linewidth=1.2
                )
                tip(bar, mode)
            (dot,) = axes.plot(
                [point.value],
                [y],
                marker=_MARKS[number % len(_MARKS)],
                color=color,
                markersize=4.6,
                markeredgewidth=0,
            )
            tip(dot, mode, f"{name}, {shown}: {_number(point, percent)}")
    axes.set_yticks(range(len(rows)), list(rows))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    if percent:
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    else:
        axes.set_xlim(left=0)
    clean(axes, "x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def memory(
    title: str,
    below: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> "Figure":
    """Memory size after each memory turn, and below it who still reads.

    Args:
      title, below: above the plot.
      curves: (sizes, shares) of each mode, as `curves.memory_curve` gives them.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = panel(3.3, title, below)
    axes.set_position((0.12, 0.41, 0.85, 0.455))
    lower = figure.add_axes((0.12, 0.13, 0.85, 0.17), sharex=axes)
    for mode, (sizes, reading) in curves.items():
        color, _ = mode_style(mode)
        turns = range(1, len(sizes) + 1)
        style: dict[str, Any] = {"color": color, "linewidth": 1.6}
        style |= {"solid_capstyle": "butt"}
        style |= {"marker": "o", "markersize": 3} if len(sizes) < 3 else {}
        for part, values in ((axes, sizes), (lower, reading)):
            (line,) = part.plot(turns, values, **style)
            tip(line, mode)
    axes.set_ylim(bottom=0)
    lower.set_ylim(0, 1.08)
    lower.set_yticks([0, 1])
    lower.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    for part in (axes, lower):
        clean(part)
    axes.tick_params(labelbottom=False)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    lower.set_xlabel("memory turn", fontsize=_TEXT, color=SOFT)
    lower.set_title("% still reading", fontsize=_TEXT, color=SOFT, loc="left", pad=4)
    return figure


def histogram(title: str, below: str, distances: Sequence[int], mode: str) -> "Figure":
    """How far after the last evidence (negative: before it) reading ended."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = panel(2.5, title, below)
    reach = max(3, max(map(abs, distances), default=0))
    width = max(1, math.ceil(reach / 20))  # chunks in a bar; 0 has its own
    counts: dict[int, int] = {}
    for distance in distances:
        bar = math.copysign(math.ceil(abs(distance) / width), distance)
        counts[int(bar)] = counts.get(int(bar), 0) + 1
    for bar, count in sorted(counts.items()):
        low, high = sorted(
            (bar * width, (abs(bar) - 1) * width * (1 if bar > 0 else -1))
        )
        color = GOOD if bar == 0 else BAD
        value = count / len(distances)
        if bar == 0:
            center, span, said = 0.0, 1.0, "at the last evidence"
        else:
            first = low + 1 if bar > 0 else low
            last = high if bar > 0 else high - 1
            center, span = (first + last) / 2, float(width)
            said = f"{first:+d}" if first == last else f"{first:+d} to {last:+d}"
        (patch,) = axes.bar(center, value, span * 0.86, color=color, linewidth=0)
        tip(patch, mode, f"{said}: {count} of {len(distances)} ({100 * value:.1f}%)")
    axes.axvline(0, color=SOFT, linewidth=0.7, linestyle=(0, (2, 2)))
    axes.set_xlim(-reach - 1, reach + 1)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.set_xlabel("chunks after the last evidence", fontsize=_TEXT, color=SOFT)
    clean(axes)
    return figure


def chunk_axis(axes: "Axes", lanes: Mapping[float, str]) -> None:
    """The look of lanes of chunks: their names on the left, numbers from 1 below.

    Args:
      axes: chunk t stands at t.
      lanes: names by height.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    clean(axes, "x")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks(list(lanes), list(lanes.values()))
    axes.tick_params(axis="y", length=0)
    _, end = axes.get_xlim()
    ticks = MaxNLocator(integer=True, nbins=9).tick_values(1, end + 1)
    first = 0.5 * (ticks[1] - ticks[0]) + 1  # so near to chunk 1 none stands
    shown = [0, *(tick - 1 for tick in ticks if first < tick <= end + 1)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(lambda place, _: f"{place + 1:.0f}")
    axes.set_xlabel("chunk", fontsize=_TEXT, color=SOFT)


def _number(point: Point, percent: bool) -> str:
    scale = 100 if percent else 1
    digits = 1 if percent else 3
    text = f"{scale * point.value:.{digits}f}"
    if point.low is None or point.high is None:
        return text
    low, high = scale * point.low, scale * point.high
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def add_legend(figure: "Figure", modes: Iterable[str]) -> None:
    """Names the modes below a figure; the page has one legend for all."""
    from matplotlib.lines import Line2D

    styles = [mode_style(mode) for mode in modes]
    legend = figure.legend(
        [Line2D([], [], color=color, linewidth=2.5) for color, _ in styles],
        [name for _, name in styles],
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=min(_LEGEND_COLUMNS, len(styles)),
        frameon=False,
        fontsize=_TEXT,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _bounds(figure: "Figure") -> Any:
    """The figure, and its legend below it; None without one."""
    from matplotlib.transforms import Bbox

    if not figure.legends:
        return None
    rows = -(-len(figure.legends[0].get_texts()) // _LEGEND_COLUMNS)
    width, height = figure.get_size_inches()
    return Bbox([[0, -0.1 - 0.17 * rows], [width, height]])


def saved(figure: "Figure", form: str, dpi: int = 160) -> bytes:
    """A figure as the bytes of a PNG or an SVG; equal figures give equal bytes."""
    import matplotlib

    file = io.BytesIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "gru-mem"}
    metadata = {"Date": None} if form == "svg" else None
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        # Letters of a name that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(
            file, dpi=dpi, format=form, metadata=metadata, bbox_inches=_bounds(figure)
        )
    return file.getvalue()
