"""Turns that read a chunk more than once: their columns, and what their gates may say.

In the modes of the paper memory turn k reads chunk k, and a gate is right if it equals
the label of its chunk. Modes "reread" and "parallel" look at a chunk again while it may
still matter, and then three things need an answer.

Column. Arrays of turns have one column for each pass, step and chunk of a question, so
that turns stand below each other, and are compared, if they read the same chunk for the
same purpose, whichever other turns their rollouts took. With T chunks:

    0 .. T-1          pass 1: read or scanned
    T .. 2T-1         mode parallel: merged, in whichever pass, as it is but once
                      mode reread: pass 2
    2T .. and so on   the later passes, one after the other

Closed gates on evidence. Against an empty memory the second hop of a question cannot be
known to matter, and what the memory holds already need not be taken again. So a closed
gate on evidence is wrong only if it was the run's last look at a chunk that the run
never took: a miss is counted once, where it could still be mended. (To count all
passes of such a chunk would reward rollouts that open their gates, in the first pass,
to whatever looks like a second hop.) An open gate is right on evidence and wrong off
it in any pass. With one look at each chunk this is Eq. 9 of arXiv 2602.10560.

Exits. Mode parallel has no order of chunks that reading could stop in; what counts is
when the last evidence was taken into the memory. `exit_offset` says how many steps (a
scan, whose turns are side by side, or a merge) reading went on after that: 0 is exact,
and what is missing of the evidence makes it early.
"""

import itertools
from collections.abc import Iterator, Sequence

from gru_mem_jax.agent.trajectory import Trajectory, Turn


def column(turn: Turn, num_chunks: int) -> int:
    """The column of a memory turn, given how many chunks its whole context has."""
    if turn.step == "merge":
        block = 1
    elif turn.step == "scan":
        block = turn.pass_number if turn.pass_number > 1 else 0
    else:
        block = turn.pass_number - 1
    return block * num_chunks + (turn.chunk or 0)


def excused(trajectory: Trajectory) -> list[bool]:
    """Of each memory turn whether its gate may be closed on evidence.

    So it may if the run looks at the chunk again, or takes it in another turn.
    """
    turns = trajectory.memory_turns
    last = {turn.chunk: number for number, turn in enumerate(turns)}
    takes: dict[int | None, set[int]] = {}
    for number, turn in enumerate(turns):
        if turn.sets_memory:
            takes.setdefault(turn.chunk, set()).add(number)
    return [
        number < last[turn.chunk] or bool(takes.get(turn.chunk, set()) - {number})
        for number, turn in enumerate(turns)
    ]


def obeys_exit(trajectory: Trajectory) -> bool:
    """Whether the exit gate could end the run."""
    if trajectory.mode == "parallel":
        return bool(trajectory.settings.get("merge_until_exit"))
    return trajectory.mode == "with_exit_gate"


def exit_offset(trajectory: Trajectory, evidence: Sequence[bool]) -> int:
    """How far behind the last evidence reading ended; 0: with it, below 0: before it.

    In mode parallel steps after the one that took the last evidence; or, below 0, how
    many chunks with evidence were never taken. In other modes chunks.

    Args:
      trajectory: with its answer turn.
      evidence: of every chunk of the whole context.
    """
    turns = trajectory.memory_turns
    wanted = {chunk for chunk, held in enumerate(evidence) if held}
    if trajectory.mode != "parallel":
        ended = max((turn.chunk or 0 for turn in turns), default=-1)
        return ended - max(wanted, default=-1)
    offset = 0
    for step in _steps(trajectory):
        offset += 1
        found = {turns[number].chunk for number in step if turns[number].sets_memory}
        if found & wanted:
            wanted, offset = wanted - found, 0
    return -len(wanted) if wanted else offset


def _steps(trajectory: Trajectory) -> Iterator[list[int]]:
    """Numbers of the memory turns; those that saw one memory side by side together."""
    turns = trajectory.memory_turns

    def step_of(number: int) -> tuple[object, ...]:
        turn = turns[number]
        alone = -1 if turn.step == "scan" else number
        return turn.pass_number, turn.step, turn.memory_before, alone

    for _, step in itertools.groupby(range(len(turns)), step_of):
        yield list(step)
