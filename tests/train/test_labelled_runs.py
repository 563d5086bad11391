"""A labelled file from supervised turns to an evaluation, by gin files and commands."""

import dataclasses
import json

import pytest
from train_settings import make_policy_dir

from gru_mem_jax.agent.config import config_from_json
from gru_mem_jax.cli.main import main
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.runs.metrics import read_metrics
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

SHARE = "--gin.JsonlSource.held_out_share=0.25"
# Few programs to compile.
ENGINE = [
    "--gin.EngineConfig.slots=4",
    "--gin.EngineConfig.prefill_blocks=(64,)",
    "--gin.EngineConfig.decode_block=16",
]
BUDGETS = """
from __gin__ import dynamic_registration

from gru_mem_jax import agent
from gru_mem_jax import rl

agent.AgentConfig.chunk_size = 64
agent.AgentConfig.question_tokens = 24
agent.AgentConfig.memory_tokens = 32
agent.AgentConfig.completion_tokens = 64
agent.AgentConfig.prompt_tokens = 256
agent.PromptConfig.style = 'compact'
rl.LearnerConfig.row_tokens = 256
rl.LearnerConfig.rows_per_device = 2
rl.LearnerConfig.length_buckets = 1
rl.LearnerConfig.remat = False
rl.LearnerConfig.logits_chunk = 256
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(the folder, flags of all runs)"""
    folder = tmp_path_factory.mktemp("labelled")
    config = SyntheticConfig(tasks=("single_key",), num_chunks=2)
    records = [dataclasses.asdict(generate(config, i)) for i in range(40)]
    bare = records[0] | {"id": "bare", "evidence": [], "evidence_order": []}
    lines = [json.dumps(record) + "\n" for record in [*records, bare]]
    (folder / "mine.jsonl").write_text("".join(lines))
    (folder / "small.gin").write_text(BUDGETS)
    return folder, [
        f"--gin_file={folder / 'small.gin'}",
        f"--gin.DATA={str(folder / 'mine.jsonl')!r}",
        "--gin.SourceSuite.num_questions=2",
        SHARE,
        *ENGINE,
    ]


def test_from_a_labelled_file_to_an_evaluation(files, tmp_path, capsys):
    folder, flags = files
    sft = ["sft", "--gin_file=gin/runs/sft_labelled.gin", *flags]
    sft += [f"--gin.POLICY={str(make_policy_dir(tmp_path))!r}", "--gin.NUM_STEPS=2"]
    sft += ["--gin.SFTConfig.rows=2", "--gin.SFTConfig.held_out_turns=12"]
    sft += ["--gin.LoopConfig.eval_every=2", f"--run_dir={tmp_path / 'run'}"]
    sft += ["--gin.MeshConfig.data=1"]  # one engine, of which programs are compiled
    assert main(sft) == 0
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert {"exact/gated/with_evidence", "eval/update_on_evidence"} <= set(rows[-1])
    assert rows[-1]["target_tokens"] > 0
    out = tmp_path / "policy"
    assert main(["export", str(tmp_path / "run"), "--out", str(out)]) == 0
    trained = config_from_json((out / "gru_mem.json").read_text())
    assert (trained.chunk_size, trained.memory_tokens) == (64, 32)
    assert trained.prompt.style == "compact"
    # Its budgets come along; the held-out part is asked for by its name.
    data = folder / "mine.jsonl"
    ask = ["eval", f"--policy={out}", f"--data={data}", SHARE, *ENGINE]
    ask += ["--gin.EngineConfig.tensor=8"]
    ask += ["--modes=with_exit_gate", "--gin.JsonlSource.part='held_out'"]
    capsys.readouterr()
    assert main([*ask, "--json=-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    held_out = JsonlSource(path=data, part="held_out", held_out_share=0.25)
    held_out = held_out.records().good
    assert (row["set"], row["num_questions"]) == ("mine", len(held_out))
    assert 2 <= len(held_out) <= 20
    # And reinforcement learning begins with it.
    train = ["train", "--gin_file=gin/runs/train_labelled.gin", *flags, "--dry_run"]
    assert main([*train, f"--gin.POLICY={str(out)!r}"]) == 0
    assert "mode: with_exit_gate; longest turn:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sft", "train"])
def test_questions_that_are_trained_on_are_refused(files, tmp_path, capsys, command):
    _, flags = files
    words = [command, f"--gin_file=gin/runs/{command}_labelled.gin", *flags]
    words += [f"--gin.POLICY={str(make_policy_dir(tmp_path))!r}"]
    words += ["--gin.JsonlSource.part='all'", f"--run_dir={tmp_path / 'run'}"]
    for more in ([], ["--dry_run"]):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert "question set 'held_out' of " in error
        assert "is not held out: 2 of its 2 questions are in the training" in error
    assert not (tmp_path / "run").exists()
