"""What a run costs on devices that nobody holds: memory, time and chip-hours.

A run's programs are compiled for a topology (`topologies`) by libtpu, on a CPU. Their
memory is the compiler's; FLOPs are counted on the jaxpr (`costs`), what devices send
each other in the compiled text (`collectives`). With a chip's figures (`chips`) these
give the time that each program takes at least, and a step is so many calls of them.
"""

from gru_mem_jax.planning.collectives import (
    Collective,
    Collectives,
    read_collectives,
)

__all__ = ["Collective", "Collectives", "read_collectives"]
