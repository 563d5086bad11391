"""The picture of a calibration: reliability, ROC, and what an exit threshold costs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from gru_mem_jax.evaluation.calibration.gates import HALF, candidates, rates
from gru_mem_jax.evaluation.calibration.result import Calibration, GateCalibration
from gru_mem_jax.evaluation.report.drawing import INK, SOFT, clean, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, as in a run's plots.
_COLORS = {"update": "#0072B2", "exit": "#D55E00"}
_WANTED, _OTHER = "#009E73", "#B9B9B4"
_SHOULD = {
    "update": ("P(yes)", "on chunks with evidence", "on others"),
    "exit": ("P(end)", "from the last evidence on", "before it"),
}
_TEXT = 8
_MOST_POINTS = 1000  # of a curve


def picture(result: Calibration) -> bytes:
    """A PNG: reliability of each gate, their ROC, evidence and score against chunks."""
    from matplotlib.figure import Figure  # slow to import, needed here only

    figure = Figure(figsize=(8.6, 7.2), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(3, 1, 3.4))
    for column, (name, gate) in enumerate(result.gates.items()):
        upper = figure.add_subplot(grid[0, column])
        lower = figure.add_subplot(grid[1, column], sharex=upper)
        _draw_reliability(upper, name, gate)
        _draw_counts(lower, name, gate)
    _draw_roc(figure.add_subplot(grid[2, 0]), result)
    _draw_exits(figure.add_subplot(grid[2, 1]), result)
    return saved(figure, "png", dpi=100)


def _draw_reliability(axes: "Axes", name: str, gate: GateCalibration) -> None:
    found, color = gate.reliability, _COLORS[name]
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
    for each in found.bins:
        own = each.observed
        axes.plot([each.predicted] * 2, [own.low, own.high], color=color, linewidth=1)
    axes.plot(
        [each.predicted for each in found.bins],
        [each.observed.share for each in found.bins],
        color=color,
        linewidth=1.2,
        marker="o",
        markersize=4,
    )
    if gate.threshold is not None:
        _mark_threshold(axes, gate.threshold, gate.threshold, HALF)
    auc = "–" if found.auc is None else f"{found.auc:.3f}"
    _title(
        axes,
        f"{name} gate: AUC {auc}, calibration error {found.calibration_error:.3f}, "
        f"Brier {found.brier:.3f}",
    )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("should have opened", fontsize=_TEXT, color=SOFT)
    axes.tick_params(labelbottom=False)
    clean(axes)


def _draw_counts(axes: "Axes", name: str, gate: GateCalibration) -> None:
    """Turns by probability, those whose gate should open beside the others."""
    said, wanted, others = _SHOULD[name]
    edges = np.linspace(0, 1, 11)
    for number, (label, color, own) in enumerate(
        ((wanted, _WANTED, gate.labels), (others, _OTHER, ~gate.labels))
    ):
        counts, _ = np.histogram(gate.probabilities[own], edges)
        places = edges[:-1] + 0.027 + 0.045 * number
        axes.bar(places, counts, 0.045, color=color, label=label, linewidth=0)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 40 * axes.get_ylim()[1])  # room for the legend
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("turns", fontsize=_TEXT, color=SOFT)
    axes.set_xlabel(f"{said} of the turn", fontsize=_TEXT, color=SOFT)
    axes.legend(frameon=False, fontsize=7, loc="upper center", ncols=2)
    clean(axes)


def _mark_threshold(axes: "Axes", x: float, threshold: float, middle: float) -> None:
    """A line at x, named on the side that has more room."""
    axes.plot([x, x], [0, 1], color=INK, linewidth=1)
    right = x < middle
    axes.annotate(
        f"threshold {threshold:g}",
        (x, 0.08),
        xytext=(4 if right else -4, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        fontsize=_TEXT,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _draw_roc(axes: "Axes", result: Calibration) -> None:
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
    for name, gate in result.gates.items():
        if not gate.has_both:
            continue
        found = rates(gate.probabilities, gate.labels, candidates(gate.probabilities))
        some = _some(len(found.thresholds))
        color = _COLORS[name]
        axes.plot(
            [1.0, *found.false_positive[some], 0.0],
            [1.0, *found.true_positive[some], 0.0],
            color=color,
            linewidth=1.4,
            label=f"{name} gate",
        )
        if gate.threshold is not None and (at := gate.at(gate.threshold)):
            x, y = at["false_positive"], at["true_positive"]
            axes.plot([x], [y], marker="o", markersize=6, color=color)
    _title(axes, "ROC of the gates; dots: at the thresholds")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("opens where it should not", fontsize=_TEXT, color=SOFT)
    axes.set_ylabel("opens where it should", fontsize=_TEXT, color=SOFT)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=_TEXT, loc="lower right")
    clean(axes)


def _draw_exits(axes: "Axes", result: Calibration) -> None:
    """Complete evidence against chunks read, and the score where it was asked."""
    _title(axes, "exit threshold: what reading less costs")
    axes.set_xlabel("chunks read, mean", fontsize=_TEXT, color=SOFT)
    axes.set_ylabel("share of the questions", fontsize=_TEXT, color=SOFT)
    axes.set_ylim(-0.03, 1.5)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    clean(axes)
    if (curve := result.curve) is not None:
        some = _some(len(curve.thresholds))
        shares = [curve.complete_share(int(i)) for i in some]
        low, high = [s.low for s in shares], [s.high for s in shares]
        x = curve.chunks[some]
        style: dict[str, Any] = {"linewidth": 1.4}
        axes.fill_between(x, low, high, color=_COLORS["exit"], alpha=0.15, linewidth=0)
        axes.plot(
            x,
            curve.complete[some],
            color=_COLORS["exit"],
            label="evidence complete, from readings to the end",
            **style,
        )
        axes.plot(
            x,
            curve.exact[some],
            color=_WANTED,
            label="exact exits, from readings to the end",
            **style,
        )
    asked = [
        (run.chunks, run.complete.share)
        for run in result.runs
        if run.exit_threshold is not None and run.complete is not None
    ]
    axes.plot(
        [chunks for chunks, _ in asked],
        [complete for _, complete in asked],
        "o",
        color=_COLORS["exit"],
        markersize=4,
        label="evidence complete, with the exit gate" if asked else None,
    )
    for run in result.runs:
        score = [run.score.low, run.score.high]
        axes.plot([run.chunks] * 2, score, color=INK, linewidth=1)
    axes.plot(
        [run.chunks for run in result.runs],
        [run.score.value for run in result.runs],
        "s",
        color=INK,
        markersize=4,
        label="score of the answers" if result.runs else None,
    )
    picked = result.exit.picked
    if picked is not None and curve is not None:
        place = int((curve.thresholds < picked).sum())
        x = float(curve.chunks[place])
        _mark_threshold(axes, x, picked, curve.all_chunks / 2)
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=_TEXT, loc="upper left")


def _some(count: int) -> Any:
    """Indices of at most so many points of a curve, evenly, the ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, fontsize=8.5, color=INK, loc="left")
