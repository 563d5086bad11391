"""Gin for the command line: T5X's flags, strict where gin is silent.

Gin accepts a misspelt macro, a binding that nothing reads and a value of any type.
Here each of these is an InputError of one line. Classes have the public names of their
packages: `--gin.AgentConfig.chunk_size=500` needs no import; files use
`from __gin__ import dynamic_registration`, `from gru_mem_jax import agent` and
`agent.AgentConfig.chunk_size = 500`, as does the text of the operative settings.

Gin files are code: they import modules, also those beside them, and call the functions
that they name.
"""

import argparse
import contextlib
import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

import gin
from gin import config_parser, utils
from gru_mem_jax.cli import gin_files, gin_imports, gin_private, gin_readers, terminal
from gru_mem_jax.cli.gin_private import Key
from gru_mem_jax.cli.gin_readers import MACRO, references
from gru_mem_jax.cli.gin_types import check_type
from gru_mem_jax.errors import GRUMemError, InputError
from gru_mem_jax.records import did_you_mean, shown

T = TypeVar("T")

_DYNAMIC = "from __gin__ import dynamic_registration"
_SHOWN = 5


class GinConfig:
    """The parsed gin files and bindings of one command."""

    def __init__(
        self,
        classes: Iterable[type],
        files: Sequence[str] = (),
        bindings: Sequence[str] = (),
        search_paths: Sequence[str] = (),
        stand_ins: Mapping[str, Any] | None = None,
    ):
        """Parses all files and bindings.

        Args:
          classes: that bindings can name without an import.
          files: gin files, in order.
          bindings: statements "NAME = VALUE", after the files.
          search_paths: folders to search for files and includes, after the working
            directory.
          stand_ins: values of macros that are required and not set.

        Raises:
          InputError: a missing file, a syntax error, an unknown name.
        """
        self._classes = tuple(classes)
        self._built: set[Key] = set()
        self._idle: dict[Key, str] = {}  # not read because of this setting
        self._unlinked: set[Key] = set()
        self._flagged: set[Key] = set()  # bound on the command line
        self._in_flags = False
        self._folders = gin_files.search_folders(search_paths)
        _start(self._classes)
        gin_imports.start()
        for file in files:
            path = gin_files.find(file, self._folders)
            with self._explained(f"{file}: "):
                self._parse_file(path)
        self._in_flags = True
        for binding in bindings:
            with self._explained(f"--gin.{binding.replace(' = ', '=', 1)}: "):
                self._parse(binding)
        self._check_macros(stand_ins or {})

    def build(self, default: T) -> T:
        """`default`, a dataclass instance, with gin's bindings of its class.

        Nested dataclasses are built likewise, whether or not a file links them, in a
        gin scope named after their field: `short_data/SyntheticConfig.seed = 1` is for
        that field only, `SyntheticConfig.seed = 1` for all.

        Raises:
          InputError: a value of the wrong type or out of range.
        """
        cls = type(default)
        configurable = gin.get_configurable(cls)
        selector = gin_private.selector_of(cls)
        scope = gin.current_scope()
        self._built.update(gin_readers.keys_in(scope, selector))
        with self._explained(f"{cls.__name__}: "):
            bound = gin.get_bindings(cls)
        given = {}
        for field in dataclasses.fields(cls):
            value = getattr(default, field.name)
            if field.name in bound:
                name = f"{cls.__name__}.{field.name}"
                check_type(name, bound[field.name], _hints(cls, field))
                inner = gin_readers.keys_of(value, [*scope, field.name])
                reason = f"{name} is {shown(bound[field.name])}"
                self._replace(inner, bound[field.name], reason)
                continue
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            if nested and gin_private.selector_of(type(value)) is not None:
                with gin.config_scope(field.name):
                    value = self.build(value)
            if dataclasses.is_dataclass(value):
                given[field.name] = value
            elif value != gin_readers.default_of(field):
                # Bound rather than given, so that the operative text has it.
                key = ("/".join(scope), selector, field.name)
                gin.bind_parameter(key, value)
        with self._explained(f"{cls.__name__}: "):
            return configurable(**given)

    def build_field(self, name: str, default: T) -> T:
        """`build`, for the field `name` of an object that is built later."""
        with gin.config_scope(name):
            return self.build(default)

    def check_all_read(self) -> None:
        """Refuses bindings that nothing built so far reads.

        Bindings of a file whose reader another setting has replaced are only noted,
        because bindings of an included file cannot be removed.

        Raises:
          InputError: names the first such binding.
        """
        read = gin_readers.reached(self._built)
        reasons = {
            key: reason
            for start, reason in self._idle.items()
            for key in gin_readers.reached([start])
        }
        unused: dict[str, list[str]] = {}
        for key, parameters in gin_private.bindings().items():
            if key in read:
                continue
            name = _name_of(*key, next(iter(parameters), ""))
            if key not in reasons:
                hint = did_you_mean(name, self._names() - {name})
                raise InputError(f"gin: nothing reads {name}{hint}")
            if key in self._flagged | self._unlinked:
                advice = "link it there" if key in self._unlinked else "leave it out"
                raise InputError(
                    f"gin: nothing reads {name}, because {reasons[key]}; {advice}"
                )
            names = [_name_of(*key, parameter) for parameter in parameters]
            unused.setdefault(reasons[key], []).extend(names)
        for reason, names in unused.items():
            some = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
            terminal.note(f"note: {reason}; not used: {some}")

    def operative_text(self) -> str:
        """The operative settings, as a gin file that gives the same run."""
        return gin.operative_config_str()

    def _parse_file(self, path: str) -> None:
        with gin_files.open_text(path) as file:
            self._parse(file)

    def _parse(self, source: str | TextIO) -> None:
        delegate = gin.config.ParserDelegate()
        with gin_private.file_scope() as context:
            for statement in config_parser.ConfigParser(source, delegate):
                with utils.try_with_location(statement.location):
                    if isinstance(statement, config_parser.ImportStatement):
                        gin_imports.process(context, statement)
                    elif isinstance(statement, config_parser.IncludeStatement):
                        name = statement.filename
                        self._parse_file(gin_files.find(name, self._folders, "include"))
                    elif isinstance(statement, config_parser.BindingStatement):
                        self._bind(*statement[:4])

    def _bind(self, scope: str, selector: str, parameter: str, value: Any) -> None:
        """Binds; records replaced values, and bindings of flags."""
        if not parameter:  # a macro is bound to its name as a scope
            scope = f"{scope}/{selector}" if scope else selector
            selector, parameter = MACRO, "value"
        name = (scope, selector, parameter)
        key = gin.config.ParsedBindingKey.parse(name).config_key
        old = gin_private.bindings().get(key, {}).get(parameter)
        gin.bind_parameter(name, value)
        if self._in_flags:
            self._flagged.add(key)
        if old is not None and old != value:
            reason = f"{_name_of(*key, parameter)} is {shown(value)}"
            for reference in references(old):
                self._replace(gin_readers.keys_behind(reference), value, reason)

    def _replace(self, keys: Iterable[Key], value: Any, reason: str) -> None:
        """Records that the reader of `keys` was replaced by `value`."""
        kept = {selector for _, selector in gin_readers.keys_of(value, [])}
        for reference in references(value):
            kept |= {selector for _, selector in gin_readers.keys_behind(reference)}
        for key in keys:
            self._idle[key] = reason
            if key[1] in kept:  # of the same class, but without these bindings
                self._unlinked.add(key)

    def _check_macros(self, stand_ins: Mapping[str, Any]) -> None:
        """Checks that all macros in use are set, and none to %gin.REQUIRED."""
        bindings = gin_private.bindings()
        missing = set()
        for key, parameters in bindings.items():
            for parameter, value in parameters.items():
                for scope, selector in (ref.config_key for ref in references(value)):
                    if selector == MACRO and (scope, selector) not in bindings:
                        macros = [scope for scope, name in bindings if name == MACRO]
                        hint = did_you_mean(scope, macros)
                        raise InputError(f"gin: %{scope} is used but never set{hint}")
                    if (scope, selector) == ("gin.REQUIRED", "gin.constant"):
                        missing.add(_name_of(*key, parameter))
        for name in sorted(missing & stand_ins.keys()):
            self._bind("", name, "", stand_ins[name])
        missing -= stand_ins.keys()
        if missing:
            flags = " ".join(f"--gin.{name}=..." for name in sorted(missing))
            raise InputError(f"gin: required settings are missing: {flags}")

    def _names(self) -> set[str]:
        """All possible names of bindings: macros in use, and parameters."""
        bindings = gin_private.bindings()
        names = {
            scope
            for scope, selector in (ref.config_key for ref in references(bindings))
            if selector == MACRO
        }
        bound = [gin.get_configurable(selector) for _, selector in bindings]
        for cls in {*self._classes, *filter(dataclasses.is_dataclass, bound)}:
            names |= {f"{cls.__name__}.{f.name}" for f in dataclasses.fields(cls)}
        return names

    @contextlib.contextmanager
    def _explained(self, prefix: str) -> Iterator[None]:
        """Converts gin's errors to an InputError of one line, with a suggestion."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())
            if isinstance(error, UnicodeDecodeError):
                text = f"not a gin file: no UTF-8 text, at byte {error.start}"
            prefix = "" if text.startswith(prefix) else prefix
            if isinstance(error, GRUMemError) and not prefix:
                raise
            for added in (" In bindings string line ", " In call to configurable "):
                text = text.split(added)[0].removesuffix(" ^")
            hint = self._hint(text, prefix, error)
            raise InputError(f"{prefix}{text}{hint}") from error

    def _hint(self, text: str, prefix: str, error: Exception) -> str:
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
        if isinstance(error, SyntaxError) and prefix.startswith("--gin."):
            return "; a string needs quotes of its own: --gin.NAME='\"text\"'"
        return ""


def load(
    args: argparse.Namespace,
    classes: Iterable[type],
    stand_ins: Mapping[str, Any] | None = None,
) -> GinConfig:
    """The GinConfig of a command's parsed flags; see `GinConfig`."""
    flags = (args.gin_file, args.gin_bindings, args.gin_search_paths)
    return GinConfig(classes, *flags, stand_ins)


def _start(classes: Iterable[type]) -> None:
    """Clears all bindings; registers classes by their package's public names."""
    gin.clear_config(clear_constants=True)
    for cls in classes:
        parts = cls.__module__.split(".")
        *above, name = parts[:2] if parts[0] == "gru_mem_jax" else parts
        start = f"from {'.'.join(above)} " if above else ""
        gin.parse_config(
            [_DYNAMIC, f"{start}import {name}", f"known = @{name}.{cls.__name__}"]
        )
    gin.clear_config()
    gin.parse_config(_DYNAMIC)  # of the operative text


def _name_of(scope: str, selector: str, parameter: str) -> str:
    """The name of a binding in a gin file; a macro's is its scope."""
    if selector == MACRO:
        return scope
    short = selector.rsplit(".", 1)[-1]
    return (f"{scope}/{short}" if scope else short) + f".{parameter}"


def _hints(cls: type, field: dataclasses.Field) -> Any:
    try:
        return typing.get_type_hints(cls).get(field.name, Any)
    except (NameError, TypeError):
        return Any
