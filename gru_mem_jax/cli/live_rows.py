"""The live view's rows of chunks, one for each pass over the text.

The chunks of a scan come in any order; each has its place in the row from the start.
"""

import dataclasses
from collections.abc import Sequence

from rich.text import Text

from gru_mem_jax.agent.trajectory import Turn

# Symbol, its ASCII form, style and meaning. Where chunks share a place the one that
# stands first here is shown.
_MARKS = {
    "taken": ("●", "+", "bold green", "in the memory"),
    "open": ("○", "o", "green", "gate open"),
    "malformed": ("✗", "x", "red", "malformed"),
    "shut": ("·", ".", "dim", "gate shut"),
    "unread": (" ", " ", "dim", ""),
}
_RANKS = {mark: rank for rank, mark in enumerate(_MARKS)}
_MOST_ROWS = 4
_LABEL = 9  # columns before a row


@dataclasses.dataclass
class _Pass:
    marks: dict[int, str] = dataclasses.field(default_factory=dict)  # by chunk
    read: int = 0
    merges: int = 0
    scans: bool = False


class PassRows:
    """What each pass over a text has found, chunk by chunk.

    Args:
      turns: those so far, in the order of a trajectory.

    Attributes:
      memory, memory_tokens: as it stands: a candidate that was not accepted is not in
        it.
    """

    def __init__(self, turns: Sequence[Turn] = ()):
        self.memory, self.memory_tokens = "", 0
        self._passes: dict[int, _Pass] = {}
        for turn in turns:
            if turn.chunk is not None:
                self._add(turn)

    def _add(self, turn: Turn) -> None:
        row = self._passes.setdefault(turn.pass_number, _Pass())
        changes = bool(turn.update) and turn.memory != turn.memory_before
        mark = "shut"
        if changes:
            mark = "taken" if turn.sets_memory else "open"
        if turn.sets_memory:
            self.memory, self.memory_tokens = turn.memory, turn.memory_tokens
        row.scans |= turn.step == "scan"
        row.merges += turn.step == "merge"
        row.read += turn.step != "merge"
        row.marks[turn.chunk or 0] = mark if turn.well_formed else "malformed"

    @property
    def height(self) -> int:
        """How many `lines` there are."""
        return min(len(self._passes), _MOST_ROWS) + 1

    def lines(
        self, width: int, unicode: bool, total: int | None = None
    ) -> tuple[Text, ...]:
        """The rows of the last passes, and what their symbols mean.

        Args:
          width: of a line, in columns.
          unicode: whether symbols beyond ASCII may be shown.
          total: chunks of the text, about; None: unknown.
        """
        last = max((max(row.marks) for row in self._passes.values()), default=0)
        size = max(last + 1, total or 0)
        places = max(1, min(size, width - _LABEL - 24))
        shown = list(self._passes.items())[-_MOST_ROWS:]
        lines = [
            self._line(number, row, size, places, unicode) for number, row in shown
        ]
        legend = Text(" " * _LABEL, no_wrap=True)
        found = {mark for row in self._passes.values() for mark in row.marks.values()}
        for mark, (_, _, style, meaning) in _MARKS.items():
            if meaning and (mark in found or mark in ("taken", "shut")):
                legend.append(_symbol(mark, unicode), style=style)
                legend.append(f" {meaning}   ", style="dim")
        return (*lines, legend)

    def _line(
        self, number: int, row: _Pass, size: int, places: int, unicode: bool
    ) -> Text:
        cells = ["unread"] * places
        for chunk, mark in row.marks.items():
            cell = chunk * places // size
            cells[cell] = min(cells[cell], mark, key=_RANKS.__getitem__)
        text = Text.assemble((f"{f'pass {number}':<{_LABEL}}", "dim"), no_wrap=True)
        for mark in cells:
            text.append(_symbol(mark, unicode), style=_MARKS[mark][2])
        said = f" {row.read} {'scanned' if row.scans else 'read'}"
        if row.merges:
            said += f", {row.merges} merged"
        text.append(said, style="dim")
        return text


def _symbol(mark: str, unicode: bool) -> str:
    return _MARKS[mark][0 if unicode else 1]
