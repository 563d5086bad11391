"""Which turns set the memory, where a chunk may have several: scans, merges, passes.

A turn that reads in order, or merges, sets the memory if its gate is open. A scan sets
nothing by itself: the first that is merged hands its candidate on as it is, and the
other chunks are read again (`agent.reading.parallel`). A record does not say which scan
that was; it follows from the turns.
"""

from collections.abc import Sequence

from gru_mem_jax.agent.trajectory import Trajectory, Turn


def taken(trajectory: Trajectory) -> list[bool]:
    """Whether each turn's candidate became the memory.

    Args:
      trajectory: any. Scans that nothing follows were not taken: the run has ended
        before.

    Returns:
      One for each of its turns; False of the answer turn.
    """
    turns = trajectory.turns
    found = [turn.step != "scan" and bool(turn.update) for turn in turns]
    start = 0
    while start < len(turns):
        end = _end_of_scan(turns, start)
        if turns[start].step == "scan" and end < len(turns):
            for place in _handed_on(trajectory, start, end):
                found[place] = True
        start = end
    return found


def memory_left(turn: Turn, is_taken: bool) -> str:
    """The memory as a turn left it: of a scan that was not taken, what it saw."""
    return turn.memory if is_taken or turn.step != "scan" else turn.memory_before


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


def num_passes(trajectory: Trajectory) -> int:
    """How many passes over the text were begun; 0 if nothing was read."""
    return max((turn.pass_number for turn in trajectory.memory_turns), default=0)


def _end_of_scan(turns: Sequence[Turn], start: int) -> int:
    """One past the last of the scans that saw what the turn at `start` saw."""
    end = start + 1
    own = _company(turns[start])
    while turns[start].step == "scan" and end < len(turns):
        if _company(turns[end]) != own:
            break
        end += 1
    return end


def _company(turn: Turn) -> tuple[str, int, str]:
    return turn.step, turn.pass_number, turn.memory_before


def _handed_on(trajectory: Trajectory, start: int, end: int) -> list[int]:
    """Places of the scans in [start, end) whose candidate became the memory.

    The first that was merged; a further one only where a merge has written the memory
    that the scans saw.
    """
    turns, settings = trajectory.turns, trajectory.settings
    before = turns[start].memory_before
    opened = [i for i in range(start, end) if turns[i].memory != before]
    most = settings.get("max_merged")
    if isinstance(most, int) and len(opened) > most:
        opened.sort(key=lambda i: -(turns[i].update_probability or 0.0))
        opened = sorted(opened[:most])
    found, memory = [], before
    for place in opened:
        if memory == before:
            found.append(place)
            said = turns[place]
        elif turns[end].step == "merge" and turns[end].chunk == turns[place].chunk:
            said = turns[end]
            end = min(end + 1, len(turns) - 1)
        else:
            break  # reading was stopped
        memory = said.memory
        if said.exit and settings.get("merge_until_exit"):
            break
    return found
