"""`gru-mem sft`: its configuration, and what it leaves; training itself is replaced."""

import re

import pytest

from gru_mem_jax.cli.main import main


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """(configurations that were trained, the folder)"""
    from gru_mem_jax.cli import runtime
    from gru_mem_jax.sft import train

    seen = []

    def run(config, out):
        (out / "policy").mkdir()
        seen.append(config)

    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr(runtime, "start", lambda: None)
    return seen, tmp_path


def test_flags_win_over_bindings_and_bindings_over_files(trained):
    seen, folder = trained
    file = folder / "run.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from gru_mem_jax import sft\n"
        "STEPS = 7\n"
        "sft.SFTConfig.steps = %STEPS\n"
        "sft.SFTConfig.seed = 7\n"
        "sft.SFTConfig.rows = 7\n"
    )
    flags = [
        f"--gin_file={file}",
        "--gin.SFTConfig.seed=8",
        "--gin.STEPS=8",
        "--seed=9",
    ]
    assert main(["sft", f"--out={folder / 'a'}", *flags]) == 0
    (config,) = seen
    assert (config.rows, config.steps, config.seed) == (7, 8, 9)


def test_the_operative_text_gives_the_same_run(trained):
    seen, folder = trained
    flags = ["--steps=9", "--gin.short_data/SyntheticConfig.max_items=3"]
    flags += ["--gin.SyntheticConfig.min_items=2", "--gin.TinyModel.num_layers=3"]
    assert main(["sft", f"--out={folder / 'a'}", *flags]) == 0
    text = folder / "a" / "operative.gin"
    assert "SFTConfig.steps = 9" in text.read_text()
    assert main(["sft", f"--out={folder / 'b'}", f"--gin_file={text}"]) == 0
    assert seen[0] == seen[1]
    assert seen[0].model.num_layers == 3
    assert seen[0].short_data.max_items == 3
    assert seen[0].data.max_items == 4


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--out DIR is needed"),
        (["--out=x", "--steps=0"], "--steps: must be at least 1"),
        (["--out=x", "--stps=1"], r"did you mean --steps\?"),
        (["--out=x", "--gin.SFTConfig.step=1"], r"did you mean steps\?"),
        (["--out=x", "--gin.SFTConfig.steps='1'"], "expected int, got str"),
        (["--out=x", "--gin.STEPS=1"], "nothing reads STEPS"),
        (["--out=x", "--gin.OptimizerConfig.b1=2.0"], "b1 must be between 0 and 1"),
        (["--out=file/x"], "--out: file/x: Not a directory"),
    ],
)
def test_mistakes(trained, flags, expected, monkeypatch, capsys):
    seen, folder = trained
    monkeypatch.chdir(folder)
    (folder / "file").write_text("")
    assert main(["sft", *flags]) == 2
    err = capsys.readouterr().err
    assert re.search(expected, err), err
    assert err.count("\n") == 1
    assert seen == []
    assert not (folder / "x").exists()


def test_a_finished_run_is_not_touched(tmp_path, monkeypatch, capsys):
    from gru_mem_jax.cli import runtime

    monkeypatch.setattr(runtime, "start", lambda: None)
    (tmp_path / "policy").mkdir()
    (tmp_path / "operative.gin").write_text("kept")
    assert main(["sft", f"--out={tmp_path}"]) == 2
    assert "policy is there already" in capsys.readouterr().err
    assert (tmp_path / "operative.gin").read_text() == "kept"
