"""`gru-mem sft`: its configuration, and what it leaves; training itself is replaced."""

import re

import pytest

from gru_mem_jax.cli.main import main

FILE = "--gin_file=gin/runs/sft.gin"


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """(configurations and their texts that were trained, the folder)"""
    import gru_mem_jax.train
    from gru_mem_jax.cli import runtime

    seen = []

    def sft(config, run_dir, *, config_text, command, **options):
        seen.append((config, config_text))

    monkeypatch.setattr(gru_mem_jax.train, "sft", sft)
    monkeypatch.setattr(runtime, "start", lambda *flags: None)
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: None)
    return seen, tmp_path


def test_bindings_win_over_files(trained):
    seen, folder = trained
    file = folder / "run.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from gru_mem_jax import train\n"
        "include 'gin/runs/sft.gin'\n"
        "NUM_STEPS = 7\n"
        "SEED = 7\n"
        "train.SFTConfig.rows = 7\n"
    )
    flags = [f"--gin_file={file}", "--gin.SEED=8"]
    assert main(["sft", f"--run_dir={folder / 'a'}", *flags]) == 0
    ((config, _),) = seen
    loop = config.loop
    assert (config.rows, loop.num_steps, loop.seed) == (7, 7, 8)


def test_the_operative_text_gives_the_same_run(trained):
    seen, folder = trained
    flags = ["--gin.NUM_STEPS=9", "--gin.short/SyntheticConfig.max_items=3"]
    flags += ["--gin.SyntheticConfig.min_items=2", "--gin.TinyModel.num_layers=3"]
    assert main(["sft", f"--run_dir={folder / 'a'}", FILE, *flags]) == 0
    (config, text) = seen[0]
    assert "NUM_STEPS = 9" in text
    (folder / "operative.gin").write_text(text)
    again = f"--gin_file={folder / 'operative.gin'}"
    assert main(["sft", f"--run_dir={folder / 'b'}", again]) == 0
    assert seen[1] == (config, text)
    assert config.start.num_layers == 3
    assert config.short_source.config.max_items == 3
    assert config.source.config.max_items == 6


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([FILE], "--run_dir RUN is needed"),
        (["--run_dir=x", FILE, "--gin.NUM_STEPS=0"], "num_steps must be at least 1"),
        (["--run_dr=x"], r"did you mean --run_dir\?"),
        (["--run_dir=x", FILE, "--gin.SFTConfig.row=1"], r"did you mean rows\?"),
        (["--run_dir=x", FILE, "--gin.SFTConfig.rows='1'"], "expected int, got str"),
        (["--run_dir=x", FILE, "--gin.STEPS=1"], "nothing reads STEPS"),
        (["--run_dir=x", FILE, "--gin.LearnerConfig.b1=2.0"], "b1 must be a number"),
        (["--run_dir=x", FILE, "--gin.POLICY='nowhere'"], "no such policy directory"),
    ],
)
def test_mistakes(trained, flags, expected, capsys):
    seen, folder = trained
    flags = [flag.replace("=x", f"={folder / 'x'}") for flag in flags]
    assert main(["sft", *flags]) == 2
    err = capsys.readouterr().err
    assert re.search(expected, err), err
    assert err.count("\n") == 1
    assert seen == []
    assert not (folder / "x").exists()


def test_a_dry_run_prints_settings_and_what_they_come_to(tmp_path, capsys):
    assert main(["sft", FILE, "--dry_run"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"SFTConfig\.rows = 5", out)
    assert "policy: from scratch, qwen2" in err
    assert "a step: 5 rows of 256 tokens" in err
    assert err.rstrip().endswith("dry run: all checks passed; nothing was trained")


def test_a_run_is_stopped_by_what_is_no_run_folder(tmp_path, capsys):
    (tmp_path / "policy").mkdir()
    (tmp_path / "operative.gin").write_text("kept")
    assert main(["sft", f"--run_dir={tmp_path}", FILE, "--gin.NUM_STEPS=1"]) == 2
    assert "neither empty nor a run folder" in capsys.readouterr().err
    assert (tmp_path / "operative.gin").read_text() == "kept"
