"""The live view's rows of chunks, one for each pass over the text.

The chunks of a scan come in any order; each has its place in the row from the start.
"""

import dataclasses

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

    Attributes:
      memory, memory_tokens: as it stands: a scan's candidate is not in it.
      taken: how often it was replaced.
    """

    def __init__(self) -> None:
        self.memory, self.memory_tokens, self.taken = "", 0, 0
        self._passes: dict[int, _Pass] = {}
        # Of the scan: which chunk has offered a memory, and how long it is.
        self._offered: dict[str, tuple[int, int, int]] = {}

    def add(self, turn: Turn) -> None:
        """Counts a turn."""
        self._stands(turn.memory_before)
        if turn.chunk is None:
            return
        row = self._passes.setdefault(turn.pass_number, _Pass())
        changes = bool(turn.update) and turn.memory != turn.memory_before
        if turn.step == "scan":
            row.scans = True
            if changes:
                self._offered.setdefault(
                    turn.memory, (turn.pass_number, turn.chunk, turn.memory_tokens)
                )
            mark = "open" if changes else "shut"
        else:
            row.merges += turn.step == "merge"
            mark = "taken" if changes else "shut"
            if changes:
                self._replace(turn.memory, turn.memory_tokens)
        row.read += turn.step != "merge"
        row.marks[turn.chunk] = mark if turn.well_formed else "malformed"

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

    def _stands(self, memory: str) -> None:
        """A turn sees this memory: a scan's candidate may have become it."""
        if memory == self.memory:
            return
        number, chunk, tokens = self._offered.get(memory, (0, 0, 0))
        if number:
            self._passes[number].marks[chunk] = "taken"
        self._replace(memory, tokens)

    def _replace(self, memory: str, tokens: int) -> None:
        self.memory, self.memory_tokens = memory, tokens
        self.taken += 1
        self._offered = {}


def _symbol(mark: str, unicode: bool) -> str:
    return _MARKS[mark][0 if unicode else 1]
