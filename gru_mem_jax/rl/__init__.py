"""Reinforcement learning, arrays only: what trajectories become, and the update.

    outcomes -> rewards -> advantages -> packed rows -> objective -> learner

The update itself is `rl.learner`, a module of pure functions; `compile_learner` jits
them with shardings.
"""

from gru_mem_jax.rl.advantages import (
    AdvantageConfig,
    dual_advantages,
    group_advantages,
    group_has_signal,
    score_groups,
)
from gru_mem_jax.rl.compile import Learner, compile_learner
from gru_mem_jax.rl.learner import Batch, LearnerSpec, TrainState
from gru_mem_jax.rl.logprobs import row_logprobs, token_logprobs
from gru_mem_jax.rl.lora import LoraConfig, init_adapters, merge, save_adapters
from gru_mem_jax.rl.objective import (
    ObjectiveConfig,
    TokenSum,
    dapo_objective,
    kl_k3,
    nll,
    policy_loss,
)
from gru_mem_jax.rl.optimizer import LearnerConfig, make_optimizer, make_schedule
from gru_mem_jax.rl.outcomes import Outcomes
from gru_mem_jax.rl.packing import (
    Conversation,
    PackConfig,
    PackedRows,
    conversations,
    mini_batches,
    pack,
    unpack,
)
from gru_mem_jax.rl.rewards import (
    RewardConfig,
    Rewards,
    exit_reward,
    format_reward,
    outcome_reward,
    overlong_penalty,
    update_reward,
)
from gru_mem_jax.rl.rollout import RolloutBatch, learnable, make_batch, sample
from gru_mem_jax.rl.summary import summarize
from gru_mem_jax.rl.supports import make_supports

__all__ = [
    "AdvantageConfig",
    "Batch",
    "Conversation",
    "Learner",
    "LearnerConfig",
    "LearnerSpec",
    "LoraConfig",
    "ObjectiveConfig",
    "Outcomes",
    "PackConfig",
    "PackedRows",
    "RewardConfig",
    "Rewards",
    "RolloutBatch",
    "TokenSum",
    "TrainState",
    "compile_learner",
    "conversations",
    "dapo_objective",
    "dual_advantages",
    "exit_reward",
    "format_reward",
    "group_advantages",
    "group_has_signal",
    "init_adapters",
    "kl_k3",
    "learnable",
    "make_batch",
    "make_optimizer",
    "make_schedule",
    "make_supports",
    "merge",
    "mini_batches",
    "nll",
    "outcome_reward",
    "overlong_penalty",
    "pack",
    "policy_loss",
    "row_logprobs",
    "sample",
    "save_adapters",
    "score_groups",
    "summarize",
    "token_logprobs",
    "unpack",
    "update_reward",
]
