"""The picture of one run: its chunks pass by pass, the open gates, what was merged."""

import itertools
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.evaluation.report.collect import Collected, Sample
from gru_mem_jax.evaluation.report.words import mode_style, visible
from gru_mem_jax.records import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LANE, _BARS, _GAP = 1.0, 1.7, 0.45  # heights; a lane's is one
_INCHES = 0.155  # of a lane
_MOST_NUMBERED = 24  # merges
_MOST_CELLS = 64  # of a lane; of more, those that stand side by side are one


def parallel_run(collected: Collected) -> tuple[Sample, Trajectory] | None:
    """The run of mode parallel that shows most: right, in most passes, most merged.

    Returns:
      The first of these among the trajectories that were kept; None: there is none.
    """
    samples = {
        (sample.folder, sample.key): sample
        for sample in collected.samples
        if sample.answer.mode == "parallel" and "attack" not in sample.answer.labels
    }
    best: tuple[Any, Sample, Trajectory] | None = None
    for number, key, trajectory in collected.trajectories() if samples else ():
        sample = samples.get((number, key))
        if sample is None or not trajectory.memory_turns:
            continue
        merged = sum(turn.sets_memory for turn in trajectory.turns)
        rank = sample.answer.score, trajectory.num_passes, merged
        if best is None or rank > best[0]:
            best = rank, sample, trajectory
    return None if best is None else best[1:]


def draw_reading(
    trajectory: Trajectory, evidence: Collection[int] = (), *, title: str = ""
) -> "Figure":
    """Draws a run pass by pass.

    Each pass is a lane of the chunks that it read, with the update gates that were
    open; the bars below it are the memory: of a parallel run where a chunk was merged,
    with their order. A chunk that was merged is in no later scan.

    Args:
      trajectory: of any mode that has a memory.
      evidence: indices of chunks to mark.
      title: above it; empty: the mode's name.
    """
    from gru_mem_jax.evaluation.report import drawing

    turns = trajectory.memory_turns
    chunks = max((turn.chunk or 0 for turn in turns), default=0) + 1
    chunks = max(chunks, *evidence, 1) if evidence else chunks
    color, name = mode_style(trajectory.mode)
    below = f"{len(turns)} memory turns in {trajectory.num_passes} passes; "
    below += cut(visible(" ".join(trajectory.question.split())), 56)
    lanes = list(_lanes(turns))
    taken = [turn for turn in turns if turn.sets_memory]
    height = _LANE + _GAP + sum(each[-1] for each in lanes)
    figure, axes = drawing.panel(
        0.95 + _INCHES * height, title or f"One run of {name}", below, left=0.16
    )
    names = {_LANE / 2: "evidence"}
    _cells(axes, sorted(evidence), 0.0, drawing.EVIDENCE)
    most = max(1, *(turn.memory_tokens for turn in taken), 1)
    at, order = _LANE + _GAP, 0
    for number, own, merged, tall in lanes:
        names[at + _LANE / 2] = f"pass {number}"
        _cells(axes, sorted({turn.chunk or 0 for turn in own}), at, drawing.FAINT)
        for turn in own:
            if turn.update and turn.step != "merge":
                drawing.tip(
                    _cells(axes, [turn.chunk or 0], at, color),
                    trajectory.mode,
                    f"pass {number}, chunk {(turn.chunk or 0) + 1}: gate open",
                )
        if merged:
            floor = at + _LANE + _BARS
            steps = any(turn.step == "scan" for turn in own)
            names[floor - 0.55] = "merged" if steps else "memory"
            for turn in merged:
                order += 1
                size = (_BARS - 0.75) * turn.memory_tokens / most
                (bar,) = axes.bar(
                    turn.chunk or 0, -size, 0.8, bottom=floor, color=drawing.SOFT
                )
                said = f"chunk {(turn.chunk or 0) + 1}: memory of "
                said += f"{turn.memory_tokens} tokens"
                drawing.tip(bar, trajectory.mode, said)
                if steps and len(taken) <= _MOST_NUMBERED:
                    axes.text(
                        turn.chunk or 0,
                        floor - size - 0.08,
                        str(order),
                        ha="center",
                        va="bottom",
                        fontsize=6,
                        color=drawing.SOFT,
                    )
        at += tall
    axes.set_ylim(at - _GAP + 0.1, 0)
    axes.set_xlim(-0.6, chunks - 0.4)
    drawing.chunk_axis(axes, names)
    return figure


def _lanes(
    turns: tuple[Turn, ...],
) -> Iterator[tuple[int, list[Turn], list[Turn], float]]:
    """(number, turns, those that are bars, height) of each pass."""
    ordered = sorted(turns, key=lambda turn: turn.pass_number)
    for number, own in itertools.groupby(ordered, key=lambda turn: turn.pass_number):
        listed = list(own)
        bars = [turn for turn in listed if turn.sets_memory or turn.step == "read"]
        yield number, listed, bars, _LANE + (_BARS if bars else 0) + _GAP


def _cells(axes: "Axes", chunks: list[int], top: float, color: str) -> Any:
    """A lane's cells, in order."""
    joined = len(chunks) > _MOST_CELLS
    spans: list[list[int]] = []
    for chunk in chunks:
        if joined and spans and spans[-1][1] == chunk:
            spans[-1][1] = chunk + 1
        else:
            spans.append([chunk, chunk + 1])
    return axes.broken_barh(
        [(start - 0.43, end - start - 0.14) for start, end in spans],
        (top + 0.1, _LANE - 0.2),
        color=color,
        linewidth=0,
    )
