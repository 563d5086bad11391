"""What a run shows: a table of its last steps on a terminal, a line each in a pipe.

While a step lasts, what it is at: under the table, and in a pipe a line a minute.
"""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.runs import columns
from gru_mem_jax.runs.compilation import CompilationNotices

_ROWS = 12
_LINE_SECONDS = 60.0  # without a line, until one says what a step is at
_REFRESH_SECONDS = 1.0
# Programs by the names of their functions; others are named as they are.
_PROGRAMS = {
    "accumulate": "the update",
    "apply_and_begin": "the optimiser step",
    "logprobs": "the scoring",
    "predicted": "the held-out turns",
    "policy_params": "the policy's params",
    "init": "the optimiser's state",
}


class Activity:
    """What a run is at; the run writes it, and another thread may read it."""

    def __init__(self) -> None:
        self._step = 0
        self._compiling = ""
        self.doing("starting")

    def begin(self, step: int) -> None:
        """A step begins."""
        self._step = step

    def doing(self, what: str, counted: Callable[[], str] | None = None) -> None:
        """What is done from now on.

        Args:
          what: in a word or two.
          counted: how far it is, asked whenever it is shown, in any thread.
        """
        self._now = (what, counted, time.monotonic())

    def compiling(self, name: str) -> None:
        """A program is being compiled, since a moment."""
        self._compiling = f"compiling {_PROGRAMS.get(name, name)}"

    def compiled(self, name: str, seconds: float, from_disk: bool) -> None:
        """It is ready."""
        self._compiling = ""

    def line(self) -> str:
        """Step, work, how far it is, and the seconds since it began."""
        what, counted, since = self._now
        parts = [what, "" if counted is None else counted(), self._compiling]
        step = f"step {self._step}: " if self._step else ""
        seconds = f"{time.monotonic() - since:.0f} s"
        return step + ", ".join([*filter(None, parts), seconds])


class RunProgress:
    """Shows rows and notes on stderr; use as a context manager.

    Args:
      steps: of the whole run.
      quiet: show nothing.

    Attributes:
      activity: to be told what the run is at.
    """

    def __init__(self, steps: int, *, quiet: bool = False):
        from rich.console import Console
        from rich.live import Live

        self.activity = Activity()
        self._console = Console(stderr=True, quiet=quiet)
        self._steps, self._rows = steps, deque(maxlen=_ROWS)
        self._live = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, auto_refresh=False)
        self._quiet, self._said = quiet, time.monotonic()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._notices = CompilationNotices(
            self.activity.compiling, self.activity.compiled
        )

    def __enter__(self) -> "RunProgress":
        if self._live is not None:
            self._live.start()
        if not self._quiet:
            self._notices.__enter__()
            self._thread = threading.Thread(
                target=self._watch, daemon=True, name="progress"
            )
            self._thread.start()
        return self

    def __exit__(self, *unused) -> None:
        if self._thread is not None:
            self._ends.set()
            self._thread.join()
            self._notices.__exit__()
        if self._live is not None:
            if self._rows:
                self._live.update(self._table())  # what it was at is over
            self._live.stop()

    def note(self, line: str) -> None:
        """One line."""
        self._said = time.monotonic()
        with contextlib.suppress(OSError):  # a closed stderr stops no run
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def row(self, step: int, row: Mapping[str, Any]) -> None:
        """The row of a step."""
        self._rows.append((step, dict(row)))
        if self._live is not None:
            self._refresh()
        else:
            parts = [
                f"{column.heading} {column.cell(row[column.name])}{column.sign}"
                for column in columns.table("training", [row])
            ]
            self.note(f"step {step}/{self._steps}: {', '.join(parts)}")

    def _watch(self) -> None:
        """Shows what the run is at, until it ends."""
        seconds = _REFRESH_SECONDS if self._live is not None else _LINE_SECONDS / 4
        while not self._ends.wait(seconds):
            # It is shown only: whatever may happen here ends no run.
            with contextlib.suppress(Exception):
                if self._live is not None:
                    self._refresh()
                elif time.monotonic() - self._said >= _LINE_SECONDS:
                    self.note(self.activity.line())

    def _refresh(self) -> None:
        from rich.console import Group
        from rich.text import Text

        parts = [self._table()] if self._rows else []
        parts.append(Text(self.activity.line(), style="dim"))
        with contextlib.suppress(OSError):
            self._live.update(Group(*parts), refresh=True)

    def _table(self):
        from rich.table import Table

        rows = list(self._rows)
        table = Table(title=f"step {rows[-1][0]} of {self._steps}")
        shown = columns.table("training", [row for _, row in rows])
        table.add_column("step", justify="right")
        for column in shown:
            table.add_column(column.title, justify="right")
        for step, row in rows:
            cells = [c.cell(row[c.name]) if c.name in row else "" for c in shown]
            table.add_row(str(step), *cells)
        return table


def note_alone(hosts: Hosts, line: str, quiet: bool) -> None:
    """One line of a process that shows nothing else, with its name, on stderr."""
    if not quiet:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"{hosts.names[hosts.index]}: {line}\n")
            sys.stderr.flush()
