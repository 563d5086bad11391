"""Supervised warm start: oracle turns teach a tiny policy to copy and to gate."""

from gru_mem_jax.sft.config import OptimizerConfig, SFTConfig, TinyModel
from gru_mem_jax.sft.train import SFTResult, run

__all__ = ["OptimizerConfig", "SFTConfig", "SFTResult", "TinyModel", "run"]
