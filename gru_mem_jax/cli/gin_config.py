"""Gin for the command line: T5X's flags, strict where gin is silent.

Gin accepts a misspelt macro, a binding that nothing reads and a value of any type.
Here each of these is an InputError of one line. Classes are registered under their
own names, so that `--gin.AgentConfig.chunk_size=500` needs no import; files use
`from __gin__ import dynamic_registration`.

Gin files are code: they import modules and call what they name.
"""

import argparse
import dataclasses
import os
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from gru_mem_jax.cli.arguments import did_you_mean
from gru_mem_jax.errors import GRUMemError, InputError

T = TypeVar("T")

# The repository that the package is run from, if any: `gin/runs/sft.gin` is then
# found from every working directory.
_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


class GinConfig:
    """The parsed gin files and bindings of one command."""

    def __init__(
        self,
        classes: Iterable[type],
        files: Sequence[str] = (),
        bindings: Sequence[str] = (),
        search_paths: Sequence[str] = (),
    ):
        """Parses everything; what cannot be parsed is named.

        Args:
          classes: what bindings can name without an import.
          files: gin files, in order.
          bindings: statements "NAME = VALUE", after the files.
          search_paths: folders in which files and includes are looked for, after
            the working directory.

        Raises:
          InputError: a file that is not there, a syntax error, an unknown name.
        """
        import importlib.util  # noqa: F401  (gin uses it without importing it)

        import gin

        self._gin = gin.config
        self._built: set[tuple[str, str]] = set()  # (scope, selector)
        gin.clear_config(clear_constants=True)
        for cls in classes:
            if self._gin._inverse_lookup(cls) is None:
                gin.external_configurable(cls, module=cls.__module__)
        prefixes = [p for paths in search_paths for p in paths.split(",") if p]
        if (_CHECKOUT / "gin" / "runs").is_dir():
            prefixes.append(str(_CHECKOUT))
        for prefix in prefixes:
            if not os.path.isdir(prefix):
                raise InputError(f"--gin_search_paths: {prefix} is not a folder")
        self._gin._LOCATION_PREFIXES[:] = ["", *prefixes]
        self._gin._FILE_READERS[:] = [(_open_utf8, os.path.isfile)]
        for file in files:
            path = _find(file, self._gin._LOCATION_PREFIXES)
            with _explained(f"{file}: ", self._names):
                self._gin.parse_config_file(path)
        for binding in bindings:
            flag = "--gin." + binding.replace(" = ", "=", 1)
            with _explained(f"{flag}: ", self._names):
                self._gin.parse_config(binding)
        self._check_macros()

    def build(self, default: T) -> T:
        """`default`, a dataclass instance, with what gin binds on its class.

        Nested dataclasses are built likewise, whether or not a file links them, in a
        gin scope named after their field: `short_data/SyntheticConfig.seed = 1` is for
        that field alone, `SyntheticConfig.seed = 1` for all.

        Raises:
          InputError: a value of the wrong type or out of range.
        """
        cls = type(default)
        configurable = self._gin.get_configurable(cls)
        selector = self._gin._inverse_lookup(cls).selector
        scope = self._gin.current_scope()
        for depth in range(len(scope) + 1):
            self._built.add(("/".join(scope[:depth]), selector))
        with _explained(f"{cls.__name__}: ", self._names):
            bound = self._gin.get_bindings(cls)
        given = {}
        for field in dataclasses.fields(cls):
            value = getattr(default, field.name)
            if field.name in bound:
                name = f"{cls.__name__}.{field.name}"
                check_type(name, bound[field.name], _hints(cls, field))
                continue
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            if nested and self._gin._inverse_lookup(type(value)) is not None:
                with self._gin.config_scope(field.name):
                    value = self.build(value)
            if dataclasses.is_dataclass(value):
                given[field.name] = value
            elif value != _class_default(field):
                # Bound rather than given, so that the operative text has it.
                key = ("/".join(scope), selector, field.name)
                self._gin.bind_parameter(key, value)
        with _explained(f"{cls.__name__}: ", self._names):
            return configurable(**given)

    def build_field(self, name: str, default: T) -> T:
        """`build`, as where `default` is the field `name` of what is built later."""
        with self._gin.config_scope(name):
            return self.build(default)

    def check_all_read(self) -> None:
        """Refuses bindings that nothing built so far reads.

        Raises:
          InputError: naming the first such binding.
        """
        read = self._reached()
        known = self._names()
        for (scope, selector), parameters in self._gin._CONFIG.items():
            if (scope, selector) in read:
                continue
            name = scope
            if selector != "gin.macro":
                short = selector.rsplit(".", 1)[-1]
                name = f"{scope}/{short}" if scope else short
                name += "." + next(iter(parameters), "")
            hint = did_you_mean(name, [k for k in known if k != name])
            raise InputError(f"gin: nothing reads {name}{hint}")

    def check_macros_used(self) -> None:
        """Refuses macros that are set and that no binding at all refers to.

        Raises:
          InputError: naming the first such macro.
        """
        used = {ref.config_key for ref in self._references(self._gin._CONFIG)}
        for key in self._gin._CONFIG:
            if key[1] == "gin.macro" and key not in used:
                raise InputError(f"gin: nothing uses {key[0]}")

    def operative_text(self) -> str:
        """All settings in force, as a gin file that gives the same run."""
        return self._gin.operative_config_str()

    def _references(self, value: Any) -> Iterator[Any]:
        return self._gin.iterate_references({"": value})

    def _reached(self) -> set[tuple[str, str]]:
        """(scope, selector) of all bindings that what was built leads to."""
        config = self._gin._CONFIG
        read: set[tuple[str, str]] = set()
        todo = list(self._built)
        while todo:
            key = todo.pop()
            if key in read:
                continue
            read.add(key)
            for reference in self._references(config.get(key, {})):
                scope, selector = reference.config_key
                if selector == "gin.macro":
                    todo.append((scope, selector))
                    continue
                parts = scope.split("/") if scope else []
                todo += [
                    ("/".join(parts[:depth]), selector)
                    for depth in range(len(parts) + 1)
                ]
        return read

    def _check_macros(self) -> None:
        """Every macro in use is set, and none is still %gin.REQUIRED."""
        gin = self._gin
        missing = []
        for (scope, selector), parameters in gin._CONFIG.items():
            for name, value in parameters.items():
                for reference in self._references(value):
                    wrapped = reference.configurable.wrapped
                    if wrapped is gin.macro and reference.config_key not in gin._CONFIG:
                        macro = reference.config_key[0]
                        hint = did_you_mean(macro, self._macros())
                        raise InputError(f"gin: %{macro} is used but never set{hint}")
                    if (
                        wrapped is gin._retrieve_constant
                        and reference.scoped_configurable_fn() is gin.REQUIRED
                    ):
                        short = selector.rsplit(".", 1)[-1]
                        missing.append(
                            scope if selector == "gin.macro" else f"{short}.{name}"
                        )
        if missing:
            flags = " ".join(f"--gin.{name}=..." for name in sorted(set(missing)))
            raise InputError(f"gin: required settings are missing: {flags}")

    def _macros(self) -> list[str]:
        return [scope for scope, sel in self._gin._CONFIG if sel == "gin.macro"]

    def _names(self) -> list[str]:
        """All names that a binding could have: macros in use, and parameters."""
        gin = self._gin
        names = {
            ref.config_key[0]
            for ref in gin.iterate_references(gin._CONFIG)
            if ref.configurable.wrapped is gin.macro
        }
        for selector, item in gin._REGISTRY.items():
            if dataclasses.is_dataclass(item.wrapped):
                short = selector.rsplit(".", 1)[-1]
                names |= {f"{short}.{f.name}" for f in dataclasses.fields(item.wrapped)}
        return sorted(names)


def load(args: argparse.Namespace, classes: Iterable[type]) -> GinConfig:
    """The GinConfig of a command's parsed flags."""
    return GinConfig(classes, args.gin_file, args.gin_bindings, args.gin_search_paths)


def _open_utf8(path: str):
    return open(path, encoding="utf-8-sig")  # editors may put a byte order mark


def _find(file: str, prefixes: Sequence[str]) -> str:
    """The first existing `prefix/file`."""
    prefixes = [""] if os.path.isabs(file) else prefixes
    for prefix in prefixes:
        path = os.path.join(prefix, file)
        if os.path.isfile(path):
            return path
    names = set()
    for prefix in prefixes:
        folder = pathlib.Path(prefix, file).parent
        if folder.is_dir():
            names |= {p.name for p in folder.glob("*.gin")}
    where = ", ".join(prefix or "." for prefix in prefixes)
    raise InputError(
        f"--gin_file: no file {file}{did_you_mean(pathlib.Path(file).name, names)}"
        + ("" if os.path.isabs(file) else f"; looked in {where}")
    )


class _explained:
    """Turns what gin raises into an InputError of one line, with a suggestion."""

    def __init__(self, prefix: str, names):
        self._prefix = prefix
        self._names = names

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None or not isinstance(error, Exception):
            return False
        text = " ".join(str(error).split())
        prefix = "" if text.startswith(self._prefix) else self._prefix
        if isinstance(error, GRUMemError) and not prefix:
            return False
        for added in (" In bindings string line ", " In call to configurable "):
            text = text.split(added)[0]
        raise InputError(f"{prefix}{text}{self._hint(text, error)}") from error

    def _hint(self, text: str, error: Exception) -> str:
        words = text.split("'")
        if text.startswith("No configurable matching") and len(words) > 1:
            classes = {name.split(".")[0] for name in self._names() if "." in name}
            return did_you_mean(words[1].rsplit(".", 1)[-1].strip("@()"), classes)
        if "doesn't have a parameter named" in text and len(words) > 4:
            # Configurable 'X' doesn't have a parameter named 'y'.
            cls = words[1].rsplit(".", 1)[-1]
            fields = [n.split(".")[1] for n in self._names() if n.startswith(cls + ".")]
            return did_you_mean(words[-2], fields)
        if isinstance(error, SyntaxError) and self._prefix.startswith("--gin."):
            return "; a string needs quotes of its own: --gin.NAME='\"text\"'"
        return ""


def _hints(cls: type, field: dataclasses.Field) -> Any:
    try:
        return typing.get_type_hints(cls).get(field.name, Any)
    except (NameError, TypeError):
        return Any


def _class_default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def check_type(name: str, value: Any, hint: Any) -> None:
    """Checks a bound value against an annotation, as far as it is a simple one.

    Raises:
      InputError: naming what was expected.
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
