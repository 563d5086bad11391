"""Checks of single configuration values; their messages name the value."""

import math
from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.records import shown


def check_number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    integer: bool = False,
    open_low: bool = False,
) -> None:
    """Raises PolicyError unless `value` is a finite number within [low, high].

    Bools and strings are not numbers here; with `integer`, neither is 1.5 or 8.0.
    `open_low` excludes `low` itself.
    """
    kind = "an integer" if integer else "a number"
    allowed = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise PolicyError(f"{name} must be {kind}, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise PolicyError(f"{name} must be finite, got {value}")
    if low is not None and (value < low or (open_low and value == low)):
        bound = "above" if open_low else "at least"
        raise PolicyError(f"{name} must be {bound} {low}, got {shown(value)}")
    if high is not None and value > high:
        raise PolicyError(f"{name} must be at most {high}, got {shown(value)}")


def check_bool(name: str, value: Any) -> None:
    """Raises PolicyError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise PolicyError(f"{name} must be true or false, got {shown(value)}")


def check_divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raises PolicyError unless `divisor` divides `value`."""
    if value % divisor:
        raise PolicyError(
            f"{name} must be a multiple of {divisor_name}, got {value} and {divisor}"
        )
