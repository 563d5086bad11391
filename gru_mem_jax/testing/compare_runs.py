"""Compares two runs: rows, and the arrays of their last checkpoints bit by bit.

    python -m gru_mem_jax.testing.compare_runs RUN OTHER

Times and rates (names that end in `_seconds` or `_per_s`) are ignored.
"""

import os
import sys
from typing import Any

import numpy as np

from gru_mem_jax.errors import GRUMemError, InputError, RunError
from gru_mem_jax.records import first_difference
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.step import read_record
from gru_mem_jax.runs.checkpoints.trees import from_signatures
from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import read_metrics


def deterministic(row: dict[str, Any]) -> dict[str, Any]:
    """A row without times and rates."""
    return {name: value for name, value in row.items() if not is_time(name)}


def compare_runs(run: str | os.PathLike[str], other: str | os.PathLike[str]) -> str:
    """Compares two run folders.

    Returns:
      A line that says what was compared.

    Raises:
      RunError: they differ; the first difference is named.
      InputError: one is not a run folder, or has no checkpoint.
    """
    folders = [RunFolder.read(path) for path in (run, other)]
    rows = [[deterministic(r) for r in read_metrics(f.metrics)] for f in folders]
    for mine, theirs in zip(*rows):
        difference = first_difference(mine, theirs)
        if difference is not None:
            raise RunError(
                f"{run}: at step {mine['step']}: {difference}, as in {other}"
            )
    if len(rows[0]) != len(rows[1]):
        raise RunError(f"{run}: {len(rows[0])} rows, {other}: {len(rows[1])}")
    found = [_arrays(folder) for folder in folders]
    if found[0][0] != found[1][0]:
        raise RunError(f"{run}: ends at step {found[0][0]}, {other}: {found[1][0]}")
    mine, theirs = found[0][1], found[1][1]
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in mine or name not in theirs:
            raise RunError(f"{run}, {other}: only one has {name}")
        if mine[name].tobytes() != theirs[name].tobytes():
            count = int(np.sum(mine[name] != theirs[name]))
            raise RunError(f"{run}: {name} differs from {other} in {count} numbers")
    return f"equal: {len(rows[0])} rows, {len(mine)} arrays of step {found[0][0]}"


def _arrays(folder: RunFolder) -> tuple[int, dict[str, np.ndarray]]:
    """The newest step, and all its arrays by tree and name, on the host."""
    with Checkpoints(folder.checkpoints, create=False) as checkpoints:
        if not checkpoints.steps():
            raise InputError(f"{folder.path}: holds no checkpoint")
        step = checkpoints.steps()[-1]
        saved = read_record(folder.checkpoints / str(step))["trees"]
        abstract = {name: from_signatures(tree) for name, tree in saved.items()}
        trees = checkpoints.restore(abstract, step)
    arrays = {
        f"{tree}.{name}": np.asarray(leaf)
        for tree, leaves in trees.items()
        for name, leaf in leaves.items()
    }
    return step, arrays


def main(arguments: list[str]) -> int:
    """The command; status 0: equal, 1: not, 2: not comparable."""
    if len(arguments) != 2:
        sys.stderr.write("usage: compare_runs RUN OTHER\n")
        return 2
    try:
        sys.stdout.write(compare_runs(*arguments) + "\n")
    except GRUMemError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
