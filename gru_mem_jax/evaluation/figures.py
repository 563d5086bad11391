"""Plots of trajectories: memory over turns, and the trace of one."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.rl.outcomes import Outcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind and in grey.
MODE_STYLES = {
    "memagent": ("#D55E00", "MemAgent (no gates)"),
    "without_exit_gate": ("#0072B2", "GRU-Mem without exit gate"),
    "with_exit_gate": ("#009E73", "GRU-Mem with exit gate"),
}
_INK, _FAINT, _EVIDENCE = "#222222", "#D9D9D9", "#E69F00"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # slow to import, needed here only

    return Figure(figsize=(width, height), layout="constrained")


def _clean(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, length=3)


def mean_memory(outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Memory and company chunk by chunk, up to the last chunk that anyone read.

    Args:
      outcomes: of [P, G] trajectories.

    Returns:
      float64 [T], the mean memory size in tokens after chunk t, over the trajectories
      that read it; float64 [T], the share of trajectories that did.
    """
    read = np.asarray(outcomes.turn_mask)
    count = read.sum((0, 1))
    total = np.where(read, outcomes.memory_tokens, 0).sum((0, 1))
    reached = count > 0
    return total[reached] / count[reached], count[reached] / outcomes.correct.size


def plot_memory(
    panels: Mapping[str, Mapping[str, Outcomes]], path: str | os.PathLike[str]
) -> None:
    """Draws memory size over turns: a panel per title, a line per mode.

    Below each panel's lines stands the share of trajectories that still read, since
    the exit gate thins them out.
    """
    figure = _figure(4.6 * max(len(panels), 1), 4.2)
    axes = figure.subplots(
        2, len(panels), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 1)
    )
    for column, (title, by_mode) in enumerate(panels.items()):
        upper, lower = axes[0, column], axes[1, column]
        for mode, outcomes in by_mode.items():
            color, label = MODE_STYLES[mode]
            sizes, reading = mean_memory(outcomes)
            turns = range(1, len(sizes) + 1)
            upper.plot(turns, sizes, color=color, label=label, linewidth=1.8)
            lower.plot(turns, reading, color=color, linewidth=1.8)
        upper.set_title(title, fontsize=10, color=_INK, loc="left")
        lower.set_xlabel("chunk")
        _clean(upper)
        _clean(lower)
    if panels:  # shared by the row, so only now that every line is there
        axes[0, 0].set_ylim(bottom=0)
        axes[1, 0].set_ylim(0, 1.05)
        axes[0, 0].set_ylabel("memory (tokens)")
        axes[1, 0].set_ylabel("still reading")
        axes[0, 0].legend(frameon=False, fontsize=8, loc="best")
    figure.savefig(path, dpi=150)


def plot_trace(
    trajectory: Trajectory, evidence: Sequence[bool], path: str | os.PathLike[str]
) -> None:
    """Draws one trajectory: evidence, both gates and the memory's size, chunk by chunk.

    Args:
      trajectory: of one question.
      evidence: evidence[t] of every chunk of the context, read or not.
      path: .png or .svg.
    """
    turns, chunks = trajectory.memory_turns, len(evidence)
    figure = _figure(8.0, 3.4)
    gates, memory = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.3))
    lanes = {"evidence": 2, "update gate": 1, "exit gate": 0}
    for chunk in range(chunks):
        read = chunk < len(turns)
        turn = turns[chunk] if read else None
        marks = {
            "evidence": _EVIDENCE if evidence[chunk] else _FAINT,
            "update gate": "#0072B2" if read and turn.update else _FAINT,
            "exit gate": "#009E73" if read and turn.exit else _FAINT,
        }
        for name, color in marks.items():
            shown = read or name == "evidence"
            gates.scatter(
                chunk + 1,
                lanes[name],
                s=90,
                marker="s",
                facecolor=color if shown else "none",
                edgecolor=color,
                linewidth=1,
            )
    gates.set_yticks(list(lanes.values()), list(lanes))
    gates.set_ylim(-0.6, 2.6)
    gates.spines[["left", "bottom"]].set_visible(False)
    gates.tick_params(axis="x", length=0)
    _clean(gates)
    sizes = [0, *(turn.memory_tokens for turn in turns)]
    memory.step(range(len(sizes)), sizes, where="post", color=_INK, linewidth=1.8)
    memory.fill_between(range(len(sizes)), sizes, step="post", color=_FAINT, alpha=0.6)
    if len(turns) < chunks:
        memory.axvspan(len(turns) + 0.5, chunks + 0.5, color=_FAINT, alpha=0.25)
        memory.text(
            (len(turns) + chunks + 1) / 2,
            0.5,
            "never read",
            transform=memory.get_xaxis_transform(),
            ha="center",
            va="center",
            color="#777777",
        )
    memory.set_xlim(0.4, chunks + 0.6)
    memory.set_ylim(bottom=0)
    memory.set_ylabel("memory (tokens)")
    memory.set_xlabel("chunk")
    _clean(memory)
    answer = textwrap.shorten(trajectory.answer or "", 150, placeholder=" …")
    title = f"read {len(turns)} of {chunks} chunks, answered “{answer}”"
    gates.set_title(
        textwrap.fill(title, 80),
        fontsize=10,
        color=_INK,
        loc="left",
    )
    figure.savefig(path, dpi=150)
