"""What callers in Python hand in: taken as it is meant, or refused in one line.

A message names the argument. Nothing is read here that need not be: a stream may be
endless, and a file is opened when its first piece is asked for.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gru_mem_jax.agent.text import check_text, open_context
from gru_mem_jax.errors import InputError

Context = str | os.PathLike[str] | Iterable[str]
Pair = tuple[str, Any]

_NUMBERS = (bool, int, float, complex)
_BYTES = (bytes, bytearray, memoryview)


def question_text(question: object, name: str = "the question") -> str:
    """A question, as a plain str.

    Raises:
      InputError: it is no text, is empty, or holds a lone surrogate.
    """
    if isinstance(question, _BYTES):
        raise InputError(f"{name} must be text, got {_kind(question)}; decode it first")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{name} must be text that is not empty, got {question!r:.80}")
    check_text(question, name)
    return str(question)


def context_pieces(context: object, name: str = "the context") -> str | Iterable[str]:
    """A context as text or an iterable of texts, not yet read.

    Text is itself; a path (any os.PathLike) stands for the text of that file, decoded
    as `text` says; anything else is iterated over, if its order and its items can be
    what is meant.

    Raises:
      InputError: it can be none of these: bytes, a mapping, a set, a number, None, a
        binary or closed file, an async iterable, a generator that has ended.
    """
    if isinstance(context, str):
        return context
    if isinstance(context, os.PathLike):
        return open_context(context)
    if (reason := _refusal(context)) is not None:
        raise InputError(
            f"{name} must be text, a path or an iterable of texts, got "
            f"{_kind(context)}{reason}"
        )
    return context


def _refusal(context: Any) -> str | None:
    """Why an object is no context: what to do, as the end of a message."""
    if isinstance(context, _BYTES):
        return ": decode it first"
    if isinstance(context, Mapping) or callable(getattr(context, "keys", None)):
        # A table of pandas is one, whose iteration gives the names of its columns.
        return ", which has keys: give the text of one of them"
    if isinstance(context, set | frozenset):
        return ", which has no order: give a list"
    if _has_ended(context):
        return " that has ended: make a new one"
    if is_async(context):
        return ", which is asynchronous: give it to answer_async or stream_async"
    if hasattr(context, "__await__"):
        return ": await it first"
    if isinstance(context, (type, *_NUMBERS)) or not (
        hasattr(context, "__iter__") or hasattr(context, "__getitem__")
    ):
        return ""
    if isinstance(context, io.IOBase):
        if context.closed:
            return " that is closed"
        if not isinstance(context, io.TextIOBase):
            return ", a binary file: open it as text, or give its pathlib.Path"
    return None


def is_async(iterable: object) -> bool:
    """Whether it can be iterated over by `async for`, and has not ended."""
    return hasattr(iterable, "__aiter__") and not _has_ended(iterable)


def _has_ended(generator: object) -> bool:
    frames = ("gi_frame", "ag_frame")
    return any(getattr(generator, name, generator) is None for name in frames) and (
        generator is not None
    )


def texts(pieces: str | Iterable[str], name: str = "the context") -> Iterator[str]:
    """The pieces of a context, each checked to be text when it comes.

    Raises:
      InputError: while iterating.
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

    An item is a pair, or has the two keys "question" and "context" and no other. The
    items of a list are all looked at before the first is given.

    Raises:
      InputError: at once if it is no such iterable; while iterating for an item that is
        neither, naming its place.
    """
    keyed = isinstance(questions, Mapping) or hasattr(questions, "keys")
    if keyed or isinstance(questions, (str, *_BYTES, set, frozenset)):
        reason = ""
    elif is_async(questions):
        reason = ", which is asynchronous: give it to answer_many_async"
    elif not (hasattr(questions, "__iter__") or hasattr(questions, "__getitem__")):
        reason = ""
    else:
        found = (pair(item, f"{name}[{i}]") for i, item in enumerate(questions))
        return iter(list(found)) if isinstance(questions, list | tuple) else found
    raise InputError(
        f"{name} must be an iterable of (question, context) pairs; got "
        f"{_kind(questions)}{reason}"
    )


def pair(item: Any, name: str) -> Pair:
    """An item of `pairs`."""
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
