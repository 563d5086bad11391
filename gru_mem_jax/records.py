"""Checks of configuration values (gin makes none), and dataclasses to and from JSON."""

import dataclasses
import difflib
import functools
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, SupportsFloat, TypeVar, overload

from gru_mem_jax.errors import InputError


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


D = TypeVar("D", bound=Dataclass)


def check_int(name: str, value: object, low: int, high: int | None = None) -> int:
    """An integer in [low, high], numpy's for instance, as a plain int.

    Raises:
      InputError: it is out of range, or not an integer: True and 3.0 are not.
    """
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InputError(f"{name} must be an integer {bounds}, got {shown(value)}")
    if number < low or (high is not None and number > high):
        raise InputError(f"{name} must be {bounds}, got {shown(number)}")
    return number


def check_number(name: str, value: object, low: float, high: float) -> int | float:
    """A finite number in [low, high] as a plain int or float.

    Raises:
      InputError: it is out of range, or not a number: True and NaN are not.
    """
    bounds = f"a number from {low:g} to {high:g}"
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{name} must be {bounds}, got {shown(value)}")
    if not low <= number <= high:  # so that NaN fails
        raise InputError(f"{name} must be {bounds}, got {shown(number)}")
    return number


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    # A numpy array would be compared item by item.
    if not isinstance(value, str) or value not in choices:
        raise InputError(
            f"{name} must be one of {', '.join(choices)}; got {shown(value)}"
        )


def check_bool(name: str, value: object) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {shown(value)}")


def plain(value: Any) -> Any:
    """A number, bool or text of another library as Python's own; others unchanged.

    np.int64(3) becomes 3, np.float32(0.5) and Fraction(1, 2) become 0.5, np.bool_(True)
    becomes True, and an array without dimensions the number that it holds.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    try:
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            return value.item()
        if isinstance(value, int | float | complex | str):
            return value
        if hasattr(value, "__index__"):
            return operator.index(value)
        if isinstance(value, numbers.Number) and isinstance(value, SupportsFloat):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    return value


def plain_numbers(config: Dataclass) -> None:
    """Makes the values of a frozen dataclass `plain`, those in its tuples too.

    Called by `__post_init__` before its checks, so that a configuration can be written
    as JSON and equals the one that is read back.
    """
    for field in dataclasses.fields(config):
        new = _plain_items(getattr(config, field.name))
        object.__setattr__(config, field.name, new)


def _plain_items(value: Any) -> Any:
    return tuple(map(_plain_items, value)) if type(value) is tuple else plain(value)


def shown(value: object) -> str:
    """A value as messages show it: short, and on one line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"  # repr may refuse it
    return " ".join(f"{value!r:.80}".split())


def cut(text: str, most: int) -> str:
    """Text of at most `most` characters, with "..." where it was longer."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a misspelt one; None: none is."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:  # the last part of a dotted name
        close = [k for k in known if k.lower().endswith("." + name.lower())]
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append to an error: the closest known name, or all of a few."""
    known = sorted(set(known))
    if (close := closest(name, known)) is not None:
        return f" (did you mean {close}?)"
    if known and len(known) <= 8:
        return f" (known: {', '.join(known)})"
    return ""


@overload
def to_record(value: Dataclass) -> dict[str, Any]: ...
@overload
def to_record(value: Any) -> Any: ...
def to_record(value: Any) -> Any:
    """A tree of dataclasses and tuples as JSON values (dicts and lists)."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_record(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [to_record(item) for item in value]
    if isinstance(value, dict):
        return {key: to_record(item) for key, item in value.items()}
    return value


def from_record(cls: type[D], record: object, where: str) -> D:
    """The dataclass that `to_record` made the record of; the inverse of `to_record`.

    Args:
      cls: a dataclass; the types of its fields are checked.
      record: a JSON object. Fields that have a default may be missing.
      where: what messages call the record.

    Raises:
      InputError: a field is unknown, missing or of another type, or the class refuses
        a value; names the field.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where} must be an object, got {type(record).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in record:
        if name not in fields:
            raise InputError(
                f"{where} has an unknown field {name!r}{did_you_mean(name, fields)}"
            )
    for name, field in fields.items():
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if required and name not in record:
            raise InputError(f"{where} has no field {name!r}")
    hints = _hints(cls)
    return cls(
        **{
            name: _convert(value, hints[name], f"{where}.{name}")
            for name, value in record.items()
        }
    )


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a class's fields, which take long to find."""
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as an object of the type hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_record(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (hint,) = (arg for arg in args if arg is not type(None))
        return _convert(value, hint, where)
    if origin is typing.Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(hints) == len(value):
            return tuple(_convert(item, h, where) for item, h in zip(value, hints))
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is (origin or hint):
        return value
    raise InputError(f"{where} must be {_describe(hint)}, got {value!r:.80}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return getattr(hint, "__name__", str(hint))


def first_difference(have: Any, want: Any, name: str = "") -> str | None:
    """The first difference between two trees of JSON values; None if they are equal.

    Numbers of different types differ, as 1 and 1.0. Example of a result:
    "learner.alpha is 0.9, expected 0.5".
    """
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        for key in sorted({*have, *want}):
            inner = f"{name}.{key}" if name else str(key)
            if key not in have:
                return f"{inner} is absent, expected {_value(want[key])}"
            if key not in want:
                return f"{inner} is {_value(have[key])}, expected absent"
            found = first_difference(have[key], want[key], inner)
            if found is not None:
                return found
        return None
    if isinstance(have, (list, tuple)) and isinstance(want, (list, tuple)):
        if len(have) != len(want):
            return f"{name} has {len(have)} elements, expected {len(want)}"
        for i, (a, b) in enumerate(zip(have, want)):
            found = first_difference(a, b, f"{name}[{i}]")
            if found is not None:
                return found
        return None
    if type(have) is type(want) and have == want:
        return None
    return f"{name} is {_value(have)}, expected {_value(want)}"


def _value(value: Any) -> str:
    bare = isinstance(value, str) and value and value.isprintable()
    return cut(value if bare else repr(value), 80)
