"""Argument parsing with one-line errors and "did you mean"."""

import argparse
import json
import os
import pathlib
import re
import typing
from collections.abc import Callable, Sequence

from gru_mem_jax.agent.config import FORMATS
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import closest, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises InputError instead of printing its usage."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def flags(self) -> list[str]:
        """All long flags that this parser knows, and those of its subcommands."""
        found = [s for s in self._option_string_actions if s.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += (f for sub in action.choices.values() for f in sub.flags())
        return list(dict.fromkeys(found))

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            name = action.option_strings[-1] if action.option_strings else action.dest
            choices = [str(choice) for choice in action.choices]
            close = closest(str(value), choices)
            hint = close and f"did you mean {close}?"
            hint = hint or f"choose from {', '.join(choices)}"
            raise InputError(f"{name}: unknown value {value!r} ({hint})")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses all of `argv`.

        Raises:
          InputError: an unknown flag, a missing or unusable value.
        """
        args, extra = self.parse_known_args(argv)
        for word in extra:
            flag = word.split("=", 1)[0]
            if flag.startswith("-") and flag != "-":
                raise InputError(
                    f"unknown flag {flag}{did_you_mean(flag, self.flags())}; "
                    f"see {self.prog} --help"
                )
        if extra:
            raise InputError(
                f"unexpected argument {extra[0]!r}; see {self.prog} --help"
            )
        return args


def integer(*, least: int | None = None):
    """A flag type: an integer of at least `least`."""

    def convert(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if least is not None and value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return convert


def steps(text: str) -> tuple[int, int]:
    """A flag type: numbers of steps, `A:B`, both included."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected A:B, such as 5:6, got {text!r}")
    if not 1 <= int(first) <= int(last):
        raise argparse.ArgumentTypeError(f"{text!r} holds no step; the first step is 1")
    return int(first), int(last)


def number(*, above: float | None = None):
    """A flag type: a finite number, greater than `above`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise argparse.ArgumentTypeError(f"must be finite, got {text}")
        if above is not None and value <= above:
            raise argparse.ArgumentTypeError(f"must be above {above:g}, got {text}")
        return value

    return convert


def template_variable(text: str) -> tuple[str, object]:
    """A flag type: NAME=VALUE, the value JSON (false, 0.5, "text") or plain text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(
            f"expected NAME=VALUE, such as enable_thinking=false, got {text!r}"
        )
    lowered = {"True": "true", "False": "false", "None": "null"}.get(value, value)
    try:
        return name, json.loads(lowered)
    except (ValueError, RecursionError):
        return name, value


def add_template_variables(add: Callable[..., object]) -> None:
    """Adds --template_variable to a parser or a group, by its `add_argument`."""
    add(
        "--template_variable",
        type=template_variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the chat template, e.g. enable_thinking=false; may be "
        "given several times",
    )


FORM_SETTINGS = ("format", "thought_tokens", "update_threshold", "exit_threshold")


def add_form_flags(add: Callable[..., object]) -> None:
    """Adds the flags of FORM_SETTINGS, which are settings of AgentConfig."""
    add(
        "--format",
        choices=FORMATS,
        help="turns as the policy writes them, or constrained to their form token by "
        "token, so that any policy gives gates and an answer",
    )
    add(
        "--thought_tokens",
        type=integer(least=1),
        metavar="N",
        help="a constrained turn's budget for its thought",
    )
    for gate, opens in (("update", "yes"), ("exit", "end")):
        add(
            f"--{gate}_threshold",
            type=number(),
            metavar="P",
            help=f"the {gate} gate of a constrained turn opens if P({opens}) is at "
            "least P; default: it is drawn",
        )


def form_settings(args: argparse.Namespace) -> dict[str, object]:
    """The settings that flags of `add_form_flags` give."""
    given = {name: getattr(args, name) for name in FORM_SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


def add_json(add: Callable[..., object], what: str) -> None:
    """Adds --json to a parser or a group, by its `add_argument`."""
    add(
        "--json",
        type=os.path.expanduser,
        metavar="OUT",
        help=f"write {what} as JSON; - for stdout",
    )


def path(text: str) -> str:
    """A flag type: a path; "~" is the home directory, also after "=" in a word."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return os.path.expanduser(text)


def check_folder(flag: str, path: str | pathlib.Path, *, new: bool = False) -> None:
    """Refuses a folder that cannot be created or written into; creates nothing.

    Args:
      flag: for the message.
      path: the folder.
      new: whether it must not exist yet, or be empty.

    Raises:
      InputError: with the reason.
    """
    if str(path).startswith("gs://"):
        raise InputError(f"{flag}: {path} is in a bucket, expected a folder on a disk")
    folder = pathlib.Path(path)
    try:
        if new and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{flag}: {path} is not empty; nothing is overwritten")
        while not folder.exists():
            if folder.is_symlink():
                raise InputError(f"{flag}: {folder} is a dangling link")
            folder = folder.absolute().parent
    except OSError as error:
        raise InputError(f"{flag}: {path}: {error.strerror}") from None
    if not folder.is_dir():
        raise InputError(f"{flag}: {folder} is a file, expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{flag}: {path} cannot be written: no permission in {folder}")


_GIN_FLAG = re.compile(r"--gin\.([^=]*)(?:=(.*))?", re.DOTALL)


def split_gin_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` and `--gin.NAME VALUE` out of `argv`.

    Returns:
      The other arguments, and the bindings as gin statements "NAME = VALUE".
    """
    rest, bindings = [], []
    words = iter(argv)
    for word in words:
        match = _GIN_FLAG.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        name, value = match.groups()
        if value is None:
            value = next(words, None)
        if not name or value is None or not value.strip():
            raise InputError(f"{word}: write --gin.NAME=VALUE")
        bindings.append(f"{name} = {value}")
    return rest, bindings


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every gin-configured command has."""
    group = add_gin_bindings(parser)
    group.add_argument(
        "--gin_file",
        action="append",
        type=path,
        default=[],
        metavar="FILE",
        help="gin file to read; may be given several times, later ones win",
    )
    group.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIR[,DIR]",
        help="folders to search for gin files and their includes",
    )


def add_gin_bindings(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds only --gin.NAME, for a command with its own gin files."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--gin.NAME",
        dest="gin_example",
        default=argparse.SUPPRESS,
        metavar="VALUE",
        help="one gin binding, e.g. --gin.NUM_STEPS=100 or "
        "--gin.LoopConfig.seed=1; wins over files",
    )
    return group


def add_host_flags(add: Callable[..., object]) -> None:
    """Adds the flags of a command that runs in several processes, one for each host."""
    add(
        "--distributed",
        action="store_true",
        help="one process of several: TPU metadata, Kubernetes or Slurm say which",
    )
    add(
        "--coordinator",
        type=_address,
        metavar="HOST:PORT",
        help="one process of several, of which the first can be reached here",
    )
    add("--num_processes", type=integer(least=1), metavar="N", help="how many they are")
    add("--process_id", type=integer(least=0), metavar="I", help="this one's, from 0")
    add(
        "--heartbeat_seconds",
        type=number(above=0),
        metavar="S",
        help="a process that shows no sign of life for so long is lost, and ends the "
        "others (default 30)",
    )


def check_host_flags(args: argparse.Namespace) -> bool:
    """Whether this process is one of several.

    Raises:
      InputError: flags of `add_host_flags` do not go together.
    """
    given = {"--num_processes": args.num_processes, "--process_id": args.process_id}
    if args.coordinator is None:
        for flag, value in given.items():
            if value is not None:
                raise InputError(f"{flag} needs --coordinator HOST:PORT")
        if args.heartbeat_seconds is not None and not args.distributed:
            raise InputError("--heartbeat_seconds needs --distributed or --coordinator")
        return bool(args.distributed)
    if args.distributed:
        raise InputError("--distributed finds the coordinator: leave out --coordinator")
    for flag, value in given.items():
        if value is None:
            raise InputError(f"--coordinator needs {flag}")
    if args.process_id >= args.num_processes:
        raise InputError(
            f"--process_id {args.process_id}: processes are numbered from 0 to "
            f"{args.num_processes - 1} (--num_processes {args.num_processes})"
        )
    return True


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return text


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every command has."""
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
