"""What processes do here while they are killed, or while the disk is full.

They are forked from a server that has imported what they need, once.
"""

import contextlib
import multiprocessing
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator

import numpy as np

KEEP = 2


def context():
    """Starts processes in about a tenth of a second."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        ["gru_mem_jax.runs.checkpoints.manager", "orbax.checkpoint"]
    )
    return found


@contextlib.contextmanager
def started(function, *arguments) -> Iterator[multiprocessing.Process]:
    """A process that is gone at the end."""
    process = context().Process(target=function, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def trees(step: int) -> dict[str, dict[str, np.ndarray]]:
    """Every number is the step."""
    return {"params": {f"w{i}": np.full((50, 20), step, np.float32) for i in range(4)}}


def save_and_die(folder: str, first: int, place: str) -> None:
    """Saves steps; is killed at a place of the second save."""
    from gru_mem_jax import durable_files
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints

    def die(*unused, **named):
        os.kill(os.getpid(), signal.SIGKILL)

    with Checkpoints(folder, keep=KEEP) as checkpoints:
        checkpoints.save(first, trees(first))
        if place == "writing arrays":
            import orbax.checkpoint as ocp

            ocp.StandardCheckpointHandler.finalize = die
        elif place == "before the record":
            durable_files.write_atomically = die
        elif place == "within the record":
            os.replace = die
        elif place == "before the list":
            durable_files.write_manifest = die
        elif place == "before it gets its name":
            os.rename = die
        elif place == "before an old one is deleted":
            checkpoints._prune = die
        elif place == "while an old one is deleted":

            def half(path):
                next(p for p in pathlib.Path(path).rglob("*") if p.is_file()).unlink()
                die()

            shutil.rmtree = half
        checkpoints.save(first + 1, trees(first + 1), wait=False)
        time.sleep(60)


PLACES = (
    "writing arrays",
    "before the record",
    "within the record",
    "before the list",
    "before it gets its name",
    "before an old one is deleted",
    "while an old one is deleted",
)


def save_for_ever(folder: str, keep: int) -> None:
    """Saves step after step, and deletes old ones."""
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints

    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in range(1_000_000):
            checkpoints.save(step, trees(step), {"step": step}, wait=step % 2 == 0)


def toy_training(folder: str, steps: int) -> None:
    """A training in small: rows, checkpoints, and noise that depends on the step."""
    import jax

    from gru_mem_jax.runs.checkpoints.manager import Checkpoints
    from gru_mem_jax.runs.folder import RunFolder
    from gru_mem_jax.runs.metrics import MetricsWriter

    options = {"command": ["toy"], "config_text": "", "environment": {}}
    leaf = jax.ShapeDtypeStruct((8, 8), np.float32)
    with (
        RunFolder.open(folder, **options) as run,
        Checkpoints(run.checkpoints, keep=KEEP) as checkpoints,
    ):
        found = checkpoints.restore_latest({"params": {"w": leaf}})
        step, w = 0, np.zeros((8, 8), np.float32)
        if found is not None:
            step, w = found.step, np.asarray(found.trees["params"]["w"])
        with MetricsWriter(
            run.metrics, cut_to=step or -1, tensorboard=run.tensorboard
        ) as metrics:
            while step < steps:
                step += 1
                noise = np.random.default_rng(step).normal(size=(8, 8))
                w = np.tanh(w @ noise + noise).astype(np.float32)
                time.sleep(0.1)
                now = time.perf_counter()
                metrics.write(step, {"norm": np.linalg.norm(w), "now_seconds": now})
                if step % 3 == 0 or step == steps:
                    metrics.sync()
                    checkpoints.save(step, {"params": {"w": w}}, wait=False)


def hold_run(folder: str, ready) -> None:
    """Opens a run folder and keeps it."""
    from gru_mem_jax.runs.folder import RunFolder

    with RunFolder.open(folder, command=["a"], config_text="", environment={}):
        ready.set()
        time.sleep(60)


def on_a_small_disk(folder: str, results) -> None:
    """Fills a disk (or a limit on file sizes) with a checkpoint, then with rows."""
    from gru_mem_jax.errors import RunError
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints

    big = np.random.default_rng(0).normal(size=(1200, 500)).astype(np.float32)
    with Checkpoints(folder, keep=KEEP) as checkpoints:
        checkpoints.save(1, trees(1))
        for wait in (True, False):
            try:
                checkpoints.save(2, {"params": {"w": big}}, wait=wait)
                checkpoints.wait()
            except RunError as error:
                results.put(str(error))
        results.put(sorted(os.listdir(folder)))
        results.put(checkpoints.problems(1))
        checkpoints.save(2, trees(2))
        results.put(checkpoints.steps())


def within_a_file_size(folder: str, results) -> None:
    """As if a quota ended at a megabyte."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    on_a_small_disk(folder, results)
