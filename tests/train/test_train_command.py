"""`gru-mem train`: settings from gin, dry runs, a small run, resuming, a bucket.

Faults R28 and R30.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import gcs_emulator
import pytest
from train_settings import make_policy_dir

from gru_mem_jax import buckets, storage
from gru_mem_jax.cli.main import main
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.runs.metrics import read_metrics

EXPERIMENT = "gin/experiments/tiny.gin"
ROOT = pathlib.Path(__file__).resolve().parents[2]
# The experiment made smaller still: a random policy of width 16, two steps.
SMALL = (
    "NUM_STEPS=2",
    "SAVE_EVERY=1",
    "RolloutConfig.questions_per_step=2",
    "RolloutConfig.group_size=2",
    "RolloutConfig.max_refills=0",
    "RolloutConfig.dynamic_sampling=False",
    "LoopConfig.eval_every=2",
    "SyntheticConfig.num_chunks=3",
    "SyntheticConfig.max_items=2",
    "SyntheticSuite.contexts=(('uniform', 2),)",
    "SyntheticSuite.num_questions=1",
    "SyntheticSuite.tasks=('single_key',)",
    "AgentConfig.chunk_size=64",
    "AgentConfig.question_tokens=24",
    "AgentConfig.memory_tokens=24",
    "AgentConfig.completion_tokens=8",
    "AgentConfig.prompt_tokens=160",
    "PromptConfig.style='compact'",
    "LearnerConfig.row_tokens=256",
    "EngineConfig.slots=4",
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(make_policy_dir(tmp_path_factory.mktemp("policy")))


def flags(policy, *more):
    return [
        "train",
        f"--gin_file={EXPERIMENT}",
        f"--gin.POLICY={policy!r}",
        *(f"--gin.{binding}" for binding in SMALL),
        *more,
    ]


@pytest.fixture(scope="module")
def finished(policy, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(flags(policy, f"--run_dir={run}", "--record")) == 0
    return run


def test_a_dry_run_prints_settings_and_what_they_come_to(policy, capsys):
    assert main(flags(policy, "--dry_run")) == 0
    out, err = capsys.readouterr()
    assert re.search(r"AgentConfig\.memory_tokens = 24", out)
    assert "NUM_STEPS = 2" in out
    assert "memory by formula, total" in err
    assert "longest turn: " in err
    assert err.rstrip().endswith("dry run: all checks passed; nothing was trained")


def test_settings_of_a_dry_run_are_those_of_the_run(finished, policy, capsys):
    assert main(flags(policy, "--dry_run", "--record")) == 0
    assert capsys.readouterr().out == (finished / "operative.gin").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gin.NUM_STEP=3"], "gin: nothing reads NUM_STEP (did you mean NUM_STEPS?)"),
        (["--gin.POLICY='nowhere'"], "'nowhere': no such policy directory"),
        (["--gin.LearnerConfig.row_tokens=64"], "more than a row of row_tokens 64"),
        (["--gin.SamplingConfig.top_k=5"], "top_k is 5: rollouts drawn from a part"),
        (["--gin.RolloutConfig.group_size=1"], "group_size must be at least 2"),
        (["--gin.MeshConfig.data=9"], "9"),
        (
            ["--gin.TrainConfig.source=7"],
            "source must have a method example(position)",
        ),
        (["--runs=x"], "unknown flag --runs"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_wrong_is_one_line_and_makes_no_folder(
    policy, tmp_path, capsys, more, message, dry
):
    where = ["--dry_run"] if dry else [f"--run_dir={tmp_path / 'run'}"]
    assert main(flags(policy, *where, *more)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert message in last, last
    assert last.startswith("gru-mem: ")
    assert list(tmp_path.iterdir()) == []


def test_bad_records_are_listed_a_line_each(policy, tmp_path, capsys):
    """All of them by a dry run, the first by a run; neither makes a folder."""
    document = {"answers": ["amber"], "document": "The code is amber."}
    lines = [
        json.dumps({"id": f"q{i}", "question": "Which code? " * (9 if i else 1)})[:-1]
        + f", {json.dumps(document)[1:]}"
        for i in range(30)
    ]
    data = tmp_path / "q.jsonl"
    data.write_text("\n".join(lines))
    gin = tmp_path / "q.gin"
    gin.write_text(
        "from __gin__ import dynamic_registration\n"
        "from gru_mem_jax import data\n"
        "from gru_mem_jax import train\n"
        "include 'gin/runs/train.gin'\n"
        "train.TrainConfig.source = @data.JsonlSource()\n"
        f"data.JsonlSource.path = '{data}'\n"
    )
    words = flags(policy, f"--gin_file={gin}")
    left = ("Synthetic", "eval_every", EXPERIMENT)  # no suite without the experiment
    words = [w for w in words if not any(name in w for name in left)]
    for where, listed in (("--dry_run", 29), (f"--run_dir={tmp_path / 'run'}", 21)):
        assert main([*words, where]) == 2
        out, err = capsys.readouterr()
        *before, last = err.strip().splitlines()
        assert out == ""
        assert len(before) == listed, last
        assert re.match(rf"{data}:2: the question has \d+ tokens, .*'q1'\)$", before[0])
        assert last.startswith("gru-mem: 29 of 30 records are bad: ")
        assert f"{data}:4: " in last
        assert "; and 26 more, all listed in " in last
    assert before[-1] == f"and 9 more, listed in {data}.gru_mem_check.json"
    assert not (tmp_path / "run").exists()
    skip = "--gin.JsonlSource.on_bad_record='skip'"
    assert main([*words, "--dry_run", skip]) == 0
    _, err = capsys.readouterr()
    assert "data: 29 of 30 records skipped: 29 x the question has # tokens" in err
    assert err.rstrip().endswith("dry run: all checks passed; nothing was trained")


def test_a_run_needs_a_folder_and_a_policy(policy, capsys):
    assert main(flags(policy)) == 2
    assert "--run_dir RUN is needed (or --dry_run)" in capsys.readouterr().err
    assert main(["train", "--dry_run"]) == 2
    assert "no policy to begin with" in capsys.readouterr().err


def test_what_a_run_leaves(finished):
    rows = read_metrics(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert "eval/exact" in rows[2]
    assert rows[2]["kl"] >= 0
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["1", "2"]
    assert sorted(p.name for p in (finished / "rollouts").iterdir())
    command = (finished / "command.txt").read_text()
    assert command.startswith("gru-mem")
    first = (finished / "log.txt").read_text().splitlines()[0]
    assert first.endswith(f"run folder: {finished}")


def test_the_same_command_goes_on_and_other_settings_do_not(finished, policy, capsys):
    again = flags(policy, f"--run_dir={finished}", "--record")
    assert main(again) == 0
    assert "finished at step 2" in capsys.readouterr().err
    assert main([*again, "--gin.SEED=9"]) == 2
    assert "SEED: 0 before, 9 now" in capsys.readouterr().err
    assert main([*again, "--gin.NUM_STEPS=3"]) == 0
    assert "resumed from step 2" in capsys.readouterr().err
    rows = read_metrics(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]


def test_a_replay_gives_the_same_numbers(finished, policy, tmp_path):
    replay = ["--replay", str(finished / "rollouts"), f"--run_dir={tmp_path / 'again'}"]
    assert main(flags(policy, *replay)) == 0
    before = read_metrics(finished / "metrics.jsonl")
    for old, new in zip(before, read_metrics(tmp_path / "again/metrics.jsonl")):
        for name in ("reward/trajectory", "loss", "kl", "grad_norm", "eval/exact"):
            assert old.get(name) == new.get(name), (new["step"], name)


def test_the_operative_file_gives_the_same_run(finished, tmp_path, capsys):
    operative = finished / "operative.gin"
    bindings = ["--gin.NUM_STEPS=3", "--gin.RolloutConfig.record=True"]
    assert main(["train", f"--gin_file={operative}", "--dry_run", *bindings]) == 0
    shown = capsys.readouterr().out
    saved = operative.read_text().replace("NUM_STEPS = 2\n", "NUM_STEPS = 3\n")
    assert shown == saved


def test_a_stranger_finds_his_way(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "command.txt",
        "environment.json",
        "operative.gin",
        "metrics.jsonl",
        "log.txt",
        "checkpoints",
        "trajectories",
        "plots",
        "tensorboard",
    }
    assert json.loads((finished / "environment.json").read_text())["run_id"]


# -- in a bucket -----------------------------------------------------------------------


def rows(run):
    found = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not is_time(k)} for row in found]


def checksums(run, step):
    """Of the arrays that were saved."""
    return json.loads(storage.read_bytes(run / "checkpoints" / step / "record.json"))[
        "checksums"
    ]


def test_killed_between_the_objects_of_a_step(
    emulator, bucket, finished, policy, tmp_path, capsys, monkeypatch, compiled_programs
):
    """It equals the run on a disk that nobody killed."""
    place, run = f"{bucket}/policy", storage.locate(f"{bucket}/run")
    for path in pathlib.Path(policy).iterdir():
        buckets.write(storage.locate(place) / path.name, path.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = flags(place, f"--run_dir={run}")
    programs = {
        "JAX_COMPILATION_CACHE_DIR": compiled_programs,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gru_mem_jax.cli.main", *words],
        env=os.environ | programs,
        stderr=subprocess.PIPE,
        text=True,
    )
    prefix = f"{os.fspath(run).removeprefix('gs://bucket/')}/checkpoints/2/"
    gcs_emulator.kill_after(emulator, process.pid, 4, prefix)
    _, error = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, error
    assert "two writers are kept apart by the file lock" in error
    left = buckets.files(run / "checkpoints" / "2")
    assert 0 < len(left) < len(buckets.files(run / "checkpoints" / "1"))
    with Checkpoints(run / "checkpoints", create=False) as checkpoints:
        assert checkpoints.steps() == (1,)

    capsys.readouterr()
    assert main(words) == 0
    error = capsys.readouterr().err
    assert "resumed from step 1" in error
    assert f"finished at step 2; run folder: {run}" in error
    assert rows(run) == rows(finished)[:3]  # other tests may have continued it
    assert checksums(run, "2") == checksums(finished, "2")
    assert not storage.exists(run / "lock")
    assert len(os.listdir(tmp_path / "cache/gru_mem/policies")) == 1
    assert b"resumed from step 1" in buckets.read(run / "log.txt")
    assert len(buckets.read(run / "command.txt").splitlines()) == 2

    for command in (["show", str(run)], ["plot", str(run)]):
        assert main(command) == 0
    out = capsys.readouterr().out
    assert "step" in out
    assert f"{run}/plots/overview.png" in out
    assert buckets.read(run / "plots" / "overview.png").startswith(b"\x89PNG")
    assert main(["export", str(run), "--out", f"{bucket}/out"]) == 2
    assert "is in a bucket, expected a folder on" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gs://none/run", "gs://none/run: there is no bucket none"),
        ("gs://private/run", "gs://private/run: permission denied (Forbidden"),
        ("gs://readonly/run", "gs://readonly/run: cannot be written (permission den"),
        ("gs://", "names no bucket; expected gs://BUCKET/PATH"),
        ("gs://bucket/a [b]", "has a name of ASCII letters, digits and _./+=,@- alone"),
    ],
)
def test_refused_in_a_line(emulator, policy, capsys, where, message):
    assert main(flags(policy, f"--run_dir={where}")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("gru-mem: ")
    assert message in last
