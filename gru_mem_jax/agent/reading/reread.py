"""One chunk after the other, and again from the first until nothing is new.

What matters only in the light of a later chunk is passed over when it is read first:
the second hop of a question before the first. The next pass finds it.
"""

from collections.abc import Iterable

from gru_mem_jax.agent.chunking import Chunk
from gru_mem_jax.agent.reading.reader import Looks, Reader, Reading, looks


def reread(reader: Reader) -> Reading:
    """The way of reading of "reread".

    It ends after a pass that has left the memory as it was, or after `max_passes`. The
    exit gate is not obeyed. The chunks are held until then.
    """
    kept: list[Chunk] = []
    for number in range(1, reader.config.max_passes + 1):
        first, changed = number == 1, False
        chunks: Iterable[Chunk] = iter(reader.take() if first else kept)
        while not reader.stopped:
            seen = yield Looks(
                looks(reader, chunks, "read", number), most=1, reads=first
            )
            if not seen:
                break
            if first:
                kept.append(seen[0].look.chunk)
            changed |= seen[0].changes
            reader.memory = seen[0].memory
        if reader.stopped or not changed:
            return
