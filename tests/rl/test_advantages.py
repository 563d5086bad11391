"""Dual advantages: by hand, against float64, and over devices."""

import dataclasses
import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from rl_references import OTHER, PAPER, random_outcomes, reference_rewards

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import pmap_groups
from gru_mem_jax.rl import advantages as a
from gru_mem_jax.rl.rewards import RewardConfig

CONFIGS = {
    "paper": a.AdvantageConfig(),
    "std": a.AdvantageConfig(alpha=0.5, normalize_std=True),
    "leave_one_out": a.AdvantageConfig(alpha=1.0, leave_one_out=True),
    "both": a.AdvantageConfig(alpha=0.7, normalize_std=True, leave_one_out=True),
    "decoupled": a.AdvantageConfig(decoupled=True),
}


def reference_group(values, config, std):
    """One group's rewards, a list of float64, against their mean."""
    n = len(values)
    mean = sum(values) / n
    result = []
    for value in values:
        base = mean
        if config.leave_one_out:
            base = (sum(values) - value) / (n - 1) if n > 1 else value
        advantage = value - base
        if std:
            variance = sum((v - mean) ** 2 for v in values) / n
            advantage /= variance**0.5 + config.epsilon
        result.append(advantage)
    return result


def reference_dual(traj, turn, mask, config, std=None, answer=True):
    """Loops over groups, turns and rollouts; the answer turn is the last column."""
    std = config.normalize_std if std is None else std
    traj, turn = np.asarray(traj, np.float64), np.asarray(turn, np.float64)
    questions, rollouts, turns = turn.shape
    result = np.zeros((questions, rollouts, turns + answer))
    for p in range(questions):
        of_traj = reference_group(list(traj[p]), config, std)
        for g in range(rollouts):
            result[p, g, :] = config.alpha * of_traj[g]
        for k in range(turns):
            reached = [g for g in range(rollouts) if mask[p, g, k]]
            if reached:
                of_turn = reference_group([turn[p, g, k] for g in reached], config, std)
                for g, value in zip(reached, of_turn):
                    result[p, g, k] += (1 - config.alpha) * value
    return result


def test_a_group_of_four_by_hand():
    """alpha = 0.9; trajectories 2, 1, 1, 0 have mean 1, so A_traj = 1, 0, 0, -1.

    Turn 0: +1, +1, -1, -1 have mean 0. Turn 1 was reached by the first three: +1, -1,
    +1 have mean 1/3, so A_turn = 2/3, -4/3, 2/3. The fourth has 0.9 A_traj alone.
    """
    traj = np.array([[2, 1, 1, 0]], np.float32)
    turn = np.array([[[1, 1], [1, -1], [-1, 1], [-1, -1]]], np.float32)
    mask = np.array([[[1, 1], [1, 1], [1, 1], [1, 0]]], bool)
    got = a.dual_advantages(traj, turn, mask, 0.9)
    expected = [
        [0.9 + 0.1, 0.9 + 0.1 * 2 / 3],
        [0.1, 0.1 * -4 / 3],
        [-0.1, 0.1 * 2 / 3],
        [-0.9 - 0.1, -0.9],
    ]
    np.testing.assert_allclose(got, [expected], rtol=1e-6)


def test_options_by_hand():
    """Rewards 3, 0, 0: mean 1, variance (4 + 1 + 1) / 3 = 2."""
    group = np.array([[3, 0, 0]], np.float32)
    plain = a.group_advantages(group)
    np.testing.assert_allclose(plain, [[2, -1, -1]])
    # Means of the others: 0, 1.5, 1.5.
    others = a.group_advantages(group, leave_one_out=True)
    np.testing.assert_allclose(others, [[3, -1.5, -1.5]])
    scaled = a.group_advantages(group, normalize_std=True)
    np.testing.assert_allclose(scaled, np.array([[2, -1, -1]]) / 2**0.5, rtol=1e-5)


def test_a_rollout_alone_has_no_advantage():
    for options in ({}, {"leave_one_out": True}, {"normalize_std": True}):
        assert a.group_advantages(np.array([[5.0]]), **options).tolist() == [[0]]


def test_nobody_reached_the_turn():
    got = a.group_advantages(np.ones((1, 2, 1)), np.zeros((1, 2, 1), bool))
    assert got.tolist() == [[[0], [0]]]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 / 7, -2.3])
@pytest.mark.parametrize("options", [{}, {"normalize_std": True}])
def test_equal_rewards_give_exactly_zero(value, options):
    """Not the rounding error of a mean, which a division by the std would blow up."""
    got = a.group_advantages(np.full((1, 7), value, np.float32), **options)
    assert not np.any(got)


def test_sums_of_equal_terms_in_another_order_are_equal():
    group = np.array([[0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1]], np.float32)
    group[0, 1] = np.nextafter(group[0, 0], np.float32(1))
    assert not np.any(a.group_advantages(group, normalize_std=True))


def test_decoupled_terms_weigh_alike():
    """An outcome of spread 0.01 and a format of spread 1, which oppose each other.

    Normalised together the format wins; each by itself they cancel.
    """
    outcomes = random_outcomes(0, (1, 2, 1))
    changes = {
        "mode": np.ones((1, 2), np.int32),  # no exit term
        "correct": np.array([[0.01, 0.0]], np.float32),
        "well_formed": np.array([[False, True]]),
        "turn_mask": np.zeros((1, 2, 1), bool),
    }
    outcomes = type(outcomes)(**vars(outcomes) | changes)
    config = a.AdvantageConfig(alpha=1.0, normalize_std=True)
    together = a.score_groups(outcomes, RewardConfig(), config).advantages[0, :, -1]
    np.testing.assert_allclose(together, [-1, 1], rtol=1e-5)
    config = a.AdvantageConfig(alpha=1.0, decoupled=True)
    apart = a.score_groups(outcomes, RewardConfig(), config).advantages[0, :, -1]
    np.testing.assert_allclose(apart, [0, 0], atol=1e-3)


def reference_scores(outcomes, reward_config, config):
    if not config.decoupled:
        traj, turn = reference_rewards(outcomes, reward_config)
        return reference_dual(traj, turn, outcomes.turn_mask, config)
    # Each term alone: its weight is 1, that of all others 0.
    total = 0
    for name, weight in reward_config.weights.items():
        alone = {f"{other}_weight": 0.0 for other in reward_config.weights}
        alone[f"{name}_weight"] = 1.0
        term = RewardConfig(**vars(reward_config) | alone)
        traj, turn = reference_rewards(outcomes, term)
        mask = outcomes.turn_mask
        total += weight * reference_dual(traj, turn, mask, config, std=True)
    return total


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("split", ["one device", "questions", "rollouts"])
def test_scores_equal_float64_on_one_and_on_eight_devices(name, split):
    """Five questions do not divide by eight devices; 16 rollouts lie two on each."""
    config = CONFIGS[name]
    outcomes = random_outcomes(3, (5, 16, 4))
    fn = functools.partial(a.score_groups, reward_config=OTHER, config=config)
    if split == "one device":
        mapped = pmap_groups(fn, devices=jax.local_devices()[:1])
    else:
        mapped = pmap_groups(fn, split=split)
    got = mapped(outcomes)
    expected = reference_scores(outcomes, OTHER, config)
    assert got.advantages.shape == (5, 16, 5)
    np.testing.assert_allclose(got.advantages, expected, rtol=2e-5, atol=2e-5)
    traj, turn = reference_rewards(outcomes, OTHER)
    np.testing.assert_allclose(got.trajectory, traj, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.turn, turn, rtol=1e-6, atol=1e-6)
    assert got.terms["exit"].shape == (5, 16)


def test_score_groups_is_dual_advantages_with_an_answer_column():
    outcomes = random_outcomes(5)
    got = a.score_groups(outcomes, PAPER, a.AdvantageConfig())
    dual = a.dual_advantages(got.trajectory, got.turn, outcomes.turn_mask, 0.9)
    np.testing.assert_array_equal(got.advantages[..., :-1], dual)
    # The answer turn, and every turn that was not reached: 0.9 A_traj.
    answer = np.asarray(got.advantages[..., -1:])
    unreached = np.broadcast_to(answer, dual.shape)[~outcomes.turn_mask]
    np.testing.assert_array_equal(np.asarray(dual)[~outcomes.turn_mask], unreached)


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    rollouts=st.sampled_from([1, 2, 5]),
    alpha=st.floats(0, 1),
    shift=st.floats(-5, 5),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_properties(seed, rollouts, alpha, shift):
    rng = np.random.default_rng(seed)
    traj = rng.normal(size=(2, rollouts)).astype(np.float32)
    turn = rng.choice([-1.0, 1.0], (2, rollouts, 3)).astype(np.float32)
    mask = rng.random((2, rollouts, 3)) < 0.7
    dual = jax.jit(a.dual_advantages)
    got = np.asarray(dual(traj, turn, mask, alpha))
    config = a.AdvantageConfig(alpha=alpha)
    expected = reference_dual(traj, turn, mask, config, answer=False)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # A constant added to all rewards of a group changes nothing.
    moved = dual(traj + np.float32(shift), turn, mask, alpha)
    np.testing.assert_allclose(moved, got, atol=1e-5)
    # Rollouts are exchangeable.
    order = rng.permutation(rollouts)
    swapped = dual(traj[:, order], turn[:, order], mask[:, order], alpha)
    np.testing.assert_allclose(swapped, got[:, order], atol=1e-5)
    # Advantages of trajectories sum to 0 over a group.
    alone = dual(traj, turn, mask, 1.0)
    np.testing.assert_allclose(alone.sum(axis=1), 0, atol=1e-5)


def test_groups_without_signal():
    """Flat; a trajectory differs; only a turn differs; only where nobody was."""
    traj = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], np.float32)
    turn = np.ones((4, 2, 2), np.float32)
    turn[2, 0, 1] = turn[3, 0, 1] = -1
    mask = np.ones((4, 2, 2), bool)
    mask[3, 0, 1] = False
    dual = a.dual_advantages(traj, turn, mask, 0.9)
    answer = 0.9 * np.asarray(a.group_advantages(traj))[..., None]
    advantages = np.concatenate([dual, answer], axis=-1)
    got = a.group_has_signal(advantages, mask)
    assert got.tolist() == [False, True, True, False]
    # With alpha = 1 turns do not count.
    dual = a.dual_advantages(traj, turn, mask, 1.0)
    advantages = np.concatenate([dual, answer], axis=-1)
    assert a.group_has_signal(advantages, mask).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "fields", [{"alpha": 1.5}, {"alpha": "x"}, {"epsilon": -1}, {"normalize_std": 1}]
)
def test_bad_configurations_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        a.AdvantageConfig(**fields)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="turn_rewards"):
        a.dual_advantages(np.ones((2, 3)), np.ones((3, 2, 4)), np.ones((3, 2, 4)))
    with pytest.raises(ValueError, match="turn_mask"):
        a.dual_advantages(np.ones((2, 3)), np.ones((2, 3, 4)), np.ones((2, 3, 5)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_rollout_without_a_score_is_as_if_it_were_not_there(config):
    whole = random_outcomes(3, (2, 4, 3))
    without = jax.tree.map(lambda x: np.delete(x, 1, axis=1), whole)
    unscored = np.ones((2, 4), bool)
    unscored[:, 1] = False
    left_out = dataclasses.replace(
        whole,
        scored=unscored,
        correct=np.where(unscored, whole.correct, np.float32(0)),
    )
    got = a.score_groups(left_out, RewardConfig(), config).advantages
    expected = a.score_groups(without, RewardConfig(), config).advantages
    np.testing.assert_allclose(np.delete(got, 1, axis=1), expected, atol=1e-6)
    assert np.any(expected)
    assert not np.any(got[:, 1])


def test_a_group_without_any_score_teaches_nothing():
    outcomes = random_outcomes(3, (2, 4, 3))
    scored = np.array([[False] * 4, [True] * 4])
    got = a.score_groups(
        dataclasses.replace(outcomes, scored=scored),
        RewardConfig(),
        a.AdvantageConfig(),
    ).advantages
    assert np.all(np.isfinite(got))
    assert a.group_has_signal(got, outcomes.turn_mask).tolist() == [False, True]
