"""Make a set of questions on long documents.

Every length asks the same questions, and a shorter document is a part of the longer.
Equal settings give equal bytes. The same command continues a build that was
interrupted; a folder that holds the set already stays as it is.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gru_mem_jax.cli import arguments, signals, terminal
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean

if TYPE_CHECKING:
    from gru_mem_jax.data.builders import Length, Progress

_UNITS = ("documents", "tokens", "chunks")
# What is in the namespace besides a recipe's settings.
_OTHERS = (*_UNITS, "name", "out", "tokenizer", "what", "debug", "gin_bindings")
_FLAGS = {"sources": "--source", "encoder": "--tokenizer", "lengths": "--documents"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    from gru_mem_jax.data.builders.registry import RECIPES

    add = parser.add_argument
    count = arguments.integer(least=1)
    text = {"metavar": "NAME"}
    add("name", metavar="NAME", choices=RECIPES, help=", ".join(RECIPES))
    add(
        "--out",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="folder to make",
    )
    add(
        "--source",
        dest="sources",
        type=arguments.path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="official files, or your own; questions are of the first",
    )
    for unit in _UNITS:
        add(f"--{unit}", type=_counts, metavar="N[,N]", help=f"lengths in {unit}")
    add(
        "--num_questions",
        type=count,
        metavar="Q",
        help="at each length; default 128, of jsonl all",
    )
    add("--seed", type=arguments.integer(least=0), metavar="S", help="default 0")
    add(
        "--tokenizer",
        type=arguments.path,
        metavar="DIR",
        help="of a policy; for lengths in tokens and chunks",
    )
    add("--chunk_size", type=count, metavar="N", help="tokens of a chunk")
    add("--on_bad_record", metavar="error|skip", help="default error")
    add = parser.add_argument_group("settings of some recipes").add_argument
    add(
        "--evidence_position",
        metavar="WHERE",
        help="uniform (default), first_20, last_20 or spread",
    )
    add(
        "--bridge_gap",
        type=arguments.integer(),
        metavar="G",
        help="long_*: chunks by which what is needed first lies after what it points "
        "to; negative: before it",
    )
    add("--distractors", metavar="own_first|others", help="long_*: other paragraphs")
    add(
        "--repeat_distractors",
        action="store_true",
        default=None,
        help="long_*: again where the files have too few",
    )
    add("--form", metavar="numbered|plain", help="long_*: how paragraphs are written")
    add("--aliases", metavar="FILE", help="long_2wiki: its id_aliases.json")
    add(
        "--questions_per_document",
        type=count,
        metavar="Q",
        help="ruler's needles, long_squad: so many questions in a row are on one "
        "document; default 1",
    )
    add("--scoring", **text, help="long_*: of the answers (docs/data.md)")
    add("--task", **text, help="ruler, babilong: the task, such as niah_single_1")
    add("--haystack", metavar="FILE", help="a text, or noise or needles (ruler)")
    add(
        "--haystack_start",
        metavar="first|random",
        help="ruler: the sentence of the text that documents begin with; default first",
    )
    add("--words", type=arguments.path, metavar="FILE", help="ruler, cwe: of its words")
    add("--keys", metavar="KIND", help="ruler: words, numbers or uuids")
    add("--values", metavar="KIND", help="ruler: words, numbers or uuids")
    add("--num_keys", type=count, metavar="N", help="ruler: in the document")
    add("--num_values", type=count, metavar="N", help="ruler: of each key")
    add("--num_queries", type=count, metavar="N", help="ruler: keys in a question")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli.train import listed_if_bad
    from gru_mem_jax.data import builders

    arguments.check_folder("--out", args.out)
    recipe = recipe_from(args)
    started, built = time.monotonic(), False
    with going_on(), listed_if_bad(20), _warned(), _Progress(recipe) as show:

        def on_progress(progress: "Progress") -> None:
            nonlocal built
            built = True
            show(progress)

        builders.build(recipe, args.out, on_progress=on_progress)
    _told(args.out, time.monotonic() - started if built else None)
    print(args.out)
    return 0


def recipe_from(args: argparse.Namespace) -> Any:
    """The recipe of the flags.

    Raises:
      InputError: a setting is out of range, missing, or not the recipe's.
    """
    from gru_mem_jax.data.builders.registry import recipe_class

    cls = recipe_class(args.name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    given = {
        name: value
        for name, value in vars(args).items()
        if value is not None and name not in _OTHERS
    }
    given["sources"] = tuple(given.get("sources", ()))
    if not given["sources"] and not _is_needed(fields.get("sources")):
        del given["sources"]
    if lengths := _lengths(args):
        given["lengths"] = lengths
    if args.tokenizer is not None:
        given["encoder"] = args.tokenizer
    for name in given:
        if name not in fields:
            hint = did_you_mean(_flag(name), map(_flag, fields))
            raise InputError(f"{_flag(name)} is not a setting of {args.name}{hint}")
    for name, field in fields.items():
        if name not in given and _is_needed(field):
            flags = map("--{}".format, _UNITS) if name == "lengths" else [_flag(name)]
            raise InputError(f"{args.name} needs {' or '.join(flags)}")
    if args.tokenizer is not None:
        given["encoder"] = encoder_of(args.tokenizer)
    return cls(**given)


def _is_needed(field: dataclasses.Field | None) -> bool:
    return (
        field is not None
        and field.default is field.default_factory is dataclasses.MISSING
    )


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name}")


def _lengths(args: argparse.Namespace) -> "tuple[Length, ...]":
    from gru_mem_jax.data.builders import Length

    given = [unit for unit in _UNITS if getattr(args, unit) is not None]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]}: give lengths in one unit")
    return tuple(Length(unit, n) for unit in given for n in getattr(args, unit))


def _counts(text: str) -> tuple[int, ...]:
    count = arguments.integer(least=1)
    counts = tuple(count(part) for part in text.split(","))
    if len(set(counts)) < len(counts):
        raise argparse.ArgumentTypeError(f"{text!r} names a length twice")
    return counts


def encoder_of(folder: str) -> Any:
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.tokenization import TextTokenizer

    return TextTokenizer.from_pretrained(open_policy_dir(folder).root)


def _told(out: str, seconds: float | None) -> None:
    """A line on what is in the folder."""
    from gru_mem_jax.data.dataset_files import read_manifest

    manifest = read_manifest(pathlib.Path(out))
    sets = ", ".join(str(length) for length in manifest.lengths)
    size = sum(manifest.files.values())
    line = (
        f"{manifest.sets[0].questions} questions of {sets}; {manifest.texts} texts; "
        f"{size / 1e6:.1f} MB"
    )
    if seconds is None:
        terminal.note(f"exists, and is what was asked for: {line}")
    else:
        terminal.note(f"built in {seconds:.1f} s: {line}")


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """While entered, an interruption says that nothing is lost."""
    try:
        yield
    except (KeyboardInterrupt, signals.Terminated) as error:
        raise type(error)("the same command goes on from here") from None


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """While entered, a warning is a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: terminal.note(
            f"note: {terminal.plain_line(str(message))}"
        )
        yield


class _Progress:
    """A bar for each part on a terminal.

    In a pipe a line when one begins, and one a minute.
    """

    def __init__(self, recipe: Any):
        self._questions = getattr(recipe, "num_questions", None)
        self._live = terminal.is_live(sys.stderr)
        self._bar = terminal.progress_bar()
        self._tasks: dict[str, Any] = {}
        self._lines = terminal.EachMinute()

    def __enter__(self) -> Any:
        self._bar.start()
        return self._show

    def __exit__(self, *unused: object) -> None:
        self._bar.stop()

    def _show(self, progress: "Progress") -> None:
        part = progress.part
        if part not in self._tasks:
            total = None if part == "texts" else self._questions
            self._tasks[part] = self._bar.add_task(part, total=total)
            if not self._live:
                terminal.note(f"building: {part}")
        self._bar.update(self._tasks[part], completed=progress.done)
        self._lines.note(f"building: {part}, {progress.done} done")
