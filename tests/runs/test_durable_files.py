"""Files that are whole or not there."""

import errno
import os
import threading

import pytest

from gru_mem_jax import durable_files


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    for name in ("x" * 255, "é" * 127, "short.json"):
        for data in ("old", "new"):
            durable_files.write_atomically(tmp_path / name, data)
        assert (tmp_path / name).read_text() == "new"
    assert len(os.listdir(tmp_path)) == 3


def test_a_shared_file_is_whole_whoever_writes_it(tmp_path):
    path = tmp_path / "name"
    texts = [letter * 100_000 for letter in (b"a", b"b", b"c")]

    def write(text):
        for _ in range(20):
            durable_files.write_shared(path, [text[:7], memoryview(text)[7:]])

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in texts
    assert os.listdir(tmp_path) == ["name"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_shared_file_that_fails_leaves_the_old_one(tmp_path, monkeypatch, error):
    durable_files.write_shared(tmp_path / "name", [b"old"])

    def fail(*arguments):
        raise error

    monkeypatch.setattr(durable_files.os, "replace", fail)
    with pytest.raises(type(error)):
        durable_files.write_shared(tmp_path / "name", [b"new"])
    assert os.listdir(tmp_path) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"old"
