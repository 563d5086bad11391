"""Progress of a training run on stderr: a bar on a terminal, lines in a pipe."""

import pathlib
from collections.abc import Mapping

_TASK_KINDS = ("gated", "memagent", "answer")


class Progress:
    """Shows steps, loss and held-out exactness; use as a context manager.

    Args:
      steps: of the whole run.
      quiet: show nothing.
    """

    def __init__(self, steps: int, *, quiet: bool = False):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._steps = steps
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("training", total=steps, note="compiling")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *unused) -> None:
        self._bar.stop()

    def step(self, step: int, loss: float) -> None:
        """After step number `step`, counted from 1."""
        self._bar.update(self._task, completed=step, note=f"loss {loss:.3f}")

    def evaluation(self, step: int, loss: float, exact: Mapping[str, float]) -> None:
        """One line: held-out turns that are right token for token, by kind."""
        kinds = ", ".join(f"{k} {exact[k]:.3f}" for k in _TASK_KINDS if k in exact)
        self._console.print(
            f"step {step}/{self._steps}: loss {loss:.4f}; exact turns: {kinds}",
            highlight=False,
        )

    def table(self, exact: Mapping[str, float]) -> None:
        """The last evaluation, by kind and task."""
        from rich.table import Table

        table = Table(title="held-out turns, exact token for token")
        kinds = [kind for kind in _TASK_KINDS if kind in exact]
        table.add_column("task")
        for kind in kinds:
            table.add_column(kind, justify="right")
        tasks = sorted({name.split("/")[1] for name in exact if "/" in name})
        for task in ("all", *tasks):
            names = [kind if task == "all" else f"{kind}/{task}" for kind in kinds]
            cells = [f"{exact[n]:.3f}" if n in exact else "" for n in names]
            table.add_row(task.replace("_", " "), *cells)
        self._console.print(table)

    def done(self, out: pathlib.Path, seconds: float) -> None:
        """The last line."""
        self._console.print(
            f"saved to {out} after {seconds:.0f} s", highlight=False, soft_wrap=True
        )
