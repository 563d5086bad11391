"""What a run costs on devices that nobody holds, read from its compiled programs."""

from gru_mem_jax.planning.collectives import (
    Collective,
    Collectives,
    read_collectives,
)

__all__ = ["Collective", "Collectives", "read_collectives"]
