"""Reinforcement learning of the gates: the only place where all stages meet."""

from gru_mem_jax.train.config import LoopConfig, TrainConfig, settings_text
from gru_mem_jax.train.plan import Plan
from gru_mem_jax.train.run import TrainResult, train

__all__ = [
    "LoopConfig",
    "Plan",
    "TrainConfig",
    "TrainResult",
    "settings_text",
    "train",
]
