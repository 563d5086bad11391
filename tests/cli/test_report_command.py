"""`gru-mem report`: from folders of results to a page, and what is refused."""

import json
import pathlib

import jax
import pytest
from report_folders import Made, write_folder

from gru_mem_jax.cli.main import main

SMALL = Made(modes=("with_exit_gate",), sets=("a",), questions=1, lengths=(("", 2),))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(pathlib.Path("one"), SMALL)
    return tmp_path


def test_a_page_of_two_folders(here, capsys, monkeypatch):
    """No device is looked for; the same folder twice counts once."""
    monkeypatch.setattr(jax, "devices", lambda: 1 / 0)
    write_folder(pathlib.Path("two"), SMALL)
    words = ["report", "one", "two", "one", "--out=out/page", "--title=Our <runs>"]
    assert main(words) == 0
    assert capsys.readouterr().out == "out/page/report.html\n"
    page = pathlib.Path("out/page/report.html").read_text(encoding="utf-8")
    assert "<title>Our &lt;runs&gt;</title>" in page
    assert "one/policy" in page
    assert "two/policy" in page
    assert list(pathlib.Path("out/page/plots").glob("*.png"))
    before = page
    assert main(words) == 0  # replaced by an equal one
    assert pathlib.Path("out/page/report.html").read_text("utf-8") == before


def failed(words, capsys):
    """The line of a command that is refused."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("gru-mem: ")


def test_what_is_refused(here, capsys):
    pathlib.Path("empty").mkdir()
    assert failed(["report", "empty", "--out=out"], capsys) == (
        "empty: is no folder of an evaluation (gru-mem eval --out): it has no "
        "evaluation.json"
    )
    assert "none: is no folder of an evaluation" in failed(
        ["report", "one", "none", "--out=out"], capsys
    )
    pathlib.Path("file").write_text("")
    line = failed(["report", "one", "--out=file"], capsys)
    assert line == "--out: file is a file, expected a folder"
    assert not pathlib.Path("out").exists()
    assert "--out" in failed(["report", "one"], capsys)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": 2}',
        '{"format": 1, "title": 3}',
        '{"format": 1, "title": "", "policies": {"a": 1}, "modes": ["x", 3]}',
    ],
)
def test_manifests_that_are_none(here, capsys, text):
    pathlib.Path("one/evaluation.json").write_text(text)
    assert "one/evaluation.json" in failed(["report", "one", "--out=out"], capsys)


@pytest.mark.parametrize(
    "settings", [{"sets": 3}, {"sets": [3, {"set": 1}]}, {"sets": [{"labels": []}]}]
)
def test_settings_of_another_form_are_passed_over(here, settings):
    record = json.loads(pathlib.Path("one/evaluation.json").read_text())
    text = json.dumps(record | {"settings": settings})
    pathlib.Path("one/evaluation.json").write_text(text)
    assert main(["report", "one", "--out=out"]) == 0


def test_a_full_disk_ends_in_a_line(here, capsys, monkeypatch):
    from gru_mem_jax import durable_files

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files, "write_atomically", full)
    line = failed(["report", "one", "--out=out"], capsys)
    assert line == "out: cannot be written (No space left on device)"
