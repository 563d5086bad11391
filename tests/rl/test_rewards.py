"""The reward terms, by hand and against a reference of plain Python."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from rl_references import OTHER, PAPER, random_outcomes, reference_rewards

from gru_mem_jax.errors import InputError
from gru_mem_jax.rl import rewards as r


@pytest.mark.parametrize("config", [PAPER, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("seed", range(3))
def test_rewards_equal_the_reference(config, seed):
    outcomes = random_outcomes(seed)
    got = r.rewards(outcomes, config)
    trajectory, turn = reference_rewards(outcomes, config)
    np.testing.assert_allclose(got.trajectory, trajectory, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.turn, turn, rtol=1e-6, atol=1e-6)
    assert got.trajectory.dtype == got.turn.dtype == np.float32
    weighted = sum(
        config.weights[name] * np.asarray(term)
        for name, term in got.terms.items()
        if name != "update"
    )
    np.testing.assert_allclose(got.trajectory, weighted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("exit_chunk", "last_evidence", "chose", "value"),
    [
        (2, 2, True, 0.0),  # exact
        (2, 2, False, 0.0),  # read to the end, which holds evidence
        (1, 2, True, -0.75),  # too early: evidence is lost
        (3, 2, True, -0.5),  # too late
        (3, 2, False, -0.5),  # never chose to stop
        (1, 2, False, 0.0),  # a limit stopped it: not its choice
        (0, -1, True, 0.0),  # no evidence anywhere
        (7, -1, False, 0.0),
        (-1, -1, False, 0.0),  # an empty context
    ],
)
def test_exit_reward(exit_chunk, last_evidence, chose, value):
    given = (exit_chunk - last_evidence, last_evidence >= 0, chose)
    arrays = [np.array([[x]]) for x in given]
    assert r.exit_reward(*arrays, PAPER).tolist() == [[value]]


@pytest.mark.parametrize(
    ("update", "evidence", "well_formed", "value"),
    [
        (True, True, True, 1),
        (False, False, True, 1),
        (True, False, True, -1),
        (False, True, True, -1),
        (False, False, False, -1),  # closed off evidence, but by no gate
        (False, True, False, -1),
    ],
)
def test_update_reward(update, evidence, well_formed, value):
    arrays = [np.array([[[x]]]) for x in (update, evidence, well_formed)]
    assert r.update_reward(*arrays, PAPER).tolist() == [[[value]]]
    # Excused, a closed gate is right on evidence; nothing else is.
    excused = r.update_reward(*arrays, PAPER, np.array([[[True]]])).item()
    passed_by = evidence and well_formed and not update
    assert excused == (1 if passed_by else value)


def test_a_bonus_for_exact_exits_goes_to_exact_exits_alone():
    config = r.RewardConfig(exact_exit=0.5)
    arrays = ([[0, 3, -1, 1]], [[True, False, True, True]], [[True, True, False, True]])
    got = r.exit_reward(*map(np.array, arrays), config)
    assert got.tolist() == [[0.5, 0, 0, -0.5]]


def test_format_reward_is_all_or_nothing():
    assert r.format_reward(np.array([[True, False]]), PAPER).tolist() == [[1, 0]]


def test_overlong_penalty():
    """DAPO's Eq. 13 with L_max = 100 and L_cache = 40: it starts at 60."""
    config = r.RewardConfig(overlong_limit=100, overlong_buffer=40)
    lengths = np.array([[[60, 3], [3, 70], [80, 0], [100, 9], [500, 1]]], np.int32)
    got = r.overlong_penalty(lengths, config)
    np.testing.assert_allclose(got, [[0, -0.25, -0.5, -1, -1]])


def test_modes_have_their_terms():
    """One early exit in three modes, all right otherwise: 1 + 1 - 0.75, 1 + 1 and 1."""
    outcomes = dataclasses.replace(
        random_outcomes(0, (1, 3, 2)),
        mode=np.array([[0, 1, 2]]),
        correct=np.ones((1, 3), np.float32),
        exit_gate=np.array([[True, False, False]]),
        exit_offset=-np.ones((1, 3), np.int32),
        last_evidence=np.ones((1, 3), np.int32),
        stop=np.zeros((1, 3), np.int32),
        well_formed=np.ones((1, 3), bool),
        turn_mask=np.ones((1, 3, 2), bool),
        turn_well_formed=np.ones((1, 3, 2), bool),
        update=np.ones((1, 3, 2), bool),
        evidence=np.zeros((1, 3, 2), bool),
        excused=np.zeros((1, 3, 2), bool),
    )
    got = r.rewards(outcomes, PAPER)
    assert got.trajectory.tolist() == [[1.25, 2.0, 1.0]]
    assert got.turn.tolist() == [[[-1, -1], [-1, -1], [0, 0]]]


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=15, deadline=None)
def test_the_papers_rewards_stay_in_their_ranges(seed):
    got = r.rewards(random_outcomes(seed), PAPER)
    # Between a wrong answer, malformed, early, and a right one, well formed, exact.
    assert float(got.trajectory.min()) >= -0.75
    assert float(got.trajectory.max()) <= 2
    assert set(np.unique(got.turn)) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_exit": "x"}, "early_exit must be a number"),
        ({"outcome_weight": -1.0}, "outcome_weight must be a number from 0"),
        ({"update_wrong": float("nan")}, "update_wrong"),
        ({"scoring": "squad"}, "scoring must be one of exact, f1"),
        ({"reward_fn": "mine"}, "reward_fn must be a function"),
        ({"reward_fn": len, "scoring": "f1"}, "not both"),
        ({"overlong_buffer": 2000}, "overlong_buffer must be from 1 to 1024"),
        ({"overlong_limit": 0}, "overlong_limit"),
    ],
)
def test_bad_configurations_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        r.RewardConfig(**fields)


def test_shapes_are_checked():
    outcomes = random_outcomes(0)
    with pytest.raises(ValueError, match="turn_mask"):
        r.rewards(
            dataclasses.replace(outcomes, turn_mask=outcomes.turn_mask[:2]), PAPER
        )


def test_a_reward_function_must_take_two():
    def one(example):
        return 1.0

    with pytest.raises(InputError, match=r"reward_fn one must take .example, traj"):
        r.RewardConfig(reward_fn=one)
    # More of them are gin's to bind.
    r.RewardConfig(reward_fn=lambda example, trajectory, threshold: threshold)
    r.RewardConfig(reward_fn=max)  # does not say what it takes
