"""Whole runs of a tiny policy: they learn, and what they leave can be read."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from train_settings import changed, quick_settings

import gru_mem_jax
from gru_mem_jax.agent.trajectory import trajectory_from_dict
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.rl.rewards import RewardConfig
from gru_mem_jax.runs import columns
from gru_mem_jax.train.rl import RLStep

DOCS = pathlib.Path(gru_mem_jax.__file__).parents[1] / "docs"
# At 0.03 the last steps are chaotic: rounding decides what they come to.
LEARNING = changed(
    quick_settings(
        num_steps=32, questions_per_step=4, group_size=8, eval_every=0, save_every=32
    ),
    learner={"learning_rate": 0.02},
)


def test_a_run_learns_what_is_rewarded(unbroken):
    """Half of the vocabulary's ids are even: the reward starts at about 0.5."""
    rows = unbroken(LEARNING).rows()
    rewards = [row["reward/outcome"] for row in rows]
    assert len(rewards) == 32
    assert np.mean(rewards[:3]) < 0.6
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.15
    assert rows[-1]["kl"] > 10 * rows[0]["kl"] > 0
    for row in rows:
        assert row["largest_logprob_gap"] < 1e-4
        assert row["skipped"] == row["skipped_steps"] == 0
        assert row["groups/learned"] == row["groups/sampled"] - row["groups/flat"] == 4
        assert row["optimizer_steps"] == 2
        assert row["ratio"] == pytest.approx(1, abs=0.2)
    rates = [row["learning_rate"] for row in rows[:2]]
    assert rates == pytest.approx([0.02, 0.02])  # the second of 2 warm-up steps


def test_one_optimiser_step_needs_no_pass_of_its_own(make_run, monkeypatch):
    """With one optimiser step the old logprobs are those of the update itself."""
    settings = changed(
        quick_settings(num_steps=1, eval_every=0),
        learner={"optimizer_steps_per_batch": 1},
    )
    run = make_run()
    run(settings)
    (row,) = run.rows()
    assert (row["ratio"], row["clipped"]) == (1.0, 0.0)
    assert 0 < row["logprob_gap"] < row["largest_logprob_gap"] < 1e-4
    on_policy = RLStep._logprobs

    def with_old(step, at, parts):
        old = [
            [step._parts.learner.logprobs(at.state.params, rows) for rows in part]
            for part in parts
        ]
        return old, on_policy(step, at, parts)[1]

    monkeypatch.setattr(RLStep, "_logprobs", with_old)
    other = make_run()
    other(settings)
    (expected,) = other.rows()
    assert set(row) == set(expected)
    for name in ("loss", "grad_norm", "kl", "logprob_gap"):
        assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-7), name


def test_every_column_is_declared_and_documented(unbroken):
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`([^`\s]+)`", text))
    rows = unbroken(quick_settings()).rows(times=True)
    names = {name for row in rows for name in row}
    assert [name for name in names if columns.find(name) is None] == []
    patterns = (r"^(unparsed|eval/exact)/.*", r"^\w+(_seconds_per_s)$")
    for pattern, of in zip(patterns, (r"\1/*", r"*\1")):
        names = {re.sub(pattern, of, name) for name in names}
    assert names - known == set()
    assert {"step", "exact", "eval/exact", "rollout_tokens_per_s"} <= names


def test_what_a_run_leaves(unbroken):
    run = unbroken(quick_settings(), command=("gru-mem", "train", "--x=1 2"))
    rows = run.rows()
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    evaluated = [row["step"] for row in rows if "eval/exact" in row]
    assert evaluated == [0, 2, 4]
    assert set(rows[0]) == {k for k in rows[2] if k.startswith("eval/")} | {"step"}
    steps = sorted(int(p.name) for p in (run.path / "checkpoints").iterdir())
    assert steps == [2, 4, 5]
    log = run.log().splitlines()
    assert f"run folder: {run.path}" in log[0]
    assert log[-1].endswith(f"finished at step 5; run folder: {run.path}")
    samples = sorted(p.name for p in (run.path / "trajectories").iterdir())
    assert samples == [f"step_{n:08d}.jsonl" for n in (1, 2, 4)]
    lines = (run.path / "trajectories" / samples[1]).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["question"], r["rollout"]) for r in records] == [(2, 0), (3, 0), (2, 1)]
    for record in records:
        trajectory = trajectory_from_dict(record["trajectory"])
        assert trajectory.turns[0].prompt_ids is None  # text is enough to read
        assert len(record["turn_rewards"]) == trajectory.num_chunks
        assert len(record["advantages"]) == len(trajectory.turns)
        total = sum(record["rewards"].values())
        assert record["reward"] == pytest.approx(total, abs=1e-6)
    record = json.loads((run.path / "checkpoints" / "5" / "record.json").read_text())
    assert set(record["trees"]) == {"params", "optimizer", "counters"}
    assert record["metadata"]["position"] == 10
    files = {p.name for p in (run.path / "checkpoints" / "5" / "files").iterdir()}
    assert {"tokenizer.json", "operative.gin", "gru_mem.json"} <= files


def test_gates_of_memagent_are_not_measured(unbroken):
    rows = unbroken(quick_settings("memagent", num_steps=2)).rows()
    assert not {"exact_exit", "update_on_evidence", "well_formed"} & set(rows[1])
    assert rows[1]["reward/trajectory"] == rows[1]["reward/outcome"]
    assert rows[1]["reward/update"] == 0
    assert rows[1]["chunks_read"] == 1
    assert rows[1]["optimizer_steps"] == 2


def test_without_exit_gate_there_is_no_exit_reward(unbroken):
    rows = unbroken(quick_settings("without_exit_gate", num_steps=1)).rows()
    assert rows[1]["reward/exit"] == 0
    assert rows[1]["chunks_read"] == 1


def nothing(example, trajectory):
    return 1.0


def test_steps_in_which_nothing_can_be_learned(make_run):
    """All groups flat: no division by zero, no update, columns absent, said once."""
    run = make_run()
    settings = dataclasses.replace(
        quick_settings("memagent", num_steps=2, eval_every=0, max_refills=1),
        rewards=RewardConfig(reward_fn=nothing),
    )
    run(settings)
    rows = run.rows()
    for row in rows:
        assert row["groups/flat"] == row["groups/sampled"] == 4
        assert (row["groups/learned"], row["groups/refills"]) == (0, 1)
        assert not {"loss", "kl", "grad_norm", "logprob_gap"} & set(row)
    assert run.log().count("logprob_gap is absent") == 2  # it, and the largest one
    assert run.log().count("no group teaches anything") == 2
    assert np.frombuffer(run.saved(2)["counters.step"], np.int32) == 0


def unsure(example, trajectory):
    """No score for two of the four rollouts of a question, and for none of another."""
    number = trajectory.trajectory_id
    if example.id.endswith("0"):
        return None
    return None if number % 2 else float(len(trajectory.turns))


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "all_groups"])
def test_rewards_that_may_be_none(make_run, dynamic):
    run = make_run()
    settings = dataclasses.replace(
        quick_settings(num_steps=2, eval_every=0, dynamic_sampling=dynamic),
        rewards=RewardConfig(reward_fn=unsure),
    )
    run(settings)
    for row in run.rows():
        assert 0 < row["reward/unscored"] <= 8
        assert np.isfinite(row["reward/trajectory"])
        assert row["groups/learned"] <= 2


def test_flat_groups_are_learned_from_without_dynamic_sampling(make_run):
    run = make_run()
    settings = dataclasses.replace(
        quick_settings("memagent", num_steps=1, eval_every=0, dynamic_sampling=False),
        rewards=RewardConfig(reward_fn=nothing),
    )
    run(settings)
    (row,) = run.rows()
    assert (row["groups/flat"], row["groups/learned"]) == (2, 2)
    assert row["policy_loss"] == 0  # every advantage is
    assert row["optimizer_steps"] == 2


@pytest.mark.parametrize("layers", [None, (-1,)], ids=["all", "last"])
def test_lora_trains_adapters_and_keeps_the_rest(make_run, layers):
    run = make_run()
    settings = changed(
        quick_settings(num_steps=3, eval_every=0, save_every=1),
        learner={"lora": LoraConfig(rank=2, layers=layers), "learning_rate": 0.05},
    )
    run(settings)
    rows = run.rows()
    assert [row["kl"] > 0 for row in rows] == [True, True, True]
    names = set(run.saved(3))
    assert {"params.layers.attn.q.a", "params.layers.mlp.down.b"} <= names
    assert not any("embedding" in name for name in names)
    assert max(row["largest_logprob_gap"] for row in rows) < 1e-4
