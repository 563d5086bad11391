"""`gru-mem export`: what is refused. That it exports: tests/train/test_train_export."""

import re

import pytest
from run_folders import make_run

from gru_mem_jax.cli.main import main


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["run"], "required: --out; see gru-mem export --help"),
        (["--out=x"], "required: RUN"),
        (["run", "--out=x", "--step=0"], "--step: must be at least 1"),
        (["run", "--out=x", "--dtype=float16"], r"float16.*did you mean bfloat16"),
        (["run", "--out=x", "--adapter"], r"did you mean --adapters\?"),
        (["none", "--out=x"], "none: no such run folder"),
        (["folder", "--out=x"], "folder: not a run folder"),
        (["run", "--out=x"], "run/checkpoints: holds no checkpoint"),
        (
            ["run", "--out=x", "--step=3"],
            "run/checkpoints: holds no checkpoint|no step",
        ),
    ],
)
def test_mistakes(flags, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    (tmp_path / "folder").mkdir()
    assert main(["export", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(expected, err), err
    assert not (tmp_path / "x").exists()
