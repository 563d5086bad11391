"""All chunks at once against one memory; those that matter are merged in order.

A pass over the chunks that are not merged yet:

    scan    every chunk, side by side, sees the memory as it stands
    merge   in reading order, those whose gate is open and whose candidate would change
            the memory: the first candidate is the new memory; the chunks of the others
            are read again, each against the memory so far

Passes follow each other until one changes nothing: what matters only in the light of
what the last pass found, opens its gate in the next.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence

from gru_mem_jax.agent.chunking import Chunk
from gru_mem_jax.agent.reading.reader import Looks, Reader, Reading, Seen, looks


def parallel(reader: Reader) -> Reading:
    """The way of reading of "parallel".

    It ends after a pass that has left the memory as it was, after `max_passes`, or
    with `merge_until_exit` where a merged turn says so. Chunks that are not merged are
    held until then.
    """
    unread: list[Chunk] = []
    for number in range(1, reader.config.max_passes + 1):
        before = reader.memory
        chunks = reader.take() if number == 1 else iter(unread)
        unread = yield from _pass(reader, chunks, number)
        if reader.stopped or not unread or reader.memory == before:
            return


def _pass(
    reader: Reader, chunks: Iterator[Chunk], number: int
) -> Generator[Looks, list[Seen], list[Chunk]]:
    """Scans and merges, window by window; returns the chunks that were not merged."""
    window = reader.config.scan_chunks
    unread: list[Chunk] = []
    while not reader.stopped:
        part: Iterable[Chunk] = itertools.islice(chunks, window)
        seen = yield Looks(looks(reader, part, "scan", number), reads=number == 1)
        if not seen:
            break
        opened = _opened(seen, reader.config.max_merged)
        merged = yield from _merge(reader, opened, number)
        chunks_seen = (each.look.chunk for each in seen)
        unread += [chunk for chunk in chunks_seen if chunk.index not in merged]
    return unread


def _opened(seen: Sequence[Seen], most: int | None) -> list[Seen]:
    """Those that would change the memory, in order; of too many the most probable."""
    opened = [each for each in seen if each.changes]
    if most is not None and len(opened) > most:
        ranked = sorted(opened, key=lambda each: -(each.update_probability or 0.0))
        opened = sorted(ranked[:most], key=lambda each: each.look.chunk.index)
    return opened


def _merge(
    reader: Reader, opened: Sequence[Seen], number: int
) -> Generator[Looks, list[Seen], set[int]]:
    """Takes the candidates into the memory, in order.

    Returns:
      The indices of the chunks that were merged.
    """
    merged: set[int] = set()
    for said in opened:
        chunk = said.look.chunk
        if reader.memory == said.look.memory:
            reader.accept(said)
        else:  # what it saw is not what there is now
            if reader.stopped:
                break
            again = yield Looks(looks(reader, [chunk], "merge", number), most=1)
            if not again:
                break
            said = again[0]
            reader.memory = said.memory
        merged.add(chunk.index)
        if said.exit and reader.config.merge_until_exit:
            reader.stop("exit_gate")
            break
    return merged
