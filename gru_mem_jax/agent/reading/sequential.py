"""One chunk after the other, each against the memory that the last one left.

    M_t = M^_t if U_t else M_{t-1};  stop after chunk t if E_t (mode with_exit_gate)

(arXiv 2602.10560, Eq. 7 and Algorithm 1.) MemAgent reads so too: its gate is always
open.
"""

from gru_mem_jax.agent.reading.reader import Looks, Reader, Reading, looks


def sequential(reader: Reader) -> Reading:
    """The way of reading of "with_exit_gate", "without_exit_gate" and "memagent"."""
    chunks = reader.take()
    while not reader.stopped:
        seen = yield Looks(looks(reader, chunks, "read", 1), most=1, reads=True)
        if not seen:
            return
        reader.memory = seen[0].memory
        if seen[0].exit and reader.config.mode == "with_exit_gate":
            reader.stop("exit_gate")
