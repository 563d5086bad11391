"""What a run shows: a table of its last steps on a terminal, a line each in a pipe."""

import contextlib
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.runs import columns

_ROWS = 12


class RunProgress:
    """Shows rows and notes on stderr; use as a context manager.

    Args:
      steps: of the whole run.
      quiet: show nothing.
    """

    def __init__(self, steps: int, *, quiet: bool = False):
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, quiet=quiet)
        self._steps, self._rows = steps, deque(maxlen=_ROWS)
        self._live = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> "RunProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *unused) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, line: str) -> None:
        """One line."""
        with contextlib.suppress(OSError):  # a closed stderr stops no run
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def row(self, step: int, row: Mapping[str, Any]) -> None:
        """The row of a step."""
        self._rows.append((step, dict(row)))
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.update(self._table(), refresh=True)
        else:
            parts = [
                f"{column.heading} {column.cell(row[column.name])}{column.sign}"
                for column in columns.table("training", [row])
            ]
            self.note(f"step {step}/{self._steps}: {', '.join(parts)}")

    def _table(self):
        from rich.table import Table

        table = Table(title=f"step {self._rows[-1][0]} of {self._steps}")
        shown = columns.table("training", [row for _, row in self._rows])
        table.add_column("step", justify="right")
        for column in shown:
            table.add_column(column.title, justify="right")
        for step, row in self._rows:
            cells = [c.cell(row[c.name]) if c.name in row else "" for c in shown]
            table.add_row(str(step), *cells)
        return table


def note_alone(hosts: Hosts, line: str, quiet: bool) -> None:
    """One line of a process that shows nothing else, with its name, on stderr."""
    if not quiet:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"{hosts.names[hosts.index]}: {line}\n")
            sys.stderr.flush()
