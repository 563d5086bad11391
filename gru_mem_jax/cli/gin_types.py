"""Checks values that gin binds against annotations."""

import dataclasses
import types
import typing
from typing import Any

from gru_mem_jax.errors import InputError


def check_type(name: str, value: Any, hint: Any) -> None:
    """Checks a bound value against an annotation, if that is a simple one.

    Raises:
      InputError: names the expected type.
    """
    if not _fits(value, hint):
        raise InputError(
            f"{name}: expected {_describe(hint)}, got {type(value).__name__} {value!r}"
        )


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple and args:
        if not isinstance(value, (tuple, list)):
            return False
        if len(args) == 2 and args[1] is ...:
            return all(_fits(v, args[0]) for v in value)
        return len(args) == len(value) and all(map(_fits, value, args))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (None, type(None)):
        return value is None
    if hint in (str, bool) or dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    return True


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, args))
    if hint is type(None):
        return "None"
    return getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
