"""Scalars of a run: one JSON object a line, and TensorBoard event files beside it.

One row per step, the step first. Names of times and rates end in `_seconds` or
`_per_s`; all other columns are reproducible. A column without a value at a step (a mean
over nothing) is absent, never 0 or NaN.
"""

import json
import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs.appended import Appended, open_appended
from gru_mem_jax.runs.tensorboard import EventWriter

Value = float | int | str | bool | None


class MetricsWriter:
    """Appends rows to a JSONL file; use as a context manager.

    A row is written by one call, whole or not at all; in a bucket the file is written
    again, at most every few seconds and at each `sync`. Numbers that JSON cannot hold
    (NaN, infinities) become strings. Write a step's row before its checkpoint is saved:
    a resumed run continues after the checkpoint's step.

    Args:
      path: the file; its folder must exist.
      enabled: false on all processes but one.
      cut_to: the restored step, -1 at the start of a run: rows of later steps, and an
        incomplete last line, are removed first.
      tensorboard: folder for event files of the numbers; None: none.
      wandb: a run of Weights & Biases (see `start_wandb`), or anything with its `log`.

    Attributes:
      last_step: of the last row after the cut; -1: none. If it is less than the
        restored step, rows have been removed.
      before: the rows after the cut.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        enabled: bool = True,
        cut_to: int | None = None,
        tensorboard: str | os.PathLike[str] | None = None,
        wandb: Any = None,
    ):
        self.path = storage.locate(path)
        self._file: Appended | None = None
        self.last_step = -1
        self.before: list[dict[str, Any]] = []
        self._events: EventWriter | None = None
        self._wandb = wandb if enabled else None
        if not enabled:
            return
        if cut_to is not None:
            self.last_step = cut_metrics(self.path, cut_to)
            if self.last_step >= 0:
                self.before = read_metrics(self.path)
        try:
            self._file = open_appended(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}") from error
        if tensorboard is not None:
            first = None if cut_to is None or cut_to < 0 else cut_to + 1
            self._events = EventWriter(tensorboard, first_step=first)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind, *unused) -> None:
        try:
            self.close()
        except RunError:
            if kind is None:  # else the first error is raised
                raise

    def close(self) -> None:
        """Closes the files.

        Raises:
          RunError: in a bucket, the last rows cannot be written.
        """
        file, events, self._file, self._events = self._file, self._events, None, None
        try:
            if file is not None:
                with durable_files.writing(self.path):
                    file.close()
        finally:
            if events is not None:
                with durable_files.writing(events.path):
                    events.close()

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Appends one row.

        Args:
          step: its first column.
          values: the other columns; None is omitted.

        Raises:
          RunError: the file cannot be written; a half-written line is removed.
        """
        if self._file is None:
            return
        row: dict[str, Value] = {"step": int(step)}
        row.update({k: _plain(v) for k, v in values.items() if v is not None})
        data = (json.dumps(row, allow_nan=False) + "\n").encode()
        with durable_files.writing(self.path, needed=len(data)):
            self._file.append(data)
            if self._events is not None:
                self._events.write(int(step), row)
        if self._wandb is not None:
            self._wandb.log(row, step=int(step))

    def sync(self) -> None:
        """Syncs the rows to storage, before a checkpoint that relies on them.

        Raises:
          RunError: they cannot be written.
        """
        if self._file is not None:
            with durable_files.writing(self.path):
                self._file.sync()


def _plain(value: Any) -> float | int | str:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):  # numpy's too
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else str(number)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a metrics file, without an incomplete last line.

    Raises:
      InputError: the file cannot be read, or a line is not a JSON object.
    """
    return [row for row, _ in _rows(storage.locate(path))]


def cut_metrics(path: str | os.PathLike[str], step: int) -> int:
    """Removes rows of steps after `step`, and an incomplete last line.

    The file is replaced at once, and untouched if there is nothing to remove.

    Returns:
      The step of the last row that is kept; -1: none.

    Raises:
      InputError: the file cannot be read or replaced, or a line before its end is not
        a row.
    """
    path = storage.locate(path)
    if not storage.exists(path):
        return -1
    kept = [(row, line) for row, line in _rows(path) if row["step"] <= step]
    data = b"".join(line for _, line in kept)
    try:
        if data != storage.read_bytes(path):
            durable_files.write_atomically(path, data)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return max((row["step"] for row, _ in kept), default=-1)


def _rows(path: Any) -> list[tuple[dict[str, Any], bytes]]:
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    rows = []
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break  # killed, or still writing
        try:
            row = json.loads(line)
            known = isinstance(row, dict) and isinstance(row.get("step"), int)
        except (ValueError, RecursionError):
            known = False
        if not known:
            raise InputError(
                f"{path}:{number}: expected a JSON object with a step; repair or "
                "remove the line"
            )
        rows.append((row, line))
    return rows


def time_columns(
    stages: Mapping[str, float], sampled: int, learned: int
) -> dict[str, float | None]:
    """Seconds of each stage, its share of the step, and tokens per second.

    Args:
      stages: seconds by name, among them "rollout", "update" and "step" (the total).
      sampled: tokens that were sampled.
      learned: tokens in the rows of the update, prompts too.
    """
    columns: dict[str, float | None] = {f"{n}_seconds": s for n, s in stages.items()}
    for name, seconds in stages.items():
        if name != "step":
            columns[f"{name}_seconds_per_s"] = _rate(seconds, stages["step"])
    columns["rollout_tokens_per_s"] = _rate(sampled, stages.get("rollout", 0.0))
    columns["update_tokens_per_s"] = _rate(learned, stages.get("update", 0.0))
    return columns


def _rate(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 else None


def start_wandb(project: str, run_id: str, **settings: Any) -> Any:
    """A Weights & Biases run, continued where the run is resumed.

    Args:
      project: its project.
      run_id: the same for every start of one run.
      **settings: further arguments of wandb.init.

    Raises:
      InputError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "Weights & Biases (--wandb) is not installed: pip install wandb"
        ) from error
    return wandb.init(project=project, id=run_id, resume="allow", **settings)
