"""`gru-mem quickstart` in small, from start to end: stages, files, a second call."""

import json
import pathlib

import pytest

from gru_mem_jax.cli.main import main
from gru_mem_jax.evaluation import ResultsFolder
from gru_mem_jax.runs.metrics import read_metrics

SMALL = (
    "sft/NUM_STEPS=12",
    "sft/SFTConfig.short_steps=8",
    "sft/SFTConfig.rows=2",
    "sft/LearnerConfig.rows_per_device=2",
    "sft/SFTConfig.held_out_turns=16",
    "sft/SFTConfig.pool_turns=64",
    "spoil/NUM_STEPS=4",
    "spoil/SFTConfig.pool_turns=64",
    "rl/NUM_STEPS=2",
    "rl/SAVE_EVERY=1",
    "rl/RolloutConfig.questions_per_step=2",
    "rl/RolloutConfig.group_size=2",
    "rl/RolloutConfig.max_refills=0",
    "rl/RolloutConfig.dynamic_sampling=False",
    "rl/LoopConfig.eval_every=0",
    "rl/LearnerConfig.rows_per_device=4",
    "rl/AgentConfig.completion_tokens=8",
    "rl/EngineConfig.slots=2",
    "questions/EngineConfig.slots=2",
    "questions/before/SyntheticSuite.contexts=(('uniform', 4),)",
    "questions/after/SyntheticSuite.contexts=(('uniform', 4),)",
    "questions/long_memory/SyntheticSuite.contexts=(('uniform', 6),)",
    "questions/alone/SyntheticSuite.contexts=(('uniform', 4),)",
)


def flags(out, *more):
    bindings = [f"--gin.{binding}" for binding in SMALL]
    return ["quickstart", f"--out={out}", "--num_questions=1", *bindings, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick") / "out"
    assert main(flags(out)) == 0
    return out


def test_two_policies_and_the_run_between_them(finished):
    for name in ("warm_start", "policy"):
        assert (finished / name / "config.json").is_file()
        assert (finished / name / "tokenizer.json").is_file()
    before, after = (
        (finished / name / "model.safetensors").read_bytes()
        for name in ("warm_start", "policy")
    )
    assert before != after
    rows = read_metrics(finished / "rl" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    # The settings to use are the policy's own, not those of the rollouts.
    own, trained = (
        json.loads((finished / name / "gru_mem.json").read_text())
        for name in ("warm_start", "policy")
    )
    assert own == trained


def test_results(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["seconds_total"] > results["seconds_rl"] > 0
    rows = results["rows"]
    # 3 modes, after reinforcement learning also parallel, x (5 tasks and the mix).
    assert len(rows) == 42
    assert [row["stage"] for row in rows] == ["warm_start"] * 18 + ["rl"] * 24
    assert [row["mode"] for row in rows[18::6]] == [
        "memagent",
        "without_exit_gate",
        "with_exit_gate",
        "parallel",
    ]
    timed = [row for row in rows if "alone_seconds" in row]
    assert [(row["stage"], row["set"]) for row in timed] == [("rl", "mix")] * 4
    assert all(row["alone_seconds"] > 0 < row["alone_steps"] for row in timed)
    for row in rows:
        assert row["placement"] == "uniform"
        assert row["num_chunks"] == 4
        assert row["num_questions"] == (4 if row["set"] == "mix" else 1)
        assert row["seconds"] > 0
        for name in ("exact", "update_on_evidence", "update_off_evidence"):
            assert row.get(name) is None or 0 <= row[name] <= 1
        assert (row["mode"] == "memagent") == ("update_on_evidence" not in row)
    longer = results["long_memory_rows"]
    assert [
        (row["set"], row["num_chunks"], row["num_questions"]) for row in longer
    ] == [
        ("mix", 6, 2),
        ("multi_value", 6, 1),
        ("multi_query", 6, 1),
    ] * 3
    assert "A long memory: 4 to 6 values or keys" in (
        finished / "report.html"
    ).read_text(encoding="utf-8")
    for name, more in (
        ("warm_start", 15),
        ("policy", 20),
        ("long_memory", 6),
        ("alone", 8),
    ):
        folder = ResultsFolder(finished / "evaluation" / name)
        assert len(folder.answers()) == len(dict(folder.trajectories())) == more


def test_pages(finished):
    plots = [finished / "rl/plots/overview.png", *finished.glob("plots/*.png")]
    assert len(plots) > 4
    assert any("memory" in path.name for path in plots)
    for path in plots:
        assert path.read_bytes().startswith(b"\x89PNG")
    page = (finished / "report.html").read_text()
    assert "warm_start" in page
    assert "Reinforcement learning of the gates" in page


def test_what_is_there_is_not_made_again(finished, capsys):
    """Also without the supervised stages, which only the warm start needed."""
    before = (finished / "policy" / "model.safetensors").stat().st_mtime_ns
    files = sorted((finished / "evaluation").glob("*/*.jsonl"))
    lines = [path.read_bytes() for path in files]
    assert len(lines) == 12
    assert main(flags(finished)) == 0
    err = capsys.readouterr().err
    assert "rl: 20 of 20 questions were scored before" in err
    assert [path.read_bytes() for path in files] == lines
    assert "compiling" not in err
    assert "warm_start exists; --retrain repeats its training" in err
    assert "policy exists; --retrain repeats its training" in err
    after = (finished / "policy" / "model.safetensors").stat().st_mtime_ns
    assert before == after


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--gin.sft/SFTConfig.step=3", "doesn't have a parameter named"),
        ("--gin.rl/sft/LoopConfig.seed=3", "nothing reads sft/LoopConfig.seed"),
        ("--gin.LoopConfig.seed=3", "name its stage, --gin.STAGE/"),
        ("--num_questions=0", "must be at least 1"),
        ("--gin.rl/LearnerConfig.learning_rate=-1", "learning_rate"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(
    tmp_path, capsys, more, message
):
    out = pathlib.Path(tmp_path) / "out"
    assert main(flags(out, more)) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
