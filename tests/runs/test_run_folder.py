"""Who may write to a run folder, what is refused, and what a move changes.

Faults R8, R9, R10 and R29.
"""

import json
import os
import shutil
import time

import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.runs import folder as run_folder
from gru_mem_jax.runs.folder import RunFolder

OPTIONS = {
    "command": ["gru-mem", "train", "--run_dir", "my run"],
    "config_text": "A.alpha = 0.9\nNUM_STEPS = 3\n",
    "environment": {"versions": {"jax": "1"}, "host": "a"},
}
LAYOUT = {
    "command.txt",
    "environment.json",
    "operative.gin",
    "checkpoints",
    "trajectories",
    "plots",
    "tensorboard",
}


def names(path):
    return {inner.name for inner in path.iterdir()}


def test_layout(tmp_path):
    path = tmp_path / "deep" / "run"
    with RunFolder.open(path, **OPTIONS) as run:
        assert names(path) == LAYOUT | {"lock"}
        assert not run.is_resumed
        assert run.notes == ()
        run.log("started\x1b[31m \ud800")
        assert run.resume_command == "gru-mem train --run_dir 'my run'"
        assert run.metrics == path / "metrics.jsonl"
        for folder in (run.checkpoints, run.trajectories, run.plots, run.tensorboard):
            assert folder.is_dir()
    assert names(path) == LAYOUT | {"log.txt"}
    assert (path / "command.txt").read_text() == "gru-mem train --run_dir 'my run'\n"
    assert (path / "operative.gin").read_text() == OPTIONS["config_text"]
    assert "started" in (path / "log.txt").read_text()
    for file in path.iterdir():
        assert not file.is_file() or str(tmp_path) not in file.read_text()


def test_going_on(tmp_path):
    with RunFolder.open(tmp_path / "run", **OPTIONS) as first:
        pass
    with RunFolder.open(tmp_path / "run", **OPTIONS) as second:
        assert second.is_resumed
        assert second.notes == ()
        assert second.id == first.id
        assert len(first.id) == 16
    assert len((tmp_path / "run" / "command.txt").read_text().splitlines()) == 2


def test_moved_copied_and_linked(tmp_path):
    with RunFolder.open(tmp_path / "run", **OPTIONS) as first:
        # A copy made while the run is going: its lock is held by nobody.
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert (tmp_path / "copy" / "lock").exists()
        with RunFolder.open(tmp_path / "copy", **OPTIONS) as copy:
            assert copy.is_resumed
    os.rename(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "link").symlink_to("moved")
    for name in ("moved", "link"):
        with RunFolder.open(tmp_path / name, **OPTIONS) as run:
            assert run.is_resumed
            assert run.id == first.id


def test_two_objects_of_one_process(tmp_path):
    with RunFolder.open(tmp_path / "run", **OPTIONS):
        wanted = f"run: in use by pid {os.getpid()} on host "
        with pytest.raises(InputError, match=wanted):
            RunFolder.open(tmp_path / "run", **OPTIONS)
    RunFolder.open(tmp_path / "run", **OPTIONS).close()


def test_file_system_without_locks(tmp_path, monkeypatch):
    """What the lock says decides: a living process of this host is in the way."""
    import socket

    from gru_mem_jax.runs import lock as file_lock

    def flock(*unused):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_lock.fcntl, "flock", flock)
    lock = tmp_path / "lock"
    host = socket.gethostname()
    lock.write_text(json.dumps({"pid": os.getppid(), "host": host}))
    with pytest.raises(
        InputError, match=f"in use by pid {os.getppid()} on host {host}"
    ):
        file_lock.FileLock(lock)
    for stale in (
        json.dumps({"pid": 2**22 + 1, "host": host}),  # beyond the largest pid
        json.dumps({"pid": os.getppid(), "host": "another"}),
        json.dumps({"pid": "1", "host": host}),
        "[1",
        "",
        "[" * 5000,
    ):
        lock.write_text(stale)
        held = file_lock.FileLock(lock)
        holder = json.loads(lock.read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), host)
        assert abs(holder["time"] - time.time()) < 60
        with pytest.raises(InputError, match=f"in use by pid {os.getpid()} on"):
            file_lock.FileLock(lock)
        assert "kept apart by the file lock" in held.note
        held.release()
        assert not lock.exists()


def test_other_settings(tmp_path):
    path = tmp_path / "run"
    RunFolder.open(path, **OPTIONS).close()
    changed = OPTIONS | {"config_text": "A.alpha = 0.5\nNUM_STEPS = 9\n"}
    before = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}
    with pytest.raises(
        InputError,
        match=r"other settings: A.alpha: 0.9 before, 0.5 now \(and 1 more\); .*"
        "--resume_with_changes",
    ):
        RunFolder.open(path, **changed)
    assert {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} == before
    with pytest.raises(InputError, match=r"0\.5 now; use"):
        RunFolder.open(path, **changed, may_change=["num_steps"])
    with RunFolder.open(path, **changed, resume_with_changes=True) as run:
        assert run.notes == (
            "changed setting: A.alpha: 0.9 before, 0.5 now",
            "changed setting: NUM_STEPS: 3 before, 9 now",
        )
        assert run.config_text == changed["config_text"]
    assert (path / "operative.1.gin").read_text() == OPTIONS["config_text"]
    longer = OPTIONS | {"config_text": "A.alpha = 0.5\nNUM_STEPS = 12\n"}
    with RunFolder.open(path, **longer, may_change=["num_steps"]) as run:
        assert run.notes == ()
        assert run.config_text == longer["config_text"]
    assert (path / "operative.2.gin").read_text() == changed["config_text"]


def test_other_environment_is_told_and_kept(tmp_path):
    path = tmp_path / "run"
    RunFolder.open(path, **OPTIONS).close()
    other = {"versions": {"jax": "2"}, "host": "b"}
    with RunFolder.open(path, **OPTIONS | {"environment": other}) as run:
        (note,) = run.notes
        assert note.startswith("another environment than before (host, versions)")
    record = json.loads((path / "environment.json").read_text())
    assert record["environment"] == other
    assert record["earlier"] == [OPTIONS["environment"]]
    assert "another environment" in (path / "log.txt").read_text()


def test_nothing_is_written_into_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"nor a run folder \(it holds thesis.tex\)"):
        RunFolder.open(tmp_path, **OPTIONS)
    assert names(tmp_path) == {"thesis.tex"}
    with pytest.raises(InputError, match="is a file"):
        RunFolder.open(tmp_path / "thesis.tex", **OPTIONS)
    with pytest.raises(InputError, match=r"thesis\.tex"):
        RunFolder.open(tmp_path / "thesis.tex" / "run", **OPTIONS)


def test_killed_at_its_very_start(tmp_path):
    """Before the folder was marked as a run's, only these could be there."""
    (tmp_path / "lock").write_text('{"pid": 1')
    (tmp_path / "environment.json.saving").write_text('{"run_f')
    with RunFolder.open(tmp_path, **OPTIONS) as run:
        assert not run.is_resumed
    # Marked, and nothing else yet.
    for name in LAYOUT - {"environment.json"}:
        inner = tmp_path / name
        inner.rmdir() if inner.is_dir() else inner.unlink()
    with RunFolder.open(tmp_path, **OPTIONS) as run:
        assert run.is_resumed
        assert names(tmp_path) == LAYOUT | {"lock"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"run_folder_format": 2}', "run folder of format 2, .* reads 1"),
        ("{}", "not a run folder's record"),
        ("[" * 100_000, "not a run folder's record"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_hostile_record(tmp_path, text, message):
    (tmp_path / "environment.json").write_text(text, encoding="latin-1")
    for use in (RunFolder.read, lambda path: RunFolder.open(path, **OPTIONS)):
        with pytest.raises(InputError, match=message):
            use(tmp_path)
    assert names(tmp_path) == {"environment.json"}


def test_a_pipe_where_a_file_belongs_does_not_hang(tmp_path):
    path = tmp_path / "run"
    RunFolder.open(path, **OPTIONS).close()
    os.mkfifo(path / "log.txt")
    with pytest.raises(InputError, match=r"log\.txt: expected a file"):
        RunFolder.open(path, **OPTIONS)
    (path / "operative.gin").unlink()
    os.mkfifo(path / "operative.gin")
    with pytest.raises(InputError, match="expected a regular file"):
        _ = RunFolder.read(path).config_text


@pytest.mark.parametrize("call", ["mkdir", "lock", "record", "command"])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, call):
    path = tmp_path / "run"

    def refuse(*unused, **named):
        raise OSError(30, "Read-only file system", str(path))

    target = {
        "mkdir": ("gru_mem_jax.runs.folder.pathlib.Path.mkdir"),
        "lock": "gru_mem_jax.runs.lock.os.open",
        "record": "gru_mem_jax.durable_files.write_atomically",
        "command": "gru_mem_jax.runs.folder._appending",
    }[call]
    with monkeypatch.context() as patch:
        patch.setattr(target, refuse)
        with pytest.raises(InputError, match=r"cannot be written \(Read-only file"):
            RunFolder.open(path, **OPTIONS)
    RunFolder.open(path, **OPTIONS).close()  # its lock was let go


def test_reading(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        RunFolder.read(tmp_path / "none")
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder.read(tmp_path)
    with RunFolder.open(tmp_path / "run", **OPTIONS) as run:
        before = names(tmp_path / "run")
        reader = RunFolder.read(tmp_path / "run")
        assert reader.id == run.id
        assert reader.config_text == OPTIONS["config_text"]
        reader.close()
        assert names(tmp_path / "run") == before
    # An editor may put a byte order mark before what it saves.
    for name in ("operative.gin", "environment.json"):
        file = tmp_path / "run" / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    reader = RunFolder.read(tmp_path / "run")
    assert (reader.id, reader.config_text) == (run.id, OPTIONS["config_text"])


def test_environment_is_asked_for_when_the_folder_is_known_to_be_usable(tmp_path):
    asked = []

    def environment():
        asked.append(1)
        return OPTIONS["environment"]

    options = OPTIONS | {"environment": environment}
    with RunFolder.open(tmp_path / "run", **options):
        assert asked == [1]
        with pytest.raises(InputError, match="in use"):
            RunFolder.open(tmp_path / "run", **options)
    assert asked == [1]
    assert "jax" in (tmp_path / "run" / "environment.json").read_text()


def test_environment_is_json_and_holds_what_numbers_depend_on():
    found = json.loads(json.dumps(run_folder.describe_environment()))
    assert {"gru_mem_jax", "python", "jax", "jaxlib"} <= found["versions"].keys()
    assert len(found["devices"]) == 8
    assert "device_count=8" in found["flags"]["XLA_FLAGS"]
