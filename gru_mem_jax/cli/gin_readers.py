"""Which bindings are read when an object is built or a reference resolved."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gin import config
from gru_mem_jax.cli import gin_private
from gru_mem_jax.cli.gin_private import Key

MACRO = "gin.macro"


def references(value: Any) -> Iterator[config.ConfigurableReference]:
    """All `@Name()` and `%NAME` within a bound value, or a mapping of values."""
    return config.iterate_references({"": value})


def keys_in(scope: Sequence[str], selector: str) -> list[Key]:
    """Keys of the bindings that a class reads in a scope, the outer scopes' first."""
    return [("/".join(scope[:depth]), selector) for depth in range(len(scope) + 1)]


def keys_of(value: Any, scope: Sequence[str]) -> Iterator[Key]:
    """Keys of the bindings that `GinConfig.build(value)` reads in a scope."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return
    selector = gin_private.selector_of(type(value))
    if selector is not None:
        yield from keys_in(scope, selector)
    for field in dataclasses.fields(value):
        yield from keys_of(getattr(value, field.name), [*scope, field.name])


def keys_behind(reference: config.ConfigurableReference) -> Iterator[Key]:
    """`keys_of` the object that a reference makes, judged by its class."""
    scope, selector = reference.config_key
    yield scope, selector
    cls = reference.configurable.wrapped
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            yield from keys_of(default_of(field), [*_parts(scope), field.name])


def reached(keys: Iterable[Key]) -> set[Key]:
    """The given bindings, and all that reading them leads to."""
    bindings = gin_private.bindings()
    read: set[Key] = set()
    todo = list(keys)
    while todo:
        key = todo.pop()
        if key in read:
            continue
        read.add(key)
        for reference in references(bindings.get(key, {})):
            scope, selector = reference.config_key
            if selector == MACRO:
                todo.append((scope, selector))
            else:
                todo += keys_in(_parts(scope), selector)
    return read


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass field; MISSING: none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _parts(scope: str) -> list[str]:
    return scope.split("/") if scope else []
