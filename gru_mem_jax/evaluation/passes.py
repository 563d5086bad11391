"""The memory as turns leave it, where a chunk may have several: scans, merges, passes.

A scan sets nothing by itself (`agent.reading.parallel`, `Turn.sets_memory`).
"""

from gru_mem_jax.agent.trajectory import Trajectory, Turn


def memory_left(turn: Turn) -> str:
    """The memory as a turn left it: of a scan that was not accepted, what it saw."""
    scanned = turn.step == "scan" and not turn.accepted
    return turn.memory_before if scanned else turn.memory


def memory_sizes(trajectory: Trajectory) -> tuple[int, ...]:
    """Tokens of the memory as it stands after each memory turn.

    What a scan would leave is no memory: those that see one memory side by side leave
    it as it is; what stands after the last of them is what the next turn sees.

    Args:
      trajectory: any.
    """
    turns = trajectory.turns
    known = {"": 0} | {turn.memory: turn.memory_tokens for turn in turns}
    sizes = []
    for number, turn in enumerate(trajectory.memory_turns):
        after = turns[number + 1] if number + 1 < len(turns) else turn
        scan = turn.step == "scan"
        sizes.append(known.get(after.memory_before, 0) if scan else turn.memory_tokens)
    return tuple(sizes)
