"""Questions and contexts as callers give them, checked.

Messages name the argument. Nothing is read before it is needed: a stream may be
endless, and a file is opened when its first piece is asked for.
"""

import io
import os
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from gru_mem_jax.agent.text import check_text, open_context
from gru_mem_jax.errors import InputError

Context = str | os.PathLike[str] | Iterable[str]
Pair = tuple[str, Any]

_NUMBERS = (bool, int, float, complex)
_BYTES = (bytes, bytearray, memoryview)


def question_text(question: object, name: str = "the question") -> str:
    """A question, as a plain str.

    Raises:
      InputError: it is not text, is empty, or holds a lone surrogate.
    """
    if isinstance(question, _BYTES):
        raise InputError(f"{name} must be text, got {_kind(question)}; decode it first")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{name} must be text that is not empty, got {question!r:.80}")
    check_text(question, name)
    return str(question)


def context_pieces(context: object, name: str = "the context") -> str | Iterable[str]:
    """A context as text or an iterable of texts, not yet read.

    A path (any os.PathLike) stands for the text of its file, decoded by `agent.text`.

    Raises:
      InputError: it is neither text, nor a path, nor an iterable of texts in order:
        bytes, a mapping, a set, a number, None, a binary or closed file, an
        asynchronous iterable, a generator that has ended.
    """
    if isinstance(context, str):
        return context
    if isinstance(context, os.PathLike):
        return open_context(context)
    reason = _refusal(context)
    if reason is None and _is_iterable(context):
        return context
    raise InputError(
        f"{name} must be text, a path or an iterable of texts, got "
        f"{_kind(context)}{reason or ''}"
    )


def _refusal(context: Any) -> str | None:
    """Why an object is not a context: what to do, as the end of a message."""
    if isinstance(context, _BYTES):
        return ": decode it first"
    if isinstance(context, Mapping) or callable(getattr(context, "keys", None)):
        # Also a table of pandas, whose iteration gives the names of its columns.
        return ", which has keys: give the text of one of them"
    if isinstance(context, set | frozenset):
        return ", which has no order: give a list"
    if _has_ended(context):
        return " that has ended: make a new one"
    if is_async(context):
        return ", which is asynchronous: give it to answer_async or stream_async"
    if hasattr(context, "__await__"):
        return ": await it first"
    if isinstance(context, (type, *_NUMBERS)):
        return ""
    if isinstance(context, io.IOBase):
        if context.closed:
            return " that is closed"
        if not isinstance(context, io.TextIOBase):
            return ", a binary file: open it as text, or give its pathlib.Path"
    return None


def is_async(value: object) -> TypeGuard[AsyncIterable[Any]]:
    """Whether it can be iterated over by `async for`, and has not ended."""
    return hasattr(value, "__aiter__") and not _has_ended(value)


def _is_iterable(value: object) -> TypeGuard[Iterable[Any]]:
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def _has_ended(generator: object) -> bool:
    frames = ("gi_frame", "ag_frame")
    return any(getattr(generator, name, generator) is None for name in frames) and (
        generator is not None
    )


def texts(pieces: str | Iterable[str], name: str = "the context") -> Iterator[str]:
    """The pieces of a context, each checked as it is taken.

    Raises:
      InputError: while iterating: a piece is not text.
    """
    if isinstance(pieces, str):
        yield str(pieces)
        return
    try:
        iterator = iter(pieces)
    except TypeError as error:  # a numpy array without dimensions says so only here
        raise InputError(f"{name} cannot be iterated over: {error}") from None
    for number, piece in enumerate(iterator):
        if not isinstance(piece, str):
            raise InputError(
                f"{name} must be text or an iterable of texts, got a piece of type "
                f"{type(piece).__name__} (number {number}); {_remedy(piece)}"
            )
        yield piece


def _remedy(piece: object) -> str:
    if isinstance(piece, _BYTES):
        return "decode bytes first, or open the file as text"
    if isinstance(piece, os.PathLike):
        return "give one path, or the files' texts"
    return "give strings"


def pairs(questions: object, name: str = "questions") -> Iterator[Pair]:
    """The (question, context) pairs of an iterable, taken one by one.

    An item is a pair, or a mapping with the keys "question" and "context" alone. The
    items of a list are all checked before the first is given.

    Raises:
      InputError: at once if `questions` cannot be such an iterable; while iterating if
        an item is neither, with its place.
    """
    keyed = isinstance(questions, Mapping) or hasattr(questions, "keys")
    if keyed or isinstance(questions, (str, *_BYTES, set, frozenset)):
        reason = ""
    elif is_async(questions):
        reason = ", which is asynchronous: give it to answer_many_async"
    elif not _is_iterable(questions):
        reason = ""
    else:
        found = (pair(item, f"{name}[{i}]") for i, item in enumerate(questions))
        return iter(list(found)) if isinstance(questions, list | tuple) else found
    raise InputError(
        f"{name} must be an iterable of (question, context) pairs; got "
        f"{_kind(questions)}{reason}"
    )


def pair(item: Any, name: str) -> Pair:
    """One item of `pairs`, which messages call `name`."""
    wanted = ("question", "context")
    if isinstance(item, Mapping) or callable(getattr(item, "keys", None)):
        names = list(item.keys())
        if odd := [key for key in names if key not in wanted]:
            raise InputError(
                f"{name} has an unknown key {odd[0]!r}; it has question and context"
            )
        if missing := [key for key in wanted if key not in names]:
            raise InputError(f"{name} has no {missing[0]!r}")
        return item["question"], item["context"]
    fits = hasattr(item, "__len__") and hasattr(item, "__getitem__")
    if isinstance(item, (str, *_BYTES)) or not fits or len(item) != 2:
        length = f" of length {len(item)}" if hasattr(item, "__len__") else ""
        raise InputError(
            f"{name} must be a (question, context) pair, or a dict of the two; got "
            f"{_kind(item)}{length}"
        )
    return item[0], item[1]


def _kind(value: object) -> str:
    """What a value is, in a message."""
    if value is None:
        return "None"
    if isinstance(value, _NUMBERS):
        return f"{value!r:.40}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return type(value).__name__
