"""The private names of gin that are used; no other module uses any.

gin has no public way to list its bindings, to find the name of a class, or to handle
statements one by one. tests/cli/test_gin_private.py lists these names, and fails if a
new version of gin changes them.
"""

import contextlib
import importlib.util  # noqa: F401  (gin uses it without importing it)
from collections.abc import Iterator
from typing import Any

from gin import config

Key = tuple[str, str]  # scope and selector


def bindings() -> dict[Key, dict[str, Any]]:
    """All bindings, parameter to value; read-only. (`gin.config_str` is text.)"""
    return config._CONFIG


def selector_of(cls: type) -> str | None:
    """The full name of a class in bindings; None: gin does not know it."""
    known = config._inverse_lookup(cls)
    return None if known is None else known.selector


@contextlib.contextmanager
def file_scope() -> Iterator[config.ParseContext]:
    """While entered, names in bindings are those that one file imports.

    `gin.operative_config_str` repeats the file's imports, except this package's, which
    it writes itself if they are needed.
    """
    with config._parse_scope() as context:
        yield context
    config._IMPORTS.update(
        statement
        for statement in context.imports
        if not statement.module.startswith("gru_mem_jax.")
    )
