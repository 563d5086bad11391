"""What a run shows: a table of its last steps on a terminal, a line each in a pipe."""

import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

# (column of the row, heading, format)
_SHOWN = (
    ("reward/trajectory", "reward", ".3f"),
    ("exact", "exact", ".3f"),
    ("update_on_evidence", "upd+", ".3f"),
    ("update_off_evidence", "upd-", ".3f"),
    ("exact_exit", "exit", ".3f"),
    ("well_formed", "format", ".3f"),
    ("completion_tokens", "tokens", ".1f"),
    ("entropy", "entropy", ".4f"),
    ("kl", "kl", ".2e"),
    ("grad_norm", "grad", ".3f"),
    ("eval/exact", "eval exact", ".3f"),
    ("eval/exact_exit", "eval exit", ".3f"),
    ("step_seconds", "seconds", ".1f"),
)
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
            parts = [f"{head} {row[k]:{form}}" for k, head, form in _SHOWN if k in row]
            self.note(f"step {step}/{self._steps}: {', '.join(parts)}")

    def _table(self):
        from rich.table import Table

        table = Table(title=f"step {self._rows[-1][0]} of {self._steps}")
        shown = [c for c in _SHOWN if any(c[0] in row for _, row in self._rows)]
        table.add_column("step", justify="right")
        for _, head, _ in shown:
            table.add_column(head, justify="right")
        for step, row in self._rows:
            cells = [f"{row[k]:{form}}" if k in row else "" for k, _, form in shown]
            table.add_row(str(step), *cells)
        return table
