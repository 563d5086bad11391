"""Tokens per second, of the engine and of its peers (`gru-mem bench`)."""

from gru_mem_jax.bench.sampling import BenchConfig

__all__ = ["BenchConfig"]
