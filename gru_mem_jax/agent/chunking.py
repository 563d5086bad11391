"""A document of any length as chunks of a fixed number of tokens.

The document is encoded block by block, so memory does not grow with its length.
Where blocks end depends on the document's characters alone, not on the pieces in
which a stream delivers them: a file and a pipe give the same chunks.
"""

import bisect
import collections
import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.agent.inputs import Context, context_pieces, texts
from gru_mem_jax.agent.text import check_text
from gru_mem_jax.records import check_int

# A block ends before a single space between words: most tokenizers begin a token
# there whatever follows. Else before any white space, else where it is full.
_BEFORE_SPACE = re.compile(r".*\S(?= \S)", re.DOTALL)
_BEFORE_WHITE = re.compile(r".*\S(?=\s)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a document's tokens.

    Attributes:
      index: 0 for the first.
      ids: its token ids, as sliced from the document's.
      text: its characters; the chunks' texts concatenate to the document.
      start, end: where `text` stands in the document, in characters.
    """

    index: int
    ids: tuple[int, ...]
    text: str
    start: int
    end: int


class Chunks(Iterator[Chunk]):
    """The chunks of a document in order, with a look at the next ones.

    Args:
      batches: the chunks of each block of text that was read.
      waits: whether the next batch may have to be waited for: that of a pipe, say.
    """

    def __init__(self, batches: Iterator[tuple[Chunk, ...]], *, waits: bool):
        self._batches, self._waits = batches, waits
        self._known: collections.deque[Chunk] = collections.deque()
        self._error: Exception | None = None  # met while looking ahead

    def __next__(self) -> Chunk:
        while not self._known:
            if self._error is not None:
                raise self._error
            self._known += next(self._batches)
        return self._known.popleft()

    def ready(self) -> bool:
        """Whether the next chunk, or the end, comes without waiting for text."""
        return bool(self._known) or not self._waits

    def ahead(self, number: int) -> tuple[Chunk, ...]:
        """The next chunks, at most `number`, as far as known without waiting.

        Of a stream these are the chunks of what was read of it. A fault in the text is
        raised when its chunk is taken, not before.
        """
        while len(self._known) < number and not self._waits and self._error is None:
            try:
                batch = next(self._batches, None)
            except Exception as error:
                self._error = error
                break
            if batch is None:
                break
            self._known += batch
        return tuple(itertools.islice(self._known, number))


def iter_chunks(context: Context, encoder: Encoder, chunk_size: int) -> Chunks:
    """The chunks of a document, or of a stream of its pieces, as they fill.

    A chunk has `chunk_size` tokens, the last one what remains. The next chunk begins
    where a token starts a character: a few tokens early if none does at the limit, and
    late only if none does in a whole chunk. Characters that no token covers belong to
    the chunk before.

    Args:
      context: text, a path, or an iterable of texts, as `inputs.context_pieces` says.
      encoder: the tokenizer.
      chunk_size: at least 1.

    Raises:
      InputError: chunk_size < 1, or the context is of another kind. While iterating: a
        piece is not text or holds a lone surrogate, or the file cannot be read.
    """
    chunk_size = check_int("chunk_size", chunk_size, 1)
    pieces = context_pieces(context)
    batches = chunk_batches(pieces, encoder, chunk_size)
    is_file = isinstance(context, os.PathLike) and os.path.isfile(context)
    return Chunks(batches, waits=not isinstance(pieces, str) and not is_file)


def chunk_batches(
    context: str | Iterable[str], encoder: Encoder, chunk_size: int
) -> Iterator[tuple[Chunk, ...]]:
    """As `iter_chunks`, the chunks that are known from each block of text together."""
    index, start = 0, 0  # of the chunk to come; `text` begins at `start`
    ids: list[int] = []
    spans: list[Span] = []  # in characters of the document
    text = ""
    for block in _blocks(context, max(1024, 8 * chunk_size)):
        offset = start + len(text)
        check_text(block, "the context", offset)
        block_ids, block_spans = encoder.encode_with_offsets(block)
        ids += block_ids
        spans += [(a + offset, b + offset) for a, b in block_spans]
        text += block
        batch = []
        while (cut := _cut(spans, chunk_size, start)) is not None:
            end = spans[cut][0]
            own = text[: end - start]
            batch.append(Chunk(index, tuple(ids[:cut]), own, start, end))
            text = text[end - start :]
            del ids[:cut], spans[:cut]
            index, start = index + 1, end
        yield tuple(batch)
    if text:
        yield (Chunk(index, tuple(ids), text, start, start + len(text)),)


def _cut(spans: Sequence[Span], size: int, start: int) -> int | None:
    """How many leading tokens make a chunk; None if that is not known yet."""
    if len(spans) <= size:
        return None
    for i in itertools.chain(range(size, 0, -1), range(size + 1, len(spans))):
        begin = spans[i][0]
        if start < begin and spans[i - 1][1] <= begin:
            return i
    return None


def _blocks(context: str | Iterable[str], size: int) -> Iterator[str]:
    """The document in blocks of at most `size` characters, cut at white space."""
    parts: list[str] = []
    held = 0
    for piece in _pieces(context, size):
        parts.append(piece)
        held += len(piece)
        if held <= size:
            continue
        buffer = "".join(parts)
        while len(buffer) > size:
            end = _block_end(buffer, size)
            yield buffer[:end]
            buffer = buffer[end:]
        parts, held = [buffer], len(buffer)
    if held:
        yield "".join(parts)


def _block_end(buffer: str, size: int) -> int:
    for pattern in (_BEFORE_SPACE, _BEFORE_WHITE):
        if match := pattern.match(buffer, 0, size):
            return match.end()
    return size


def _pieces(context: str | Iterable[str], size: int) -> Iterator[str]:
    """The stream's pieces, none of them longer than `size`."""
    for piece in texts(context):
        for i in range(0, len(piece), size):
            yield piece[i : i + size]


def evidence_labels(
    borders: Sequence[Span], spans: Iterable[Span]
) -> tuple[tuple[bool, ...], int | None]:
    """Which chunks hold evidence, and the last that does.

    A span counts for the chunk that holds its last character, and for any other
    that holds at least half of it.

    Args:
      borders: (start, end) of each chunk, adjacent and in order.
      spans: (start, end) of each piece of evidence, in the same characters. The chunks
        may end before the document does: evidence beyond them is ignored.

    Returns:
      evidence, one bool per chunk; and the index of the last True, None if there is
      none.
    """
    starts = [start for start, _ in borders]
    evidence = [False] * len(borders)
    for start, end in spans:
        first = max(0, bisect.bisect_right(starts, start) - 1)
        for i in range(first, bisect.bisect_left(starts, end)):
            low, high = borders[i]
            held = min(end, high) - max(start, low)
            if low < end <= high or 2 * held >= end - start:
                evidence[i] = True
    last = max((i for i, held in enumerate(evidence) if held), default=None)
    return tuple(evidence), last
