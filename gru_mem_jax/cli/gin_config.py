"""Gin for the command line: T5X's flags, strict where gin is silent.

Gin accepts a misspelt macro, a binding that nothing reads and a value of any type.
Here each of these is an InputError of one line. Classes are registered under their
own names, so that `--gin.AgentConfig.chunk_size=500` needs no import; files use
`from __gin__ import dynamic_registration`.

Gin files are code: they import modules, also those beside them, and call what they
name.
"""

import argparse
import contextlib
import dataclasses
import os
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from gru_mem_jax.cli import gin_files, gin_imports, terminal
from gru_mem_jax.cli.gin_types import check_type
from gru_mem_jax.errors import GRUMemError, InputError
from gru_mem_jax.records import did_you_mean

T = TypeVar("T")
_Key = tuple[str, str]  # scope and selector

_SHOWN = 5


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
        self._built: set[_Key] = set()
        self._idle: dict[_Key, str] = {}  # what would be read, but for this setting
        self._unlinked: set[_Key] = set()
        self._flagged: set[_Key] = set()  # bound on the command line
        self._in_flags = False
        gin.clear_config(clear_constants=True)
        for cls in classes:
            if self._gin._inverse_lookup(cls) is None:
                gin.external_configurable(cls, module=cls.__module__)
        prefixes = [p for paths in search_paths for p in paths.split(",") if p]
        for prefix in prefixes:
            if not os.path.isdir(prefix):
                raise InputError(f"--gin_search_paths: {prefix} is not a folder")
        self._gin._LOCATION_PREFIXES[:] = ["", *prefixes, str(gin_files.SHIPPED)]
        self._gin._FILE_READERS[:] = [(gin_files.open_text, os.path.isfile)]
        gin_imports.start()
        with gin_imports.explained(self._gin), self._bindings_noted():
            for file in files:
                path = gin_files.find(file, self._gin._LOCATION_PREFIXES)
                with _explained(f"{file}: ", self._names):
                    self._gin.parse_config_file(path)
            self._in_flags = True
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
                inner = [*scope, field.name]
                reason = f"{name} is {_short(bound[field.name])}"
                self._replace(self._keys_of(value, inner), bound[field.name], reason)
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

        Those of a file whose reader another setting has replaced are let through and
        told, for a file that is included cannot be unsaid.

        Raises:
          InputError: naming the first such binding.
        """
        read = self._reached(self._built)
        reasons = {
            key: reason
            for start, reason in self._idle.items()
            for key in self._reached([start])
        }
        known = self._names()
        unused: dict[str, list[str]] = {}
        for key, parameters in self._gin._CONFIG.items():
            if key in read:
                continue
            name = _name_of(*key, next(iter(parameters), ""))
            if key not in reasons:
                hint = did_you_mean(name, [k for k in known if k != name])
                raise InputError(f"gin: nothing reads {name}{hint}")
            if key in self._flagged | self._unlinked:
                advice = "link it there" if key in self._unlinked else "leave it out"
                raise InputError(
                    f"gin: nothing reads {name}, for {reasons[key]}; {advice}"
                )
            names = [_name_of(*key, parameter) for parameter in parameters]
            unused.setdefault(reasons[key], []).extend(names)
        for reason, names in unused.items():
            shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
            terminal.note(f"note: {reason}; not used: {shown}")

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

    @contextlib.contextmanager
    def _bindings_noted(self) -> Iterator[None]:
        """While entered, keeps what later bindings replace, and what flags bind."""
        bind = self._gin.bind_parameter

        def noted(binding_key, value):
            parsed = self._gin.ParsedBindingKey.parse(binding_key)
            old = self._gin._CONFIG.get(parsed.config_key, {}).get(parsed.arg_name)
            bind(binding_key, value)
            if self._in_flags:
                self._flagged.add(parsed.config_key)
            if old is None or old == value:
                return
            name = _name_of(*parsed.config_key, parsed.arg_name)
            reason = f"{name} is {_short(value)}"
            for reference in self._references(old):
                self._replace(self._keys_behind(reference), value, reason)

        self._gin.bind_parameter = noted
        try:
            yield
        finally:
            self._gin.bind_parameter = bind

    def _replace(self, keys: Iterable[_Key], value: Any, reason: str) -> None:
        """Notes that what reads `keys` has given way to `value`."""
        kept = {selector for _, selector in self._keys_of(value, [])}
        for reference in self._references(value):
            kept |= {selector for _, selector in self._keys_behind(reference)}
        for key in keys:
            self._idle[key] = reason
            if key[1] in kept:  # of the same kind, but made without what is bound
                self._unlinked.add(key)

    def _keys_behind(self, reference: Any) -> Iterator[_Key]:
        """`_keys_of` what a reference will make, as far as its class tells."""
        scope, selector = reference.config_key
        yield scope, selector
        cls = reference.configurable.wrapped
        parts = scope.split("/") if scope else []
        for field in dataclasses.fields(cls) if _is_dataclass(cls) else ():
            yield from self._keys_of(_class_default(field), [*parts, field.name])

    def _keys_of(self, value: Any, scope: Sequence[str]) -> Iterator[_Key]:
        """Keys of the bindings that `build(value)` in this scope would read."""
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return
        known = self._gin._inverse_lookup(type(value))
        if known is not None:
            for depth in range(len(scope) + 1):
                yield "/".join(scope[:depth]), known.selector
        for field in dataclasses.fields(value):
            yield from self._keys_of(getattr(value, field.name), [*scope, field.name])

    def _reached(self, keys: Iterable[_Key]) -> set[_Key]:
        """All bindings that those of `keys` lead to, themselves among them."""
        config = self._gin._CONFIG
        read: set[_Key] = set()
        todo = list(keys)
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


def _name_of(scope: str, selector: str, parameter: str) -> str:
    """A binding as it is written; a macro is its scope."""
    if selector == "gin.macro":
        return scope
    short = selector.rsplit(".", 1)[-1]
    return (f"{scope}/{short}" if scope else short) + f".{parameter}"


def _short(value: Any) -> str:
    return terminal.shorten(repr(value), 80)


def _is_dataclass(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


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
        if isinstance(error, UnicodeDecodeError):
            text = f"not a gin file: no UTF-8 text, at byte {error.start}"
        prefix = "" if text.startswith(self._prefix) else self._prefix
        if isinstance(error, GRUMemError) and not prefix:
            return False
        for added in (" In bindings string line ", " In call to configurable "):
            text = text.split(added)[0].removesuffix(" ^")
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
        if "has no attribute" in text:
            return gin_imports.shadowed_hint(text)
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
