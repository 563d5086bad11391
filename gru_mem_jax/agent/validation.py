"""Checks of configuration values (gin makes none), and dataclasses to JSON and back."""

import dataclasses
import difflib
import math
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gru_mem_jax.agent.text import check_text
from gru_mem_jax.errors import InputError

T = TypeVar("T")


def check_int(name: str, value: object, low: int, high: int | None = None) -> int:
    """An integer in [low, high] as a plain int, whatever library it is of.

    Raises:
      InputError: it is none; a bool and 3.0 are not.
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
      InputError: it is none; a bool is not.
    """
    bounds = f"a number from {low:g} to {high:g}"
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{name} must be {bounds}, got {shown(value)}")
    if not low <= number <= high:  # not a number is neither
        raise InputError(f"{name} must be {bounds}, got {shown(number)}")
    return number


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    # A numpy array would be compared item by item.
    if not isinstance(value, str) or value not in choices:
        raise InputError(
            f"{name} must be one of {', '.join(choices)}; got {shown(value)}"
        )


def plain(value: Any) -> Any:
    """A number, bool or text of another library as Python's own; else the value.

    np.int64(3) is 3, np.float32(0.5) is 0.5, np.bool_(True) is True, Fraction(1, 2) and
    Decimal("0.5") are 0.5; arrays without dimensions count as what they hold.
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
        if isinstance(value, numbers.Number):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    return value


def plain_numbers(config: Any) -> None:
    """Makes the values of a frozen dataclass `plain`, those in its tuples too.

    For `__post_init__`, before the checks: what a configuration holds can then be
    written as JSON, and is equal to what is read back.
    """
    for field in dataclasses.fields(config):
        new = _plain_items(getattr(config, field.name))
        object.__setattr__(config, field.name, new)


def _plain_items(value: Any) -> Any:
    return tuple(map(_plain_items, value)) if type(value) is tuple else plain(value)


def shown(value: object) -> str:
    """A value in a message: short, and on one line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"  # repr may refuse it
    return " ".join(f"{value!r:.80}".split())


_RESERVED = ("messages", "add_generation_prompt", "tools", "documents")


def check_variables(name: str, value: object) -> dict[str, Any]:
    """A copy of what a chat template is told, by name.

    Raises:
      InputError: it is no mapping of names to JSON scalars, or a name is taken.
    """
    if not isinstance(value, Mapping):
        raise InputError(
            f"{name} must map names to values, such as "
            f'{{"enable_thinking": false}}; got {value!r:.80}'
        )
    values = {key: plain(item) for key, item in value.items()}
    for key, item in values.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise InputError(f"{name}: {key!r:.80} cannot be the name of a variable")
        if key in _RESERVED:
            raise InputError(f"{name}: {key} is given by the prompts themselves")
        scalar = isinstance(item, (str, int, float, bool, types.NoneType))
        if not scalar or (isinstance(item, float) and not math.isfinite(item)):
            raise InputError(
                f"{name}: {key} must be a finite number, text, true, false or none; "
                f"got {item!r:.80}"
            )
        if isinstance(item, str):
            check_text(item, f"{name}: {key}")
    return values


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" if some known name is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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


def from_record(cls: type[T], record: object, where: str) -> T:
    """The dataclass that `to_record` made the record of, strict about all types.

    Fields that have a default may be missing.

    Raises:
      InputError: naming the place: unknown or missing field, wrong type, or a value
        that the class refuses.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where} must be an object, got {type(record).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in record:
        if name not in fields:
            raise InputError(
                f"{where} has an unknown field {name!r}{suggestion(name, fields)}"
            )
    for name, field in fields.items():
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if required and name not in record:
            raise InputError(f"{where} has no field {name!r}")
    hints = typing.get_type_hints(cls)
    return cls(
        **{
            name: _convert(value, hints[name], f"{where}.{name}")
            for name, value in record.items()
        }
    )


def _convert(value: Any, hint: Any, where: str) -> Any:
    """The JSON value as what the type hint says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
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
