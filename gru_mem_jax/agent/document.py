"""Texts that several questions are asked on: read, tokenised and chunked once."""

import collections
import os
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gru_mem_jax.agent.chunking import Chunk, Chunks, chunk_batches
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.inputs import Context, Pair, context_pieces, texts
from gru_mem_jax.agent.text import check_text
from gru_mem_jax.errors import RunError
from gru_mem_jax.records import check_int

_Batch = tuple[Chunk, ...]


class _Kept(NamedTuple):
    encoder: Encoder  # held, so that no other can have its id
    rest: Iterator[_Batch]
    batches: list[_Batch]


class Document:
    """A context for several questions, whose text and chunks are kept.

    It may be given wherever a context may, to any agents in any threads. An agent whose
    prompts are chunk_first also keeps keys and values of its chunks, so that a further
    question pays for question, memory and completion alone (`GRUMemAgent`'s `cache`).

    >>> document = Document(pathlib.Path("report.txt"))
    >>> answers = [agent.answer(question, document) for question in questions]

    Args:
      context: text, a path or an iterable of texts. It is read when it is first needed,
        and then to its end, whatever the deadline.

    Raises:
      InputError: it is of another kind, or there is no such file.
    """

    def __init__(self, context: Context):
        self._pieces: str | Iterable[str] | None = context_pieces(context)
        self._text: str | None = None
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, int], _Kept] = {}

    @property
    def text(self) -> str:
        """All of it.

        Raises:
          InputError: a piece is not text or holds a lone surrogate, or the file cannot
            be read.
          RunError: an earlier attempt to read it has failed.
        """
        with self._lock:
            if self._text is None:
                if self._pieces is None:
                    raise RunError(
                        "the document was not read to its end before: make a new one"
                    )
                pieces, self._pieces = self._pieces, None
                text = "".join(texts(pieces))
                check_text(text, "the context")
                self._text = text
            return self._text

    def __iter__(self) -> Iterator[str]:
        """Its text, as one piece."""
        yield self.text

    def chunks(self, encoder: Encoder, chunk_size: int) -> Chunks:
        """As `iter_chunks`; each chunk is made once for an encoder and a size."""
        chunk_size = check_int("chunk_size", chunk_size, 1)
        return Chunks(self._batches(encoder, chunk_size), waits=False)

    def _batches(self, encoder: Encoder, chunk_size: int) -> Iterator[_Batch]:
        number = 0
        while (batch := self._batch(encoder, chunk_size, number)) is not None:
            yield batch
            number += 1

    def _batch(self, encoder: Encoder, chunk_size: int, number: int) -> _Batch | None:
        """The chunks of a block; None after the last."""
        text, key = self.text, (id(encoder), chunk_size)
        with self._lock:
            if (kept := self._kept.get(key)) is None:
                rest = chunk_batches(text, encoder, chunk_size)
                kept = self._kept[key] = _Kept(encoder, rest, [])
            try:
                while len(kept.batches) <= number:
                    kept.batches.append(next(kept.rest))
            except StopIteration:
                return None
            except BaseException:  # a Ctrl-C, say, has ended `rest` before the text
                del self._kept[key]
                raise
            return kept.batches[number]


def share_documents(pairs: Iterable[Pair], *, at_once: bool) -> Iterator[Pair]:
    """The (question, context) pairs, with one Document in the place of equal contexts.

    Equal are the same text, the same path of a regular file, and the same list or tuple
    of texts. Each Document is dropped after its last pair.

    Args:
      pairs: as they are given.
      at_once: whether they may all be taken now; else a context is compared only with
        the one before, and a Document begins with the second of equal ones.
    """
    left: collections.Counter[object] = collections.Counter()
    if at_once:
        pairs = list(pairs)
        left.update(_identity(context) for _, context in pairs)
        left = collections.Counter({key: n for key, n in left.items() if n > 1})
    documents: dict[object, Document] = {}
    before: tuple[object, object] = (None, None)  # with the context: its id is taken
    for question, context in pairs:
        key = _identity(context)
        again = key is not None and (left[key] > 0 or key == before[0])
        before = (key, context)
        if again:
            if left[key] > 0:
                left[key] -= 1
            context = documents.get(key) or Document(context)
            documents[key] = context
        documents = {k: d for k, d in documents.items() if left[k] > 0 or k == key}
        yield question, context


def _identity(context: object) -> object:
    """What equal contexts have in common; None for what is read only once."""
    if isinstance(context, str):
        return ("text", context)
    if isinstance(context, os.PathLike):
        return ("path", os.fspath(context)) if os.path.isfile(context) else None
    return ("pieces", id(context)) if isinstance(context, list | tuple) else None
