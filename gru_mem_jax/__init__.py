"""GRU-Mem in JAX: a gated recurrent memory agent for texts of any length.

The package imports nothing heavy; take what you need from its modules, e.g.
``from gru_mem_jax.agent import GRUMemAgent``.
"""

from gru_mem_jax.version import __version__

__all__ = ["__version__"]
