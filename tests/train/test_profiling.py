"""Traces of steps: which steps and stages are in them, where they are, and when not."""

import pathlib

import pytest
from jax.profiler import ProfileData
from train_settings import quick_settings

from gru_mem_jax import buckets, storage
from gru_mem_jax.cli import arguments
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.train import ProfileSteps
from gru_mem_jax.train.profiling import Profiler


def events(folder):
    """Of the trace in a folder: names of what the host did, and numbers of steps."""
    [file] = pathlib.Path(folder).rglob("*.xplane.pb")
    data = ProfileData.from_file(str(file))
    found = [e for plane in data.planes for line in plane.lines for e in line.events]
    numbers = [
        dict(event.stats).get("step_num") for event in found if event.name == "step"
    ]
    return {event.name for event in found}, sorted(numbers)


def test_steps_and_stages_of_a_run(make_run, unbroken):
    settings = quick_settings()
    run = make_run()
    run(settings, profile=ProfileSteps(2, 3))
    names, numbers = events(run.path / "profile" / "process_0")
    assert numbers == [2, 3]
    assert {"stage place", "stage score", "stage update"} <= names
    assert "profile/process_0" in run.log()
    # A trace changes no number.
    assert run.rows() == unbroken(settings).rows()
    assert run.saved(5) == unbroken(settings).saved(5)


def test_a_run_that_ends_before_writes_what_there_is(tmp_path):
    profiler = Profiler(ProfileSteps(4, 99), tmp_path, print, Hosts())
    for number in range(1, 6):
        with profiler.step(number):
            pass
    assert not any(tmp_path.iterdir())
    profiler.close()  # as the loop does when it ends
    profiler.close()
    assert events(tmp_path)[1] == [4, 5]


def test_steps_that_do_not_come_leave_nothing(tmp_path):
    profiler = Profiler(ProfileSteps(6, 7), tmp_path, print, Hosts())
    with profiler.step(5):
        pass
    profiler.close()
    assert not any(tmp_path.iterdir())


def test_a_trace_in_a_bucket(bucket, tmp_path):
    steps, folder = ProfileSteps(1, 1), storage.locate(bucket) / "profile"
    with Profiler(steps, folder, print, Hosts()).step(1):
        pass
    names = [name for name in buckets.files(folder) if name.endswith(".xplane.pb")]
    [name] = names
    assert name.startswith("process_0/plugins/profile/")
    (tmp_path / "a.xplane.pb").write_bytes(buckets.read(folder / name))
    assert events(tmp_path)[1] == [1]


@pytest.mark.parametrize(
    ("index", "everywhere", "traced"), [(0, False, 1), (1, False, 0), (1, True, 1)]
)
def test_which_processes_are_traced(tmp_path, index, everywhere, traced):
    steps, notes = ProfileSteps(1, 1, everywhere), []
    profiler = Profiler(steps, tmp_path, notes.append, Hosts(index, 2))
    with profiler.step(1):
        pass
    assert len(notes) == traced
    assert [p.name for p in tmp_path.iterdir()] == [f"process_{index}"] * traced


def test_a_full_disk_is_a_warning(tmp_path):
    (tmp_path / "profile").write_text("")  # no folder can be made here
    notes = []
    steps = ProfileSteps(1, 1)
    with Profiler(steps, tmp_path / "profile", notes.append, Hosts()).step(1):
        pass
    [line] = notes
    assert line.startswith("warning: the trace was not written: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [("5", "expected A:B"), ("a:b", "expected A:B"), ("0:2", "no step"), ("3:2", "no")],
)
def test_wrong_steps_are_refused(text, told):
    with pytest.raises(Exception, match=told):
        arguments.steps(text)
    assert arguments.steps("5:6") == (5, 6)
