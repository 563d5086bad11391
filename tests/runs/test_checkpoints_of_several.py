"""Checkpoints and run folders of several processes, and restores on other devices."""

import itertools

import jax
import numpy as np
import pytest
import several_processes
from several_processes import placed, target, values

from gru_mem_jax import buckets
from gru_mem_jax.runs.checkpoints.manager import Checkpoints


def check(tree, step):
    for name, value in values(step).items():
        np.testing.assert_array_equal(np.asarray(tree[name]), value)


@pytest.fixture(scope="module")
def two(tmp_path_factory, emulator):
    """What two processes of four devices did."""
    folder = tmp_path_factory.mktemp("two")
    return folder, several_processes.run("save", folder, BUCKET="gs://bucket/two")


def test_all_write_the_arrays_and_the_first_the_rest(two):
    folder, found = two
    for each in found:
        assert each["steps"] == [2, 3]
        assert (each["step"], each["equal"]) == (3, True)
        assert each["id"] == found[0]["id"]
        assert (each["text"], each["devices"]) == ("a = 1\n", 8)
    arrays = folder / "run" / "checkpoints" / "3" / "params"
    written = [arrays / f"ocdbt.process_{i}" / "d" for i in range(2)]
    assert all(list(path.iterdir()) for path in written)  # each its own
    log = (folder / "run" / "log.txt").read_text()
    assert "by 0" in log
    assert "by 1" not in log


def test_failures_reach_all_by_name(two):
    folder, found = two
    full = f"RunError: {found[0]['names'][1]}: {folder}/run/checkpoints/4: no space"
    for each in found:
        assert "run: in use by pid" in each["second"]
        assert each["again"].endswith("3: is already saved")
        assert [text.startswith(full) for text in each["full"]] == [True, True]
        assert each["left"] == ["2", "3"]
        assert "started with other settings: a: 1 before, 2 now" in each["other"]
        assert each["second"] == found[0]["second"]
        assert each["other"] == found[0]["other"]
        assert each["own"].startswith(f"InputError: {found[0]['names'][1]}: ")
        assert "all processes of a run need the same" in each["own"]


def test_two_processes_and_a_bucket(two):
    for each in two[1]:
        assert each["bucket"] == {"steps": [2], "equal": True}
    with Checkpoints("gs://bucket/two/checkpoints", create=False) as checkpoints:
        check(checkpoints.restore({"params": target(None)})["params"], 2)
        arrays = checkpoints.directory / "2" / "params"
    for index in range(2):  # each wrote its own
        assert buckets.names(arrays / f"ocdbt.process_{index}" / "d")


@pytest.mark.parametrize("sizes", [None, (1, 8, 1), (2, 2, 2)])
def test_two_processes_then_one(two, sizes):
    folder, _ = two
    with Checkpoints(folder / "run" / "checkpoints", create=False) as checkpoints:
        found = checkpoints.restore_latest({"params": target(sizes)})
    assert (found.step, found.warnings) == (3, ())
    check(found.trees["params"], 3)
    devices = found.trees["params"]["embed"].sharding.device_set
    assert len(devices) == (1 if sizes is None else 8)


def test_one_process_then_two(tmp_path):
    """The newest of its steps is damaged."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": placed(step, (1, 8, 1))})
    (tmp_path / "2" / "record.json").write_text("{}")
    for each in several_processes.run("restore", tmp_path):
        assert (each["step"], each["equal"]) == (1, True)
        assert "2: damaged: record.json differs" in each["warnings"][0]
        assert "1: has no other; it has params" in each["missing"]


def test_other_meshes_of_one_process(tmp_path):
    order = [(1, 8, 1), (2, 2, 2), (8, 1, 1), None]
    with Checkpoints(tmp_path) as checkpoints:
        for step, (sizes, then) in enumerate(itertools.pairwise(order)):
            checkpoints.save(step, {"params": placed(step, sizes)})
            found = checkpoints.restore({"params": target(then)}, step)["params"]
            check(found, step)
            if then is not None:
                wanted = several_processes.shardings(then)
                assert found["embed"].sharding == wanted["embed"]
        devices = jax.local_devices()[:1]
        assert list(found["embed"].devices()) == devices
