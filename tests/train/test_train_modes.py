"""Training in the modes that read chunks more than once."""

import json

import numpy as np
import pytest
from train_settings import changed, quick_settings

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.trajectory import trajectory_from_dict
from gru_mem_jax.runs import columns
from gru_mem_jax.runs.rollouts import load_rollouts
from gru_mem_jax.train.plan import settings_to_use


def settings(mode, **fields):
    """Random weights with turns of a fixed form: gates open now and then."""
    quick = quick_settings(mode=mode, num_steps=2, eval_every=1, record=True)
    return changed(
        quick,
        agent={
            "format": "constrained",
            "completion_tokens": 40,
            "thought_tokens": 3,
            "memory_tokens": 8,
            "max_passes": 2,
            **fields,
        },
    )


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        ("parallel", {"merge_until_exit": True}),
        # Quick ones: tests/rl/test_rollout_passes.py.
        pytest.param("reread", {}, marks=pytest.mark.slow),
    ],
)
def test_two_steps(unbroken, mode, fields, make_run):
    run = unbroken(settings(mode, **fields))
    first, *rows = run.rows()
    assert [row["step"] for row in rows] == [1, 2]
    assert 1 <= first["eval/passes"] <= 2
    for row in rows:
        assert row["logprob_gap"] < 2e-6
        assert row["grad_norm"] > 0
        assert row["optimizer_steps"] == 2
        assert 1 < row["passes"] <= 2
        assert row["chunks_read"] == 1
        assert all(columns.find(name) for name in row)
        if mode == "parallel":
            assert 2 <= row["scans"] <= 4
            assert 0 < row["merges"] <= 1
            assert row["exact_exit"] is not None
        else:
            # What the mode does not have is not counted.
            assert not {"scans", "merges", "exact_exit"} & set(row)
            assert row["reward/exit"] == 0
    # What was rewarded is what the recorded trajectories say.
    batch = load_rollouts(run.path / "rollouts", 1)
    assert set(np.unique(batch.outcomes.passes)) == {1, 2}
    assert len(batch.turns) == batch.outcomes.turn_mask.sum() + 8
    (line, *_) = (run.path / "trajectories/step_00000002.jsonl").read_text().split("\n")
    sample = json.loads(line)
    kept = trajectory_from_dict(sample["trajectory"])
    assert len(sample["turn_rewards"]) == len(kept.memory_turns)
    assert len(sample["advantages"]) == len(kept.turns)
    assert {turn.step for turn in kept.memory_turns} <= {"read", "scan", "merge"}
    # Trained from the files, the weights are the same.
    replayed = make_run("replayed")
    again = changed(settings(mode, **fields), rollouts={"record": False})
    replayed(again, replay=str(run.path / "rollouts"))
    assert replayed.rows() == run.rows()
    assert replayed.saved(2) == run.saved(2)


def test_a_policy_is_used_as_it_was_trained():
    own = AgentConfig()
    trained = AgentConfig(mode="parallel", max_passes=5, scan_chunks=64)
    used = settings_to_use(own, trained, supervised=False)
    assert (used.mode, used.max_passes, used.scan_chunks) == ("parallel", 5, 64)
    other = AgentConfig(mode="without_exit_gate", max_passes=5)
    assert settings_to_use(own, other, supervised=False).max_passes == 3
