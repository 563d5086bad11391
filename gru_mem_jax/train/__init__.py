"""Reinforcement learning of the gates: the only place where all stages meet."""

from gru_mem_jax.train.config import (
    LoopConfig,
    RolloutConfig,
    SFTConfig,
    TrainConfig,
    settings_text,
)
from gru_mem_jax.train.plan import Plan, plan
from gru_mem_jax.train.run import RunResult, sft, train

__all__ = [
    "LoopConfig",
    "Plan",
    "RolloutConfig",
    "RunResult",
    "SFTConfig",
    "TrainConfig",
    "plan",
    "settings_text",
    "sft",
    "train",
]
