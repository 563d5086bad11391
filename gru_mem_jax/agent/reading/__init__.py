"""How a text is read: in which order, and against which memory.

Each way is one small generator: it yields the turns to take next, gets what they said,
and sets the memory. `agent.loop.Recurrence` makes the requests, may have many of them
open, and knows nothing of the order. A new way is a file here and a line in `WAYS`.
"""

from collections.abc import Mapping

from gru_mem_jax.agent.config import Mode
from gru_mem_jax.agent.reading.parallel import parallel
from gru_mem_jax.agent.reading.reader import Way
from gru_mem_jax.agent.reading.reread import reread
from gru_mem_jax.agent.reading.sequential import sequential

__all__ = ["WAYS"]

WAYS: Mapping[Mode, Way] = {
    "with_exit_gate": sequential,
    "without_exit_gate": sequential,
    "memagent": sequential,
    "reread": reread,
    "parallel": parallel,
}
