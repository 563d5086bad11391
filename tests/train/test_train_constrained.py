"""Runs whose rollouts are held to the form of turns."""

import dataclasses
import json

import numpy as np
import pytest
from train_settings import changed, quick_settings

from gru_mem_jax.agent.config import AgentConfig, replace_settings
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.errors import InputError
from gru_mem_jax.runs.rollouts import load_rollouts
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.train.plan import settings_to_use

CONSTRAINED = changed(
    quick_settings(num_steps=3, record=True),
    agent={
        "format": "constrained",
        "completion_tokens": 40,
        "thought_tokens": 3,
        "memory_tokens": 8,
        "sampling": SamplingConfig(temperature=0.8),
    },
)


@pytest.fixture
def run(unbroken):
    return unbroken(CONSTRAINED)


def test_sampler_and_learner_agree_on_what_could_be_drawn(run):
    """Random weights, every turn well formed; forced tokens have no part."""
    rows = [row for row in run.rows() if row["step"]]
    assert len(rows) == 3
    for row in rows:
        assert 0 < row["logprob_gap"] < 2e-6
        assert row["largest_logprob_gap"] < 2e-5
        assert row["well_formed"] == row["well_formed_turns"] == 1
        assert row["reward/format"] == rows[0]["reward/format"]
        assert row["unparsed_turns"] == 0
        assert row["optimizer_steps"] == 2
        assert row["grad_norm"] > 0
    assert run.rows()[0]["eval/well_formed"] == 1
    assert run.log().count("format reward is that of a well-formed one by") == 1


def test_recorded_turns_have_their_supports(run):
    batch = load_rollouts(run.path / "rollouts", 1)
    assert len(batch.turns) > 8
    for turn in batch.turns:
        forced = np.array(turn.supports) == -1
        assert forced.any()
        assert not forced.all()
        assert not np.array(turn.sampler_logprobs)[forced].any()
        assert (np.array(turn.token_weights) == ~forced).all()


def test_resumed_and_replayed_runs_are_the_same(run, make_run):
    resumed = make_run("resumed")
    resumed(changed(CONSTRAINED, loop={"num_steps": 2}))
    resumed(CONSTRAINED)
    assert resumed.rows() == run.rows()
    assert resumed.saved(3) == run.saved(3)
    replayed = make_run("replayed")
    settings = changed(CONSTRAINED, rollouts={"record": False})
    replayed(settings, replay=str(run.path / "rollouts"))
    assert replayed.rows() == run.rows()
    assert replayed.saved(3) == run.saved(3)


def test_constrained_rollouts_are_not_replayed_as_free_ones(run, make_run):
    free = changed(CONSTRAINED, agent={"format": "free", "thought_tokens": None})
    with pytest.raises(InputError, match="sampled with format constrained"):
        make_run()(free, replay=str(run.path / "rollouts"))


def test_the_trained_policy_is_used_as_it_was_trained(run):
    files = run.path / "checkpoints" / "3" / "files"
    settings = json.loads((files / "gru_mem.json").read_text())
    assert settings["format"] == "constrained"
    assert settings.get("update_threshold") is None


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        ({"completion_tokens": 20}, {"completion_tokens": 40, "thought_tokens": 3}),
        ({"completion_tokens": 90}, {"thought_tokens": 3}),
        ({"thought_tokens": 9, "format": "constrained", "exit_threshold": 0.3}, {}),
    ],
)
def test_a_form_has_the_room_that_it_was_trained_with(own, changes):
    """Other budgets are the policy's own; turns of 20 tokens hold no form."""
    free = AgentConfig(memory_tokens=16, chunk_size=50, **own)
    trained = changed(CONSTRAINED).agent
    trained = dataclasses.replace(trained, chunk_size=50, prompt=free.prompt)
    used = settings_to_use(free, trained, supervised=False)
    changes = {"format": "constrained", "thought_tokens": 3, **changes}
    want = dataclasses.replace(free, exit_threshold=None, **changes)
    assert used == dataclasses.replace(want, mode=trained.mode)
    turn_constraint(PromptBuilder(ByteEncoder(), used.prompt), used, "gated")
    unformed = replace_settings(trained, format="free")
    kept = settings_to_use(free, unformed, supervised=False)
    assert kept.completion_tokens == free.completion_tokens
    assert settings_to_use(free, trained, supervised=True) == dataclasses.replace(
        trained, sampling=free.sampling
    )


def test_a_constrained_policy_that_is_trained_free():
    """What only constrained turns have is not in its settings any more."""
    own = AgentConfig(format="constrained", thought_tokens=7, exit_threshold=0.3)
    trained = AgentConfig(memory_tokens=9)
    assert settings_to_use(own, trained, supervised=False) == AgentConfig()


@pytest.mark.parametrize("name", ["update_threshold", "exit_threshold"])
def test_thresholds_are_refused(make_run, name):
    run = make_run()
    with pytest.raises(InputError, match=f"{name} is 0.5: a gate that a threshold"):
        run(changed(CONSTRAINED, agent={name: 0.5}))
    assert not run.path.exists()


def test_answers_of_memagent_are_constrained_and_its_memories_are_not(make_run):
    run = make_run()
    settings = dataclasses.replace(
        changed(
            CONSTRAINED,
            agent={"mode": "memagent"},
            loop={"num_steps": 1, "eval_every": 0},
        ),
        suite=None,
    )
    run(settings)
    (row,) = run.rows()
    assert 0 < row["logprob_gap"] < 2e-6
    batch = load_rollouts(run.path / "rollouts", 1)
    memories = np.asarray(batch.outcomes.turn_mask).sum(-1)
    for turn in batch.turns:
        p, g, k = turn.index
        assert (turn.supports is None) == (k < memories[p, g])
