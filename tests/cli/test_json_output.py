"""JSON files are whole at every moment, and JSON."""

import json
import os
import stat

import pytest

from gru_mem_jax.cli import json_output
from gru_mem_jax.data.files import read_json
from gru_mem_jax.errors import InputError, RunError


def test_written_aside_and_renamed(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    target = json_output.open_target(str(path))
    assert target.is_incremental
    target.write({"a": 1})
    seen = {}
    replace = os.replace

    def spy(source, destination):
        seen[str(destination)] = json.loads(path.read_text())  # still the old one
        replace(source, destination)

    monkeypatch.setattr(json_output.os, "replace", spy)
    target.write({"a": 2})
    assert seen == {str(path): {"a": 1}}
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "out.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(str(path))[0] == {"a": 1}


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    target = json_output.open_target(str(path))
    target.write({"a": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json_output.os, "replace", full)
    with pytest.raises(
        RunError, match=r"cannot write .*out.json \(\d+ bytes\): No space"
    ):
        target.write({"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_named_pipe_is_written_in_place(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    target = json_output.open_target(str(fifo))
    assert not target.is_incremental
    target.write({"a": 1})
    assert json.loads(os.read(reader, 1000)) == {"a": 1}
    os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(json_output.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="no permission to write"):
        json_output.open_target(str(tmp_path / "out.json"))


def test_dumps_is_json_in_ascii_with_a_line_for_each_turn():
    document = {
        "answer": "ä\x1b[31m\x9b\ud800",
        "numbers": [1.5, float("nan"), float("inf")],
        "turns": [{"x": (1, 2)}, {"x": float("-inf")}],
        "none": None,
        "empty": [],
    }
    text = json_output.dumps(document)
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text) == {
        "answer": "ä\x1b[31m\x9b\ud800",
        "numbers": [1.5, None, None],
        "turns": [{"x": [1, 2]}, {"x": None}],
        "none": None,
        "empty": [],
    }
    assert sum(line.startswith("  {") for line in text.splitlines()) == 2
