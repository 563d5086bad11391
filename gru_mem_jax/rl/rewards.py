"""The rewards: what trajectories did, as Outcomes, and what that is worth.

arXiv 2602.10560, Eq. 8-11. The outcome, exit and format rewards belong to a trajectory,
the update reward to each of its memory turns:

    r_traj[g]      = outcome + exit + format            [P, G]
    r_update[g, t] = +1 if U_t == evidence[t] else -1   [P, G, K]

P questions, G rollouts of each, K columns of memory turns; the answer turn has no
gates. Where a chunk is read more than once `rl.passes` says what is asked of a gate.
"""

import dataclasses
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.scoring import SCORERS, score
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import (
    check_choice,
    check_int,
    check_number,
    plain_numbers,
)
from gru_mem_jax.rl.outcomes import STOP_REASONS, Array, Outcomes, RewardFn
from gru_mem_jax.shapes import check_shape

_LARGE = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What each term is worth. The defaults are the paper's.

    Attributes:
      outcome_weight, exit_weight, format_weight, update_weight: factor of each term;
        0 leaves it out.
      exact_exit, early_exit, late_exit: the exit reward of a run that ended with the
        last evidence, before it, after it.
      well_formed, malformed: the format reward of a trajectory.
      update_right, update_wrong: the update reward of a turn.
      scoring: how answers are compared, one of data.scoring.SCORERS; None: as each
        example says.
      reward_fn: the outcome reward by a function of (example, trajectory) instead; None
        for a trajectory that cannot be judged leaves it out.
      overlong_weight: factor of the penalty for long completions; 0: none.
      overlong_limit: L_max of the penalty, tokens of a completion.
      overlong_buffer: L_cache of the penalty, tokens below the limit where it starts.
    """

    outcome_weight: float = 1.0
    exit_weight: float = 1.0
    format_weight: float = 1.0
    update_weight: float = 1.0
    exact_exit: float = 0.0
    early_exit: float = -0.75
    late_exit: float = -0.5
    well_formed: float = 1.0
    malformed: float = 0.0
    update_right: float = 1.0
    update_wrong: float = -1.0
    scoring: str | None = None
    reward_fn: RewardFn | None = None
    overlong_weight: float = 0.0
    overlong_limit: int = 1024
    overlong_buffer: int = 256

    def __post_init__(self) -> None:
        plain_numbers(self)
        for field in dataclasses.fields(self):
            if field.type is float:
                low = 0 if field.name.endswith("_weight") else -_LARGE
                check_number(field.name, getattr(self, field.name), low, _LARGE)
        check_int("overlong_limit", self.overlong_limit, 1)
        check_int("overlong_buffer", self.overlong_buffer, 1, self.overlong_limit)
        if self.scoring is not None:
            check_choice("scoring", self.scoring, tuple(SCORERS))
        if self.reward_fn is not None:
            if not callable(self.reward_fn):
                raise InputError(
                    f"reward_fn must be a function of (example, trajectory), got "
                    f"{self.reward_fn!r}"
                )
            if self.scoring is not None:
                raise InputError("give scoring or reward_fn, not both")
            _check_signature(self.reward_fn)

    @property
    def answer_reward(self) -> RewardFn:
        """The function that `outcomes` takes as its reward_fn."""
        if self.reward_fn is not None:
            return self.reward_fn

        def scored(example: Example, trajectory: Trajectory) -> float:
            scoring = self.scoring or example.scoring
            return score(trajectory.answer, example.answers, scoring)

        return scored

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each term of `Rewards.terms`."""
        names = ("outcome", "exit", "format", "overlong", "update")
        return {name: getattr(self, f"{name}_weight") for name in names}


class Rewards(NamedTuple):
    """What trajectories and their memory turns are worth.

    Attributes:
      trajectory: float32 [P, G], r_traj; without the outcome where there is no score.
      turn: float32 [P, G, K], r_update; 0 where no turn was reached.
      terms: the terms before their weights: "outcome", "exit", "format" and
        "overlong" float32 [P, G], "update" float32 [P, G, K].
    """

    trajectory: jax.Array
    turn: jax.Array
    terms: dict[str, jax.Array]


def outcome_reward(correct: Array) -> jax.Array:
    """The answer's score (Eq. 8): 1 if it is equivalent to the gold answer, else 0.

    Args:
      correct: float32 [P, G].

    Returns:
      float32 [P, G].
    """
    return jnp.asarray(correct, jnp.float32)


def right_gates(
    update: Array, evidence: Array, well_formed: Array, excused: Array | bool = False
) -> Array:
    """Which update gates equal their evidence label, or need not.

    The gate of a malformed turn counts as wrong: it has none.

    Args:
      update, evidence, well_formed: bool [P, G, K].
      excused: bool [P, G, K], where a closed gate is right on evidence too.

    Returns:
      bool [P, G, K].
    """
    return ((update == evidence) | (evidence & excused)) & well_formed


def update_reward(
    update: Array,
    evidence: Array,
    well_formed: Array,
    config: RewardConfig,
    excused: Array | bool = False,
) -> jax.Array:
    """Whether each turn's update gate is right (Eq. 9), see `right_gates`.

    Args:
      update, evidence, well_formed, excused: bool [P, G, K].
      config: update_right and update_wrong.

    Returns:
      float32 [P, G, K].
    """
    right = right_gates(update, evidence, well_formed, excused)
    return _choose(right, config.update_right, config.update_wrong)


def exit_reward(
    exit_offset: Array, labelled: Array, chose: Array, config: RewardConfig
) -> jax.Array:
    """Whether reading ended with the last evidence, before it or after it (Eq. 10).

    Reading to the end is exact where the end holds evidence. Two cases are worth 0: a
    context without evidence has no right place to stop, and a run that ended before the
    last evidence but not by its exit gate did not choose to.

    Args:
      exit_offset: int32 [P, G], how far behind the last evidence reading ended.
      labelled: bool [P, G], whether there is evidence.
      chose: bool [P, G], whether the exit gate ended it.
      config: exact_exit, early_exit and late_exit.

    Returns:
      float32 [P, G].
    """
    exact = exit_offset == 0
    early = (exit_offset < 0) & chose
    late = exit_offset > 0
    value = _choose(exact, config.exact_exit, 0) + _choose(early, config.early_exit, 0)
    value += _choose(late, config.late_exit, 0)
    return _only(labelled, value)


def format_reward(well_formed: Array, config: RewardConfig) -> jax.Array:
    """Whether every turn of a trajectory is well formed (Eq. 11).

    Args:
      well_formed: bool [P, G].
      config: well_formed and malformed.

    Returns:
      float32 [P, G].
    """
    return _choose(well_formed, config.well_formed, config.malformed)


def overlong_penalty(completion_tokens: Array, config: RewardConfig) -> jax.Array:
    """Soft punishment of long completions (DAPO, arXiv 2503.14476, Eq. 13).

        0                                     |y| <= L_max - L_cache
        (L_max - L_cache - |y|) / L_cache     in between
        -1                                    L_max <= |y|

    A trajectory gets that of its longest completion.

    Args:
      completion_tokens: int32 [P, G, K + 1], 0 where no turn was reached.
      config: overlong_limit (L_max) and overlong_buffer (L_cache).

    Returns:
      float32 [P, G], from -1 to 0.
    """
    longest = jnp.max(completion_tokens, axis=-1).astype(jnp.float32)
    start = config.overlong_limit - config.overlong_buffer
    return jnp.clip((start - longest) / config.overlong_buffer, -1.0, 0.0)


def rewards(outcomes: Outcomes, config: RewardConfig) -> Rewards:
    """All terms, and their sums by level.

    The exit term is for runs that the exit gate could end. MemAgent has no gates and no
    format: it gets the outcome alone (and the penalty for length, if asked for).

    Args:
      outcomes: arrays of [P, G] and [P, G, K].
      config: constants and weights.

    Returns:
      Rewards.
    """
    check_shape("turn_mask", outcomes.turn_mask, (*outcomes.correct.shape, None))
    check_shape("update", outcomes.update, outcomes.turn_mask.shape)
    gated = outcomes.mode != MODES.index("memagent")
    chose = outcomes.stop == STOP_REASONS.index("exit_gate")
    terms = {
        "outcome": outcome_reward(outcomes.correct),
        "exit": _only(
            outcomes.exit_gate,
            exit_reward(
                outcomes.exit_offset, outcomes.last_evidence >= 0, chose, config
            ),
        ),
        "format": _only(gated, format_reward(outcomes.well_formed, config)),
        "overlong": overlong_penalty(outcomes.completion_tokens, config),
        "update": _only(
            outcomes.turn_mask & gated[..., None],
            update_reward(
                outcomes.update,
                outcomes.evidence,
                outcomes.turn_well_formed,
                config,
                outcomes.excused,
            ),
        ),
    }
    weighted = {name: config.weights[name] * term for name, term in terms.items()}
    turn = weighted.pop("update")
    return Rewards(sum(weighted.values(), start=jnp.float32(0)), turn, terms)


def _check_signature(function: RewardFn) -> None:
    try:
        inspect.signature(function).bind_partial(None, None)
    except TypeError:
        name = getattr(function, "__name__", repr(function))
        raise InputError(f"reward_fn {name} must take (example, trajectory)") from None
    except ValueError:  # a built-in that does not say what it takes
        return


def _choose(condition: Array, yes: float, no: float) -> jax.Array:
    return jnp.where(condition, jnp.float32(yes), jnp.float32(no))


def _only(condition: Array, values: jax.Array) -> jax.Array:
    return jnp.where(condition, values, jnp.float32(0))
