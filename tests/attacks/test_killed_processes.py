"""Processes killed while they save; readers beside a writer; disks that are full.

Faults R1, R2, R7, R10 and R11.
"""

import random
import time

import jax
import jax.numpy as jnp
import killed_processes
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.testing.compare_runs import compare_runs

ABSTRACT = {
    "params": {f"w{i}": jax.ShapeDtypeStruct((50, 20), jnp.float32) for i in range(4)}
}


def check_whole(found) -> None:
    for leaf in jax.tree.leaves(found.trees):
        np.testing.assert_array_equal(leaf, np.float32(found.step))


def newest(folder) -> int:
    """The newest step, which must be whole and good, and the folder free of rests."""
    with Checkpoints(folder, create=False) as checkpoints:
        found = checkpoints.restore_latest(ABSTRACT)  # a reader, before any cleaning
        assert found.warnings == ()
        check_whole(found)
    with Checkpoints(folder, keep=killed_processes.KEEP) as checkpoints:
        assert all(path.name.isdigit() for path in folder.iterdir())
        assert all(checkpoints.problems(step) == () for step in checkpoints.steps())
    return found.step


def test_killed_at_each_place_of_a_save(tmp_path):
    """The unfinished step is never seen; the next process goes on and saves it."""
    first = 0
    for place in killed_processes.PLACES:
        with killed_processes.started(
            killed_processes.save_and_die, str(tmp_path), first, place
        ) as process:
            process.join(60)
            assert process.exitcode == -9, place
        has_name = place.endswith("is deleted")
        assert newest(tmp_path) == first + has_name, place
        first = first + 1 + has_name
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(first, killed_processes.trees(first))
        assert checkpoints.steps() == (first,)


def wait_for_a_new_row(path, process) -> None:
    """Until the file of rows is another than it was, or the process has ended.

    At most a minute: a life that is cut short before its first row is one, too.
    """
    before = path.read_bytes() if path.exists() else b""
    end = time.monotonic() + 60
    while process.exitcode is None and time.monotonic() < end:
        if path.exists() and path.read_bytes() != before:
            return
        time.sleep(0.005)


def test_killed_at_random_moments(tmp_path):
    moments = random.Random(0)
    for number in range(4):
        folder = tmp_path / str(number)
        with killed_processes.started(killed_processes.save_for_ever, str(folder), 2):
            while not (folder / "1").is_dir():
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
        assert newest(folder) >= 1


def test_a_run_killed_many_times_equals_one_that_nobody_killed(tmp_path):
    steps, kills = 18, 0
    with killed_processes.started(
        killed_processes.toy_training, str(tmp_path / "whole"), steps
    ) as process:
        process.join(60)
        assert process.exitcode == 0
    moments = random.Random(0)
    process = None
    while process is None or process.exitcode != 0:
        with killed_processes.started(
            killed_processes.toy_training, str(tmp_path / "killed"), steps
        ) as process:
            if kills < 6:  # a life is at most two of the run's eighteen steps long
                wait_for_a_new_row(tmp_path / "killed/metrics.jsonl", process)
                process.join(moments.uniform(0, 0.2))
            else:
                process.join(60)
            kills += process.exitcode is None
    assert kills >= 3
    compared = compare_runs(tmp_path / "killed", tmp_path / "whole")
    assert compared == "equal: 18 rows, 1 arrays of step 18"
    left = sorted(path.name for path in (tmp_path / "killed").rglob("*.*ing"))
    assert left == []


@pytest.mark.filterwarnings(  # Orbax, stopped halfway, leaves coroutines behind
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_readers_see_whole_steps_while_old_ones_are_deleted(tmp_path):
    """As `export` or `ask` in a loop beside a training that keeps one step."""
    with killed_processes.started(
        killed_processes.save_for_ever, str(tmp_path), 1
    ) as process:
        while not (tmp_path / "0").is_dir():
            time.sleep(0.01)
        steps = []
        end = time.monotonic() + 30
        while time.monotonic() < end and len(set(steps)) < 6:
            with Checkpoints(tmp_path, create=False) as checkpoints:
                found = checkpoints.restore_latest(ABSTRACT)
                assert found.warnings == ()
                check_whole(found)
                assert found.metadata == {"step": found.step}
                steps.append(found.step)
                params = checkpoints.restore(ABSTRACT)["params"]
                assert len({float(leaf[0, 0]) for leaf in params.values()}) == 1
        assert process.is_alive()
    assert steps == sorted(steps)
    assert len(set(steps)) >= 3


def test_file_size_limit(tmp_path):
    """A save that finds no room says so in one line; what was saved is intact."""
    results = killed_processes.context().Queue()
    with killed_processes.started(
        killed_processes.within_a_file_size, str(tmp_path), results
    ):
        found = [results.get(timeout=60) for _ in range(5)]
    for message in found[:2]:
        assert message.startswith(f"{tmp_path}/2: no space left to write (24")
        assert "bytes free" in message
        assert "\n" not in message
    assert found[2:] == [["1"], (), (1, 2)]


def test_second_process_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    options = {"command": ["a"], "config_text": "", "environment": {}}
    ready = killed_processes.context().Event()
    with killed_processes.started(
        killed_processes.hold_run, str(tmp_path / "run"), ready
    ) as process:
        assert ready.wait(60)
        with pytest.raises(InputError, match=f"in use by pid {process.pid} on host "):
            RunFolder.open(tmp_path / "run", **options)
        assert RunFolder.read(tmp_path / "run").is_resumed  # readers are not kept out
        process.kill()
        process.join()
    assert (tmp_path / "run" / "lock").exists()
    with RunFolder.open(tmp_path / "run", **options) as run:
        assert run.is_resumed
    assert not (tmp_path / "run" / "lock").exists()
