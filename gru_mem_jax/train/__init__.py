"""Training, supervised and by reinforcement: one loop with two kinds of step."""

from gru_mem_jax.train.config import (
    LoopConfig,
    RolloutConfig,
    SFTConfig,
    TrainConfig,
    settings_text,
)
from gru_mem_jax.train.endings import RunResult
from gru_mem_jax.train.plan import Plan
from gru_mem_jax.train.profiling import ProfileSteps
from gru_mem_jax.train.run import sft, train

__all__ = [
    "LoopConfig",
    "Plan",
    "ProfileSteps",
    "RolloutConfig",
    "RunResult",
    "SFTConfig",
    "TrainConfig",
    "settings_text",
    "sft",
    "train",
]
