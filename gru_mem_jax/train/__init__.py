"""Reinforcement learning of the gates: the only place where all stages meet."""

from gru_mem_jax.train.config import (
    ExampleSource,
    ListSource,
    SyntheticSource,
    TrainConfig,
    TrainSettings,
    settings_text,
)
from gru_mem_jax.train.export import export_run
from gru_mem_jax.train.plan import Plan, plan
from gru_mem_jax.train.run import TrainResult, train

__all__ = [
    "ExampleSource",
    "ListSource",
    "Plan",
    "SyntheticSource",
    "TrainConfig",
    "TrainResult",
    "TrainSettings",
    "export_run",
    "plan",
    "settings_text",
    "train",
]
