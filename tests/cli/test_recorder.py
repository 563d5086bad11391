"""The trajectory's file while the run goes on, and what tells policies apart."""

import json
import os

import pytest

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.cli import json_output
from gru_mem_jax.cli.recorder import Recorder, fingerprint


def test_unfinished_files_say_so_and_finished_ones_do_not(tmp_path):
    path = tmp_path / "out.json"
    recorder = Recorder(json_output.open_target(str(path)))
    run = Trajectory(mode="memagent", question="q", stop_reason="exit_gate")
    recorder.save(run)
    assert json.loads(path.read_text())["interrupted"] is True
    assert json.loads(path.read_text())["stop_reason"] == "interrupted"
    recorder.finish(run)
    assert json.loads(path.read_text())["interrupted"] is False
    assert json.loads(path.read_text())["stop_reason"] == "exit_gate"


def test_saving_is_rare_enough_to_be_cheap(tmp_path):
    writes = []

    class Target:
        is_incremental, is_stdout, path = True, False, tmp_path

        def write(self, document):
            writes.append(document)

    recorder = Recorder(Target(), pause=3600)
    for _ in range(100):
        recorder.save(Trajectory(mode="memagent", question="q"))
    assert len(writes) == 1
    recorder.finish(Trajectory(mode="memagent", question="q"))
    assert len(writes) == 2


def test_nothing_is_saved_where_only_the_end_can_be_written(capsys):
    recorder = Recorder(json_output.open_target("-"))
    recorder.save(Trajectory(mode="memagent", question="q"))
    assert capsys.readouterr().out == ""
    assert recorder.path is None
    recorder.finish(Trajectory(mode="memagent", question="q"))
    assert json.loads(capsys.readouterr().out)["question"] == "q"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "policy"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(bytes(9 << 20))
    return path


def test_fingerprint_follows_the_contents_not_the_place(folder, tmp_path):
    first = fingerprint(folder)
    folder.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    (moved / "notes.md").write_text("not part of the policy")
    os.mkfifo(moved / "pipe.json")
    assert fingerprint(moved) == first
    for place in (0, (9 << 20) - 1):
        with (moved / "model.safetensors").open("r+b") as f:
            f.seek(place)
            f.write(b"\x01")
        second = fingerprint(moved)
        assert second != first
        first = second
    (moved / "config.json").write_text("[]")
    second = fingerprint(moved)
    assert second != first
    (moved / "additional_chat_templates").mkdir()
    (moved / "additional_chat_templates" / "default.jinja").write_text("x")
    assert fingerprint(moved) != second
