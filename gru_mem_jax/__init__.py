"""GRU-Mem in JAX: a gated recurrent memory agent for texts of any length.

The package imports nothing heavy; take what you need from its parts, each an index of
its public names: `agent`, `data`, `policy`, `tokenization`, `sampling`, `rl`, `runs`,
`evaluation`, `train`, `tiny`, `bench`, `testing`; e.g.
``from gru_mem_jax.agent import GRUMemAgent``.
"""

from gru_mem_jax.version import __version__

__all__ = ["__version__"]
