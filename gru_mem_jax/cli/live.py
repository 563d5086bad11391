"""The live view of `ask`: progress, gates, and the memory as it changes."""

import contextlib
import difflib
import re
import threading
import time

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.cli import terminal
from gru_mem_jax.cli.display import (
    Header,
    ReadingProgress,
    compiled_line,
    probabilities,
    summary,
)
from gru_mem_jax.cli.live_rows import PassRows

# Symbol, its ASCII form, style and meaning of a turn in the gate strip.
_GATES = {
    "update": ("●", "+", "bold green", "updated"),
    "keep": ("·", ".", "dim", "kept"),
    "malformed": ("✗", "x", "red", "malformed"),
    "exit": ("■", "E", "bold yellow", "exit"),
}


def gate_kind(turn: Turn) -> str:
    """Which of _GATES a memory turn is."""
    if not turn.well_formed:
        return "malformed"
    if turn.exit:
        return "exit"
    return "update" if turn.update else "keep"


class LiveView:
    """Redraws a panel on stderr; the last frame is left there."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True, highlight=False)
        self._lock = threading.Lock()
        self._spinner = Spinner("dots" if self._unicode() else "line")
        self._header: Header | None = None
        self._progress = ReadingProgress(None)
        self._status, self._since = "starting", time.monotonic()
        self._passes: PassRows | None = None  # of a text that is read in several
        self._kinds: list[str] = []
        self._updates = 0
        self._gate_probabilities = ""  # of the last memory turn
        self._memory, self._memory_tokens = "", 0
        self._before: str | None = None  # the status before compiling
        self._fresh: frozenset[int] = frozenset()
        self._first_turn_at = self._last_turn_at = 0.0
        self._turns_here = 0
        self._closing = ""
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=8,
            redirect_stdout=False,
            redirect_stderr=True,
        )

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *exc) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()

    def begin(self, header: Header, trajectory: Trajectory) -> None:
        with self._lock:
            self._header = header
            self._progress = ReadingProgress(header.characters)
            self._passes = PassRows() if header.in_passes else None
            for turn in trajectory.turns:
                self._count(turn)
            self._show_passes(trajectory)
            self._fresh = frozenset()

    def status(self, text: str) -> None:
        with self._lock:
            if text != self._status:
                self._status, self._since = text, time.monotonic()

    def note(self, text: str) -> None:
        self._console.print(Text(terminal.plain_line(text), style="dim"))

    def compiling(self, name: str) -> None:
        with self._lock:
            if self._before is None:
                self._before = self._status
            self._status, self._since = f"compiling {name}", time.monotonic()

    def compiled(self, name: str, seconds: float, from_disk: bool) -> None:
        with self._lock:
            if self._before is not None:
                self._status, self._since = self._before, time.monotonic()
                self._before = None
        self.note(compiled_line(name, seconds, from_disk))

    def turn(self, turn: Turn, trajectory: Trajectory) -> None:
        with self._lock:
            self._turns_here += 1
            self._last_turn_at = time.monotonic()
            if self._turns_here == 1:
                self._first_turn_at = self._last_turn_at
            self._count(turn)
            self._show_passes(trajectory)
            self._status, self._since = self._next_step(turn), time.monotonic()

    def end(self, trajectory: Trajectory) -> None:
        with self._lock:
            self._closing = summary(trajectory)

    def _next_step(self, turn: Turn) -> str:
        if turn.chunk is None:
            return "done"
        if self._passes is not None:
            step = {"scan": "scanning", "merge": "merging", "read": "reading"}[
                turn.step
            ]
            return f"pass {turn.pass_number}, {step}"
        return f"reading chunk {turn.chunk + 2}" if not turn.exit else "answering"

    def _count(self, turn: Turn) -> None:
        self._progress.add(turn)
        if turn.kind == "memory":
            self._gate_probabilities = probabilities(turn)
            if self._passes is None:
                self._kinds.append(gate_kind(turn))
                self._updates += bool(turn.update)
                self._remember(turn.memory, turn.memory_tokens)

    def _show_passes(self, trajectory: Trajectory) -> None:
        if self._passes is not None:
            self._passes = PassRows(trajectory.turns)
            self._remember(self._passes.memory, self._passes.memory_tokens)

    def _remember(self, memory: str, tokens: int) -> None:
        if memory != self._memory:  # else the last change is still marked
            self._fresh = changed_words(self._memory, memory)
        self._memory, self._memory_tokens = memory, tokens

    def _unicode(self) -> bool:
        return self._console.encoding.lower().startswith("utf")

    def _render(self):
        with self._lock:
            return self._frame()

    def _frame(self):
        header = self._header
        if header is None:
            return self._activity()
        width = max(20, self._console.width - 4)
        parts = [self._facts(header), self._bar(), Text("")]
        parts += [self._gates(width), Text("")]
        parts += [self._memory_head(header), self._memory_text(width)]
        parts += [Text(""), self._activity()]
        return Panel(
            Group(*parts),
            title=Text.assemble(("GRU-Mem ", "bold"), (header.mode, "cyan")),
            title_align="left",
            border_style="blue",
        )

    def _facts(self, header: Header):
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="ellipsis", no_wrap=True)
        width = max(10, self._console.width - 16)
        for name, value in (
            ("question", header.question),
            ("context", header.source),
            ("policy", header.policy),
        ):
            grid.add_row(name, Text(terminal.shorten(value, width)))
        return grid

    def _bar(self):
        share, read = self._progress.fraction, self._progress.read
        total = self._progress.total
        label = f"{read} of ~{total} chunks" if total else f"{read} chunks"
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(style="dim", no_wrap=True, width=8)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        pulse = share is None and not self._closing
        bar = ProgressBar(
            total=None if pulse else 1.0,
            completed=1.0 if share is None else share,
            complete_style="blue",
            finished_style="green",
        )
        grid.add_row("read", bar, Text(f"{label}{self._rate()}"))
        return grid

    def _rate(self) -> str:
        # Without the first turn, which may include compilation.
        if self._turns_here < 2:
            return ""
        elapsed = self._last_turn_at - self._first_turn_at
        return f", {(self._turns_here - 1) / max(elapsed, 1e-9):.2f} turns/s"

    def _gates(self, width: int):
        if self._passes is not None:
            lines = self._passes.lines(width, self._unicode(), self._progress.total)
            lines[-1].append(self._gate_probabilities, style="dim")
            return Group(*lines)
        kinds = self._kinds
        room = max(1, width - 11)
        text = Text.assemble(("gates    ", "dim"), no_wrap=True)
        if len(kinds) > room:
            text.append("…" if self._unicode() else "<", style="dim")
        for kind in kinds[-room:]:
            text.append(self._symbol(kind), style=_GATES[kind][2])
        legend = Text("         ", no_wrap=True)
        for kind in _GATES:
            if kind in ("update", "keep") or kind in kinds:
                legend.append(self._symbol(kind), style=_GATES[kind][2])
                count = self._updates if kind == "update" else kinds.count(kind)
                legend.append(f" {_GATES[kind][3]} {count}   ", style="dim")
        legend.append(self._gate_probabilities, style="dim")
        return Group(text, legend)

    def _symbol(self, kind: str) -> str:
        return _GATES[kind][0 if self._unicode() else 1]

    def _memory_head(self, header: Header):
        used = f"{self._memory_tokens} of {header.memory_budget} tokens"
        return Text(f"memory   {used}", style="dim")

    def _memory_text(self, width: int):
        """The memory, new words marked; its last lines if it is long."""
        clean = terminal.safe_text(self._memory).expandtabs(4)
        if not clean.strip():
            return Text("nothing yet" if not self._closing else "empty", style="dim")
        text = Text(overflow="fold")
        for i, part in enumerate(re.split(r"(\s+)", clean.strip())):
            text.append(part, style="bold green" if i // 2 in self._fresh else "")
        lines = text.wrap(self._console, width)
        others = 12 + (2 if self._passes is None else self._passes.height)
        room = max(3, min(12, self._console.height - others))
        if len(lines) <= room:
            return text
        kept = Text("\n").join(lines[-room:])
        return Group(Text(f"({len(lines) - room} lines above)", style="dim"), kept)

    def _activity(self):
        if self._closing:
            return Text(self._closing, style="green")
        seconds = time.monotonic() - self._since
        self._spinner.update(
            text=Text(f"{self._status} {seconds:.1f} s", style="dim"), style="blue"
        )
        return self._spinner


def changed_words(before: str, after: str) -> frozenset[int]:
    """Indices of the words of `after` that are new relative to `before`."""
    old = terminal.safe_text(before).split()
    new = terminal.safe_text(after).split()
    matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
    return frozenset(
        i
        for tag, _, _, start, end in matcher.get_opcodes()
        if tag in ("replace", "insert")
        for i in range(start, end)
    )
