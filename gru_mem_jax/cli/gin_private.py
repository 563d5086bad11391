"""What gin keeps to itself and is needed here; nothing else in the package touches it.

gin has no public way to list its bindings, to find the name of a class, or to handle
statements one by one. tests/cli/test_gin_private.py says which names these are, and
fails where a new gin has changed them.
"""

import contextlib
import importlib.util  # noqa: F401  (gin uses it without importing it)
from collections.abc import Iterator
from typing import Any

from gin import config

Key = tuple[str, str]  # scope and selector


def bindings() -> dict[Key, dict[str, Any]]:
    """All bindings, parameter to value; to be read only. (`gin.config_str` is text.)"""
    return config._CONFIG


def selector_of(cls: type) -> str | None:
    """The full name under which a class's bindings are; None: gin does not know it."""
    known = config._inverse_lookup(cls)
    return None if known is None else known.selector


@contextlib.contextmanager
def file_scope() -> Iterator[config.ParseContext]:
    """While entered, names in bindings are those that one file imports.

    `gin.operative_config_str` repeats the file's imports, but for this package's: those
    that it needs it writes by itself.
    """
    with config._parse_scope() as context:
        yield context
    config._IMPORTS.update(
        statement
        for statement in context.imports
        if not statement.module.startswith("gru_mem_jax.")
    )
