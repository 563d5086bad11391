"""Runs in a bucket: what makes a step whole, who may write, what is refused.

Faults R28, R29 and R30.
"""

import json
import multiprocessing
import os
import signal
import threading
import time

import gcs_emulator
import numpy as np
import pytest
from several_processes import equal, placed, target, tried

from gru_mem_jax import buckets, durable_files, storage
from gru_mem_jax.errors import InputError, PolicyError, RunError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.runs import lease
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import MetricsWriter, read_metrics

OPTIONS = {"command": ["a"], "config_text": "a = 1\n", "environment": {"a": 1}}


def trees(step):
    return {"params": {f"w{i}": np.full((50, 20), step, np.float32) for i in range(3)}}


ABSTRACT = {"params": {f"w{i}": np.zeros((50, 20), np.float32) for i in range(3)}}


def test_objects(bucket):
    place = storage.locate(bucket)
    assert (str(place), str(place / "a/b")) == (bucket, f"{bucket}/a/b")
    assert buckets.kind(place) is None
    data = os.urandom(100_000)
    buckets.write(place / "a/b", data)
    buckets.write(place / "c", b"")
    assert [buckets.kind(p) for p in (place, place / "a", place / "a/b")] == [
        "folder",
        "folder",
        "file",
    ]
    assert sorted(storage.names(place)) == ["a", "c"]
    assert storage.names(place / "none") == []
    assert buckets.files(place) == ["a/b", "c"]
    assert storage.size(place / "a/b") == 100_000
    assert storage.read_bytes(place / "c") == b""
    with storage.reader(place / "a/b") as file:
        assert file.read(10) + file.read() == data
    durable_files.write_manifest(place)
    assert durable_files.problems(place) == ()
    buckets.write(place / "a/b", data[1:])
    buckets.write(place / "d", b"")
    assert durable_files.problems(place) == (
        "d is not listed",
        "a/b differs from its sha256: cut or changed (99999 bytes)",
    )
    buckets.remove_folder(place / "a")
    assert "a/b is missing" in durable_files.problems(place)
    with pytest.raises(FileNotFoundError, match="no such object or bucket"):
        buckets.read(place / "none")
    refused = pytest.raises(InputError, match="only be made whole on a disk")
    with refused, durable_files.whole_folder(place / "out"):
        pass


def test_an_object_is_replaced_only_if_it_is_the_one_that_was_read(bucket):
    path = storage.locate(bucket) / "x"
    first = buckets.write_if(path, b"1", 0)
    with pytest.raises(FileExistsError):
        buckets.write_if(path, b"2", 0)
    second = buckets.write_if(path, b"2", first)
    with pytest.raises(FileExistsError):
        buckets.write_if(path, b"3", first)
    assert (buckets.read(path), buckets.generation(path)) == (b"2", second)


def test_steps(bucket):
    folder = f"{bucket}/checkpoints"
    with pytest.raises(InputError, match="no such folder of checkpoints"):
        Checkpoints(folder, create=False)
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2, 3):
            tree = {"params": placed(step, (1, 8, 1))}
            files = {"a.json": b"{}"}
            checkpoints.save(step, tree, {"s": step}, files=files, wait=False)
        checkpoints.wait()
        assert checkpoints.steps() == (2, 3)
        names = {name.split("/")[0] for name in buckets.files(checkpoints.directory)}
        assert names == {"2", "3"}
    with Checkpoints(folder, create=False) as checkpoints:
        found = checkpoints.restore_latest({"params": target((2, 2, 2))})
        assert (found.step, found.metadata, found.warnings) == (3, {"s": 3}, ())
        assert found.files == {"a.json": b"{}"}
        assert equal(found.trees["params"], 3)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(RunError, match="3: is already saved"):
            checkpoints.save(3, tree)
        buckets.write(checkpoints.directory / "3/record.json", b"{}")
        found = checkpoints.restore_latest({"params": target(None)})
        assert found.step == 2
        assert "3: damaged: record.json differs" in found.warnings[0]
        checkpoints.save(3, tree)
        assert checkpoints.steps() == (2, 3)
        damaged = checkpoints.directory / "3.damaged"
        assert buckets.read(damaged / "record.json") == b"{}"


def save_twice(folder: str, environment: dict[str, str], ready, go) -> None:
    """Saves step 1; then, once it may, step 2, in which it is killed."""
    os.environ.update(environment)  # the server of processes may be older than it
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, trees(1))
        ready.set()
        go.wait()
        checkpoints.save(2, trees(2))
    os._exit(0)


# After so many objects whose names begin so.
KILLS = (("", 1), ("", 3), ("", 6), ("record.json", 1), ("SHA256SUMS", 1))


def test_killed_after_each_number_of_objects(emulator, bucket):
    """Until its last object is there a step does not count, and the one before does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gru_mem_jax.runs.checkpoints.manager", "gcsfs"])
    place = storage.locate(bucket)
    counts = []
    for name, number in KILLS:
        folder = place / f"{name}{number}"
        ready, go = context.Event(), context.Event()
        own = (str(folder), dict(os.environ), ready, go)
        process = context.Process(target=save_twice, args=own)
        process.start()
        assert ready.wait(60)
        prefix = f"{folder}/2/{name}".removeprefix("gs://bucket/")
        gcs_emulator.kill_after(emulator, process.pid, number, prefix)
        go.set()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        left = buckets.files(folder / "2")
        counts.append(len(left))
        assert not name or name in left
        assert name == "SHA256SUMS" or "SHA256SUMS" not in left
        with Checkpoints(folder, create=False) as checkpoints:
            found = checkpoints.restore_latest(ABSTRACT)
        expected = 2 if name == "SHA256SUMS" else 1
        assert found.step == expected
        assert found.warnings == ()
        np.testing.assert_array_equal(found.trees["params"]["w1"], np.float32(expected))
        with Checkpoints(folder, keep=1) as checkpoints:  # the next start
            assert checkpoints.steps()[-1] == expected
            if expected == 1:
                assert buckets.files(folder / "2") == []
                checkpoints.save(2, trees(2))
                assert checkpoints.steps() == (2,)
                assert storage.names(folder) == ["2"]
    assert counts[0] == 1
    assert max(counts[1:3]) < min(counts[3:])


def test_a_step_that_is_removed_counts_no_more_from_its_first_object_on(
    bucket, monkeypatch
):
    with Checkpoints(bucket, keep=1) as checkpoints:
        checkpoints.save(1, trees(1))

        def die(*unused):
            raise OSError("killed")

        monkeypatch.setattr(buckets, "remove_folder", die)
        checkpoints._good.add(1)
        with pytest.raises(OSError, match="killed"):
            checkpoints._places.remove(1)
        assert checkpoints.steps() == ()
        assert len(buckets.files(checkpoints.directory)) > 3


def test_run_folder(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    path = f"{bucket}/run"
    with pytest.raises(InputError, match="no such run folder"):
        RunFolder.read(path)
    with RunFolder.open(path, **OPTIONS) as run:
        assert not run.is_resumed
        assert "kept apart by the file lock, which its holder writes" in run.notes[0]
        with pytest.raises(InputError, match=f"run: in use by pid {os.getpid()} on"):
            RunFolder.open(path, **OPTIONS)
        # The first line is written at once, others with it some seconds later.
        assert b"two writers are" in buckets.read(storage.locate(path) / "log.txt")
        run.log("a line")
        with MetricsWriter(
            run.metrics, cut_to=-1, tensorboard=run.tensorboard
        ) as metrics:
            for step in range(3):
                metrics.write(step, {"x": step})
            metrics.sync()
            assert len(read_metrics(run.metrics)) == 3
            metrics.write(3, {"x": 3})
        assert len(read_metrics(run.metrics)) == 4
        events = buckets.listing(run.tensorboard)
        assert [size > 100 for size, _ in events.values()] == [True]
    place = storage.locate(path)
    assert not storage.exists(place / "lock")
    assert b"a line" in buckets.read(place / "log.txt")
    reader = RunFolder.read(path)
    assert (reader.id, reader.config_text) == (run.id, "a = 1\n")
    with pytest.raises(InputError, match="other settings: a: 1 before, 2 now"):
        RunFolder.open(path, **OPTIONS | {"config_text": "a = 2\n"})
    changed = OPTIONS | {"config_text": "a = 2\n", "resume_with_changes": True}
    with RunFolder.open(path, **changed) as run:
        assert run.is_resumed
        assert run.notes[1:] == ("changed setting: a: 1 before, 2 now",)
        with MetricsWriter(run.metrics, cut_to=1) as metrics:
            assert metrics.last_step == 1
    assert buckets.read(place / "operative.1.gin") == b"a = 1\n"
    assert buckets.read(place / "command.txt") == b"a\na\n"
    buckets.write(storage.locate(bucket) / "other/file", b"")
    with pytest.raises(InputError, match="neither empty nor a run folder"):
        RunFolder.open(f"{bucket}/other", **OPTIONS)


def holder(**fields):
    found = {"pid": 7, "host": "another", "machine": "m", "id": "x"}
    return json.dumps(found | {"time": time.time()} | fields).encode()


def test_lock(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.5)
    path = storage.locate(bucket) / "lock"
    # Another host's, which is not renewed: taken after it was watched.
    buckets.write(path, holder())
    lost = []
    first = lease.Lease(path, lost.append)
    assert "taken over from pid 7 on host another, which did not for " in first.note
    assert json.loads(buckets.read(path))["pid"] == os.getpid()
    before = buckets.generation(path)
    time.sleep(0.4)
    assert buckets.generation(path) != before  # it is renewed
    # Somebody takes it over, as if this process had slept.
    buckets.write(path, holder())
    time.sleep(0.4)
    assert lost == [
        f"{bucket}: pid 7 on host another took this run over; this process ends"
    ]
    first.release()
    assert storage.exists(path)  # it is another's
    # Removed by hand while it is held, and while it is watched.
    buckets.remove(path)
    # It may see the next holder before its release: by itself it would end the process.
    held = lease.Lease(path, lost.append)
    buckets.remove(path)
    time.sleep(0.4)
    assert json.loads(buckets.read(path))["id"] == held._id
    buckets.write(path, holder())
    held.release()
    threading.Timer(0.2, buckets.remove, [path]).start()
    last = lease.Lease(path)
    assert "taken over" not in last.note
    last.release()
    # Very old, or of a dead process of this machine: taken at once.
    monkeypatch.setattr(lease, "WATCH_SECONDS", 60)
    for left in (
        holder(time=time.time() - 1000),
        holder(machine=lease._machine(), pid=2**22 + 1),
        b"{",
    ):
        buckets.write(path, left)
        lease.Lease(path).release()
        assert not storage.exists(path)
    # Renewed by another host while it is watched: in use.
    buckets.write(path, holder())
    read = lease._Object.read

    def renewed(self):
        found = read(self)
        buckets.write(path, holder())
        return found

    monkeypatch.setattr(lease._Object, "read", renewed)
    with pytest.raises(InputError, match="in use by pid 7 on host another"):
        lease.Lease(path)


def test_what_cannot_be_reached_is_said_within_seconds(emulator, monkeypatch):
    monkeypatch.setattr(buckets, "_PROBE_SECONDS", 0.5)
    with pytest.raises(PolicyError, match="there is no bucket none"):
        open_policy_dir("gs://none/policy")
    assert "there is no bucket none" in tried(Checkpoints, "gs://none/a")
    assert "permission denied" in tried(Checkpoints, "gs://private/a", create=False)
    with Checkpoints("gs://readonly/a") as checkpoints:
        saved = tried(checkpoints.save, 1, trees(1))
    assert saved.startswith("RunError: gs://readonly/a/1: cannot be written")
    assert "permission" in saved.lower()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    started = time.monotonic()
    assert "does not answer" in tried(Checkpoints, "gs://bucket/a")
    assert time.monotonic() - started < 5
    monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL")
    assert "an emulator needs both" in tried(Checkpoints, "gs://bucket/a")


def test_without_gcsfs(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    buckets._system.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'gru_mem_jax\[gcs\]'"):
        Checkpoints("gs://bucket/a")
