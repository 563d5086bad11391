"""Run as root of a user namespace: a real disk of 3 MB, full, freed, and read-only."""

import json
import os
import pathlib
import subprocess
import sys

import killed_processes
import numpy as np


def tried(function, *arguments, **named):
    """What it raised, as text; None: nothing."""
    try:
        function(*arguments, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(folder: pathlib.Path) -> dict[str, object]:
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints
    from gru_mem_jax.runs.folder import RunFolder
    from gru_mem_jax.runs.metrics import MetricsWriter, read_metrics

    found: dict[str, object] = {}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "x", folder], check=True)
    options = {"command": ["a"], "config_text": "", "environment": {}}
    big = {"params": {"w": np.random.default_rng(0).normal(size=(1000, 900))}}
    with RunFolder.open(folder / "run", **options) as run:
        with Checkpoints(run.checkpoints, keep=2) as checkpoints:
            checkpoints.save(1, killed_processes.trees(1))
            found["save"] = tried(checkpoints.save, 2, big)
            found["steps"] = checkpoints.steps()
            found["problems"] = checkpoints.problems(1)
            found["names"] = sorted(os.listdir(run.checkpoints))
        with MetricsWriter(run.metrics, tensorboard=run.tensorboard) as metrics:
            metrics.write(0, {"a": 0})
            filler = folder / "filler"
            with open(filler, "wb", buffering=0) as file:
                for size in (1 << 12, 1):
                    while tried(file.write, bytes(size)) is None:
                        pass
            row = {"note": "x" * 5000}
            found["row"] = tried(metrics.write, 1, row)
            found["rows"] = len(read_metrics(run.metrics))
            run.log("nobody can write this")
            with Checkpoints(run.checkpoints) as checkpoints:
                found["save_full"] = tried(
                    checkpoints.save, 2, killed_processes.trees(2)
                )
            filler.unlink()
            metrics.write(1, row)
            found["rows_freed"] = len(read_metrics(run.metrics))
        with Checkpoints(run.checkpoints) as checkpoints:
            checkpoints.save(2, killed_processes.trees(2))
            found["steps_freed"] = checkpoints.steps()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    found["open"] = tried(RunFolder.open, folder / "run", **options)
    found["open_new"] = tried(RunFolder.open, folder / "new", **options)
    run = RunFolder.read(folder / "run")
    found["rows_read"] = len(read_metrics(run.metrics))
    with Checkpoints(run.checkpoints, create=False) as checkpoints:
        found["files_read"] = checkpoints.problems(2)
        found["metadata_read"] = checkpoints.metadata()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(pathlib.Path(sys.argv[1]))))
