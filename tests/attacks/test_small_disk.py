"""A real disk, full and then read-only, where one can be mounted (faults R7, R8)."""

import json
import pathlib
import subprocess
import sys

import pytest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    try:
        mount = ["mount", "-t", "tmpfs", "x", str(disk)]
        subprocess.run([*NAMESPACE, *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    script = pathlib.Path(__file__).with_name("small_disk.py")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, str(script), str(disk)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""  # Orbax's pages of tracebacks among it
    return disk, json.loads(done.stdout)


def test_full_at_a_save(found):
    disk, result = found
    start = f"RunError: {disk}/run/checkpoints/2: no space left to write (72"
    assert result["save"].startswith(start)
    assert "bytes free; what was saved before is intact" in result["save"]
    assert result["steps"] == [1]
    assert result["problems"] == []
    assert result["names"] == ["1"]
    start = f"RunError: {disk}/run/checkpoints/2: no space left to write (16"
    assert result["save_full"].startswith(start)
    assert ", 0 bytes free" in result["save_full"]


def test_full_at_a_row(found):
    disk, result = found
    start = f"RunError: {disk}/run/metrics.jsonl: no space left to write (5024 bytes"
    assert result["row"].startswith(start)
    assert result["rows"] == 1


def test_freed(found):
    _, result = found
    assert result["rows_freed"] == 2
    assert result["steps_freed"] == [1, 2]


def test_read_only(found):
    disk, result = found
    for name, key in (("run", "open"), ("new", "open_new")):
        assert result[key].startswith(
            f"InputError: {disk}/{name}: cannot be written (R"
        )
    assert result["rows_read"] == 2
    assert result["files_read"] == []
    assert result["metadata_read"] == {}
