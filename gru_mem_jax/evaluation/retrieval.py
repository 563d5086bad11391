"""Parts of a text that fit a prompt: its two ends, or the passages that BM25 finds."""

import collections
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gru_mem_jax.agent.chunking import Chunk, chunk_batches
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.errors import InputError

_PIECE = 1024  # tokens that are looked at together
_WORD = re.compile(r"\w+")


class Part(NamedTuple):
    """What is shown of a text.

    Attributes:
      ids: its tokens.
      document_tokens: of the whole text.
      passages: indices of the passages, in the order of the text; None: it was not cut
        into passages.
    """

    ids: tuple[int, ...]
    document_tokens: int
    passages: tuple[int, ...] | None = None


def two_ends(text: str, encoder: Encoder, room: int | None) -> Part:
    """A text without its middle, as LongBench cuts it (arXiv 2308.14508).

    The first half and the last half of `room` tokens stand next to each other, with no
    mark between them. A cut is never inside a character.

    Args:
      text: of any length; memory does not grow with it.
      encoder: the tokenizer.
      room: most tokens; None: all of the text.
    """
    ids: list[int] = []
    total = 0
    if room is None:
        for chunk in _chunks(text, encoder, _PIECE):
            ids += chunk.ids
        return Part(tuple(ids), len(ids))
    first = room // 2
    head: list[int] = []
    tail: collections.deque[Chunk] = collections.deque()
    held = 0  # tokens of the tail
    for chunk in _chunks(text, encoder, _PIECE):
        total += len(chunk.ids)
        if total <= room:
            ids += chunk.ids
        if len(head) < first:
            own = chunk.ids
            if len(own) > first - len(head):
                own = _cut(chunk.text, encoder, first - len(head), end=False)
                first = len(head) + len(own)
            head += own
        tail.append(chunk)
        held += len(chunk.ids)
        while held - len(tail[0].ids) >= room:
            held -= len(tail.popleft().ids)
    if total <= room:
        return Part(tuple(ids), total)
    last: list[int] = []
    for chunk in reversed(tail):
        left = room - len(head) - len(last)
        if len(chunk.ids) > left:
            last[:0] = _cut(chunk.text, encoder, left, end=True)
            break
        last[:0] = chunk.ids
    return Part((*head, *last), total)


def _cut(text: str, encoder: Encoder, most: int, *, end: bool) -> tuple[int, ...]:
    """The first or last tokens of a text, cut between two characters."""
    ids, spans = encoder.encode_with_offsets(text)
    at = max(0, len(ids) - most) if end else min(most, len(ids))
    while 0 < at < len(ids) and spans[at - 1][1] > spans[at][0]:
        at += 1 if end else -1
    return tuple(ids[at:] if end else ids[:at])


def best_passages(
    text: str,
    question: str,
    encoder: Encoder,
    room: int | None,
    *,
    passage_tokens: int,
    top_k: int | None = None,
) -> Part:
    """The passages of a text that BM25 ranks first for a question.

    They are taken by rank until the next one does not fit, and shown in the order of
    the text (as in arXiv 2409.01666), with an empty line where something was left out
    between them. Of equal scores, which passages without any word of the question have,
    the earlier one is first. Words are runs of letters and digits in lower case; there
    are no stop words and no stems. Scores are those of bm25s with its defaults (method
    lucene, k1 1.5, b 0.75).

    Args:
      text: of any length.
      question: text.
      encoder: the tokenizer.
      room: most tokens; None: no limit.
      passage_tokens: of a passage, the last one may have fewer.
      top_k: most passages; None: as many as fit.

    Raises:
      InputError: bm25s is not installed.
    """
    passages, index = _indexed(text, encoder, passage_tokens)  # type: ignore[arg-type]
    separator = tuple(encoder.encode("\n\n"))
    chosen: list[int] = []
    left = room
    for number in _ranked(index, len(passages), question):
        if len(chosen) == top_k:
            break
        needs = len(passages[number].ids) + len(separator)
        if left is not None and needs > left:
            break
        left = None if left is None else left - needs
        chosen.append(number)
    chosen.sort()
    ids: list[int] = []
    for place, number in enumerate(chosen):
        if place and number != chosen[place - 1] + 1:
            ids += separator
        ids += passages[number].ids
    total = sum(len(passage.ids) for passage in passages)
    return Part(tuple(ids), total, tuple(chosen))


@functools.lru_cache(maxsize=1)  # for questions on one text that follow each other
def _indexed(text: str, encoder: Encoder, size: int) -> tuple[Sequence[Chunk], Any]:
    """The passages of a text, and bm25s's index of them; None: they have no word."""
    bm25s = library()
    passages = tuple(_chunks(text, encoder, size))
    words = [_words(passage.text) for passage in passages]
    if not any(words):
        return passages, None
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    return passages, index


def _ranked(index: Any, count: int, question: str) -> list[int]:
    asked = _words(question)
    if index is None or not asked:
        return list(range(count))
    scores = [float(score) for score in index.get_scores(asked)]
    return sorted(range(count), key=lambda number: (-scores[number], number))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def library() -> Any:
    """The package bm25s, imported as if there were no JAX.

    It would run a program on JAX's default device, which may be held by another process
    (a server on this machine).

    Raises:
      InputError: it is not installed.
    """
    if (loaded := sys.modules.get("bm25s")) is not None:
        return loaded
    missing = object()
    modules: dict[str, Any] = sys.modules
    names = ("jax", "jax.lax")
    held = {name: modules.get(name, missing) for name in names}
    try:
        modules.update(dict.fromkeys(names))
        import bm25s
    except ImportError as error:
        raise InputError(
            f"the baseline bm25 needs the bm25s package ({error}): pip install "
            "'gru_mem_jax[bm25]'"
        ) from None
    finally:
        for name, module in held.items():
            if module is missing:
                del modules[name]
            else:
                modules[name] = module
    return bm25s


def _chunks(text: str, encoder: Encoder, size: int) -> Iterator[Chunk]:
    for batch in chunk_batches(text, encoder, size):
        yield from batch
