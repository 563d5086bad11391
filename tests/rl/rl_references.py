"""Random outcomes, and the rewards of outcomes one by one."""

import numpy as np

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.rl.outcomes import STOP_REASONS, Outcomes
from gru_mem_jax.rl.rewards import RewardConfig

PAPER = RewardConfig()


def random_outcomes(seed, shape=(3, 4, 5)):
    """Outcomes in which everything that can happen does."""
    rng = np.random.default_rng(seed)
    questions, rollouts, turns = shape
    group = (questions, rollouts)

    def flags(*size):
        return rng.random(size) < 0.5

    read = rng.integers(0, turns + 1, group)
    last = rng.integers(-1, turns, group)
    mode = rng.integers(0, len(MODES), group).astype(np.int32)
    exits = mode == MODES.index("with_exit_gate")
    exits |= (mode == MODES.index("parallel")) & flags(*group)
    return Outcomes(
        correct=rng.choice([0.0, 0.5, 1.0], group).astype(np.float32),
        scored=np.ones(group, bool),
        mode=mode,
        stop=rng.integers(0, len(STOP_REASONS), group).astype(np.int32),
        exit_gate=exits,
        exit_offset=(read - 1 - last).astype(np.int32),
        last_evidence=last.astype(np.int32),
        num_chunks=np.full(group, turns, np.int32),
        passes=np.ones(group, np.int32),
        merges=np.zeros(group, np.int32),
        well_formed=flags(*group),
        turn_mask=np.arange(turns) < read[..., None],
        turn=np.broadcast_to(np.arange(turns, dtype=np.int32), shape),
        update=flags(*shape),
        evidence=flags(*shape),
        excused=flags(*shape),
        turn_well_formed=flags(*shape),
        memory_tokens=rng.integers(0, 99, shape).astype(np.int32),
        memory_cut=flags(*shape),
        completion_tokens=rng.integers(0, 120, (*group, turns + 1)).astype(np.int32),
        cut=flags(*group, turns + 1),
    )


def reference_rewards(o, config):
    """r_traj and r_update of every rollout, one by one, in Python's float64."""
    questions, rollouts, turns = o.update.shape
    trajectory = np.zeros((questions, rollouts))
    turn = np.zeros((questions, rollouts, turns))
    for p in range(questions):
        for g in range(rollouts):
            mode = MODES[o.mode[p, g]]
            total = config.outcome_weight * float(o.correct[p, g])
            last = int(o.last_evidence[p, g])
            t = last + int(o.exit_offset[p, g])
            if o.exit_gate[p, g] and last != -1:
                if t > last:
                    total += config.exit_weight * config.late_exit
                elif t == last:
                    total += config.exit_weight * config.exact_exit
                elif STOP_REASONS[o.stop[p, g]] == "exit_gate":
                    total += config.exit_weight * config.early_exit
            if mode != "memagent":
                good = o.well_formed[p, g]
                value = config.well_formed if good else config.malformed
                total += config.format_weight * value
            start = config.overlong_limit - config.overlong_buffer
            over = max(int(o.completion_tokens[p, g].max()) - start, 0)
            total -= config.overlong_weight * min(over / config.overlong_buffer, 1)
            trajectory[p, g] = total
            for k in range(turns):
                if o.turn_mask[p, g, k] and mode != "memagent":
                    right = o.update[p, g, k] == o.evidence[p, g, k]
                    right = right or (o.evidence[p, g, k] and o.excused[p, g, k])
                    right = right and o.turn_well_formed[p, g, k]
                    value = config.update_right if right else config.update_wrong
                    turn[p, g, k] = config.update_weight * value
    return trajectory, turn


OTHER = RewardConfig(
    outcome_weight=2.0,
    exit_weight=0.5,
    format_weight=0.25,
    update_weight=3.0,
    exact_exit=0.1,
    early_exit=-2.0,
    late_exit=-1.5,
    well_formed=0.5,
    malformed=-1.0,
    update_right=0.7,
    update_wrong=-0.3,
    overlong_weight=0.4,
    overlong_limit=100,
    overlong_buffer=40,
)
