"""The dual advantage: a trajectory's and a turn's, against their group.

arXiv 2602.10560, Eq. 12-13, with G_t the rollouts of the group that reached turn t:

    A_traj[g]    = r_traj[g] - mean_g r_traj
    A_turn[g, t] = r_update[g, t] - mean over G_t of r_update[., t]
    A[g, t]      = alpha * A_traj[g] + (1 - alpha) * A_turn[g, t]

Every token of turn t's completion has the advantage A[g, t].

Where chunks are read more than once, rollouts take different turns, and the n-th turns
of two of them may read different chunks for different purposes. Turns are compared if
they share a column of `rl.passes`, that is pass, step and chunk: the same question is
put to the gate, of memories that differ, as those of turn t do. A turn that no other
rollout of the group took has nothing to be compared with, and A_turn 0; its
trajectory's advantage remains.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gru_mem_jax.records import check_bool, check_number, plain_numbers
from gru_mem_jax.rl.outcomes import Array, Outcomes
from gru_mem_jax.rl.rewards import RewardConfig, rewards
from gru_mem_jax.shapes import check_shape

# Rewards of a group that differ by less than this share of their size count as equal:
# they are sums of the same terms in another order.
_EQUAL = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How rewards become advantages. The defaults are the paper's.

    Attributes:
      alpha: weight of the trajectory's advantage, from 0 to 1; the turn's has the rest.
      normalize_std: divide by the group's standard deviation (GRPO).
      leave_one_out: the mean is that of the other rollouts (RLOO).
      decoupled: divide each reward term by its own standard deviation in the group,
        before they are weighted and added (GDPO): a term that varies much does not
        drown one that varies little.
      epsilon: added to a standard deviation.
    """

    alpha: float = 0.9
    normalize_std: bool = False
    leave_one_out: bool = False
    decoupled: bool = False
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_number("alpha", self.alpha, 0, 1)
        check_number("epsilon", self.epsilon, 0, 1)
        for name in ("normalize_std", "leave_one_out", "decoupled"):
            check_bool(name, getattr(self, name))


class Scores(NamedTuple):
    """What a batch of groups is trained with.

    Attributes:
      advantages: float32 [P, G, K + 1], of each memory turn, and of the answer turn
        last; 0 for a rollout without a score.
      trajectory: float32 [P, G], r_traj.
      turn: float32 [P, G, K], r_update.
      terms: each reward before its weight, as `Rewards.terms`.
    """

    advantages: jax.Array
    trajectory: jax.Array
    turn: jax.Array
    terms: dict[str, jax.Array]


def group_advantages(
    rewards: Array,
    mask: Array | None = None,
    *,
    normalize_std: bool = False,
    leave_one_out: bool = False,
    epsilon: float = 1e-6,
    axis_name: str | None = None,
) -> jax.Array:
    """Rewards against the mean of their group, over the rollouts that have one.

    Where all rewards of a group are equal the result is exactly 0.

    Args:
      rewards: float32 [P, G, ...].
      mask: bool of the same shape, or None: all rollouts have a reward.
      normalize_std: divide by the standard deviation (of the population).
      leave_one_out: subtract the mean of the others; 0 where there is no other.
      epsilon: added to the standard deviation.
      axis_name: a mapped axis over which a group's rollouts are spread, if any.

    Returns:
      float32 [P, G, ...]; 0 outside the mask.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    mask = jnp.ones(rewards.shape, bool) if mask is None else jnp.asarray(mask, bool)
    check_shape("mask", mask, rewards.shape)

    def over_group(
        reduce: Callable[..., jax.Array],
        collective: Callable[[jax.Array, str], jax.Array],
        values: jax.Array,
    ) -> jax.Array:
        reduced = reduce(values, axis=1, keepdims=True)
        return reduced if axis_name is None else collective(reduced, axis_name)

    def mean(values: jax.Array) -> jax.Array:
        return over_group(jnp.sum, jax.lax.psum, jnp.where(mask, values, 0)) / count

    reached = over_group(jnp.sum, jax.lax.psum, mask.astype(jnp.float32))
    count = jnp.maximum(reached, 1)
    baseline = mean(rewards)
    advantages = rewards - baseline
    if leave_one_out:
        # r_g - (sum of the others) / (n - 1) = (r_g - mean) n / (n - 1)
        advantages *= count / jnp.maximum(count - 1, 1)
    if normalize_std:
        advantages /= jnp.sqrt(mean(jnp.square(rewards - baseline))) + epsilon
    high = over_group(jnp.max, jax.lax.pmax, jnp.where(mask, rewards, -jnp.inf))
    low = over_group(jnp.min, jax.lax.pmin, jnp.where(mask, rewards, jnp.inf))
    equal = high - low <= _EQUAL * jnp.maximum(jnp.abs(high), jnp.abs(low))
    return jnp.where(mask & ~equal, advantages, 0)


def dual_advantages(
    traj_rewards: Array,
    turn_rewards: Array,
    turn_mask: Array,
    alpha: float = 0.9,
    *,
    normalize_std: bool = False,
    leave_one_out: bool = False,
    epsilon: float = 1e-6,
    axis_name: str | None = None,
) -> jax.Array:
    """alpha * A_traj + (1 - alpha) * A_turn (Eq. 12-13).

    Args:
      traj_rewards: float32 [P, G].
      turn_rewards: float32 [P, G, K].
      turn_mask: bool [P, G, K], turns that were reached and have a reward.
      alpha: weight of the trajectory's advantage.
      normalize_std, leave_one_out, epsilon, axis_name: as in `group_advantages`.

    Returns:
      float32 [P, G, K]. Outside the mask A_turn is 0: a turn without a reward of its
      own, as the answer turn, has alpha * A_traj.
    """
    check_shape("traj_rewards", traj_rewards, (None, None))
    check_shape("turn_rewards", turn_rewards, (*traj_rewards.shape, None))
    check_shape("turn_mask", turn_mask, turn_rewards.shape)
    relative = functools.partial(
        group_advantages,
        normalize_std=normalize_std,
        leave_one_out=leave_one_out,
        epsilon=epsilon,
        axis_name=axis_name,
    )
    turn = relative(turn_rewards, turn_mask)
    return _combine(relative(traj_rewards), turn, alpha)


def score_groups(
    outcomes: Outcomes,
    reward_config: RewardConfig,
    config: AdvantageConfig,
    *,
    axis_name: str | None = None,
) -> Scores:
    """Outcomes to rewards to advantages: what `parallelism.pmap_groups` maps.

    Args:
      outcomes: arrays of [P, G, ...].
      reward_config: what each term is worth.
      config: how advantages are made of them.
      axis_name: a mapped axis over which a group's rollouts are spread, if any.

    Returns:
      Scores.
    """
    trajectory, turn, terms = rewards(outcomes, reward_config)
    # A trajectory without a score is in no mean, and has advantage 0.
    scored = jnp.asarray(outcomes.scored, bool)
    turn_mask = outcomes.turn_mask & scored[..., None]
    relative = functools.partial(
        group_advantages,
        normalize_std=config.normalize_std or config.decoupled,
        leave_one_out=config.leave_one_out,
        epsilon=config.epsilon,
        axis_name=axis_name,
    )
    if config.decoupled:
        weights = reward_config.weights
        of_trajectory = sum(
            (
                weights[name] * relative(term, scored)
                for name, term in terms.items()
                if name != "update"
            ),
            start=jnp.float32(0),
        )
        of_turn = weights["update"] * relative(terms["update"], turn_mask)
    else:
        of_trajectory, of_turn = relative(trajectory, scored), relative(turn, turn_mask)
    # The answer turn has no update gate: its A_turn is 0.
    of_turn = jnp.pad(of_turn, ((0, 0), (0, 0), (0, 1)))
    advantages = _combine(of_trajectory, of_turn, config.alpha)
    return Scores(advantages, trajectory, turn, terms)


def _combine(trajectory: jax.Array, turn: jax.Array, alpha: float) -> jax.Array:
    return alpha * trajectory[..., None] + (1 - alpha) * turn


def group_has_signal(advantages: Array, turn_mask: Array) -> jax.Array:
    """Which groups have a gradient: some token has an advantage other than 0.

    Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) drops the others and samples
    new questions in their place. With the dual advantage a group whose answers are all
    right still has one where its update gates differ.

    Args:
      advantages: float32 [P, G, K + 1] of `score_groups`, the answer turn's last.
      turn_mask: bool [P, G, K], memory turns that were reached.

    Returns:
      bool [P].
    """
    check_shape(
        "turn_mask", turn_mask, (*advantages.shape[:2], advantages.shape[2] - 1)
    )
    answered = jnp.ones((*turn_mask.shape[:2], 1), bool)
    sampled = jnp.concatenate([jnp.asarray(turn_mask, bool), answered], axis=-1)
    return jnp.any(sampled & (jnp.asarray(advantages) != 0), axis=(1, 2))
