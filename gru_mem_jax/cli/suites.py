"""The questions of an evaluation, from flags: a suite, a file or set, or synthetic.

A command calls `default_suite` for what is asked if nothing says otherwise, gives it to
gin, and takes from `suite_from` what the flags make of gin's answer.
"""

import argparse
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean

if TYPE_CHECKING:
    from gru_mem_jax.agent.encoding import Encoder
    from gru_mem_jax.cli.gin_config import GinConfig
    from gru_mem_jax.evaluation.suite import Suite

# The source that is no file: the synthetic world.
TINY = "tiny"


def add_suite_flags(add: Callable[..., object]) -> None:
    """Adds the flags that say which questions are asked."""
    count, path = arguments.integer(least=1), arguments.path
    add(
        "--suite",
        metavar="NAME",
        help="paper, ruler, multihop, unbalanced, bridge, injection or tiny "
        "(docs/suites.md)",
    )
    add(
        "--data",
        type=path,
        metavar="PATH",
        help="questions to ask: a file with a JSON object a line (docs/data.md), or a "
        "folder of gru-mem data build",
    )
    add(
        "--datasets",
        type=path,
        metavar="DIR",
        help="folder of the suite's data sets; what is missing there is built from "
        "--source",
    )
    add(
        "--source",
        type=source,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an official file: hotpotqa, 2wiki, musique, squad, haystack; or tiny, "
        "without a file: synthetic questions. May be given several times",
    )
    add(
        "--lengths",
        metavar="L[,L]",
        help="of the documents: 7K (tokens), or numbers in the unit of the suite or "
        "data set; default the suite's, or all of a data set",
    )
    add(
        "--tasks",
        metavar="T[,T]",
        help="parts of the suite, or synthetic tasks; default all",
    )
    add(
        "--gaps",
        metavar="G[,G]",
        help="of suite bridge: chunks by which what is needed first lies after what it "
        "points to; negative: before",
    )
    add(
        "--contexts",
        metavar="P:N[,P:N]",
        help="of synthetic texts: placement of the evidence and number of chunks, e.g. "
        "uniform:8",
    )
    add(
        "--num_questions",
        type=count,
        metavar="N",
        help="in each set; default all of a file, 128 of a suite",
    )
    add("--seed", type=arguments.integer(least=0), metavar="N", help="of the questions")


def source(text: str) -> tuple[str, str]:
    """NAME=FILE as a pair; `tiny` has no file."""
    if text == TINY:
        return TINY, ""
    name, _, file = text.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(
            f"expected NAME=FILE such as squad=dev-v2.0.json, or tiny; got {text!r}"
        )
    return name, arguments.path(file)


def default_suite(
    args: argparse.Namespace, gin: "GinConfig", chunk_size: int
) -> "Suite":
    """The questions of --data, or synthetic ones, unless gin says something else."""
    from gru_mem_jax.data.jsonl import JsonlSource
    from gru_mem_jax.evaluation.dataset_suite import DatasetSuite
    from gru_mem_jax.evaluation.suite import SourceSuite
    from gru_mem_jax.tiny.sources import SyntheticSuite

    if args.data is None:
        return SyntheticSuite(chunk_tokens=min(chunk_size, 64))
    if args.suite is not None:
        raise InputError("--data and --suite are two choices: give one of them")
    if pathlib.Path(args.data).is_dir():
        return gin.build(DatasetSuite(path=args.data))
    file = gin.build(JsonlSource(path=args.data, seed=args.seed or 0))
    return SourceSuite(sources={pathlib.Path(args.data).stem: file})


def suite_from(
    args: argparse.Namespace,
    suite: "Suite",
    encoder: "Callable[[], Encoder]",
    chunk_size: int,
) -> "Suite":
    """The suite that the flags name or change.

    Args:
      args: with the flags of `add_suite_flags`.
      suite: what `default_suite` or gin says; --suite has precedence.
      encoder: opens the policy's tokenizer; called where chunks or tokens are counted.
      chunk_size: of the agent, in tokens.

    Raises:
      InputError: a flag does not fit the suite; a data set is missing.
    """
    if args.suite is not None:
        return _named(args, encoder, chunk_size)
    for flag in ("datasets", "source", "lengths", "gaps"):
        given = getattr(args, flag) not in (None, [])
        if given and not (flag == "lengths" and hasattr(suite, flag)):
            raise InputError(f"--{flag} is for a suite by name: give --suite too")
    return _with_flags(suite, args)


def _named(
    args: argparse.Namespace, encoder: "Callable[[], Encoder]", chunk_size: int
) -> "Suite":
    from gru_mem_jax.evaluation.suites import SUITES, check_sources, make_suite
    from gru_mem_jax.tiny.suites import TINY_SUITES, make_tiny_suite

    name = args.suite
    if name not in (known := (*SUITES, TINY)):
        hint = did_you_mean(name, known)
        raise InputError(
            f"--suite: unknown suite {name!r}{hint}; it is one of {', '.join(known)}"
        )
    sources: dict[str, tuple[str, ...]] = {}
    for source_name, file in args.source:
        sources[source_name] = (*sources.get(source_name, ()), file)
    check_sources(name for name in sources if name != TINY)
    tasks = None if args.tasks is None else tuple(args.tasks.split(","))
    lengths = None if args.lengths is None else tuple(args.lengths.split(","))
    gaps = None if args.gaps is None else _gaps(args.gaps)
    if TINY in sources and (args.datasets or len(sources) > 1):
        return _planted(args, sources, lengths, tasks, gaps, encoder, chunk_size)
    if name == TINY or TINY in sources:
        if name not in TINY_SUITES:
            raise InputError(
                f"--source tiny: suite {name} has no synthetic documents; those of "
                f"{', '.join(TINY_SUITES)} have"
            )
        if args.datasets or set(sources) - {TINY}:
            raise InputError(f"suite {TINY} needs no --datasets and no --source")
        given = {
            "contexts": None if args.contexts is None else contexts(args.contexts),
            "num_questions": args.num_questions,
            "seed": args.seed,
        }
        return make_tiny_suite(
            name,
            tasks=tasks,
            lengths=lengths,
            gaps=gaps,
            encoder=encoder,
            chunk_size=chunk_size,
            **{key: value for key, value in given.items() if value is not None},
        )
    if args.contexts is not None:
        raise InputError("--contexts is for synthetic texts: give --source tiny too")
    with _listed_if_missing():
        return make_suite(
            name,
            datasets=args.datasets,
            sources=sources,
            lengths=lengths,
            tasks=tasks,
            gaps=gaps,
            num_questions=args.num_questions or 128,
            seed=args.seed,
            encoder=encoder,
            chunk_size=chunk_size,
            on_progress=terminal.note,
        )


def _planted(
    args: argparse.Namespace,
    sources: Mapping[str, tuple[str, ...]],
    lengths: tuple[str, ...] | None,
    tasks: tuple[str, ...] | None,
    gaps: tuple[int, ...] | None,
    encoder: "Callable[[], Encoder]",
    chunk_size: int,
) -> "Suite":
    """Synthetic questions in the documents of data sets."""
    from gru_mem_jax.evaluation.suites import make_suite
    from gru_mem_jax.tiny.suites import PLANTED, make_planted_suite

    if args.suite not in PLANTED:
        raise InputError(
            f"--source tiny: suite {args.suite} cannot stand in documents of data "
            f"sets; {' and '.join(PLANTED)} can"
        )
    if args.contexts is not None:
        raise InputError("--contexts is for synthetic documents; give --lengths")
    num_questions = args.num_questions or 32
    with _listed_if_missing():
        documents = make_suite(
            "multihop",
            datasets=args.datasets,
            sources={name: of for name, of in sources.items() if name != TINY},
            lengths=lengths,
            tasks=tasks,
            num_questions=num_questions,
            encoder=encoder,
            chunk_size=chunk_size,
            on_progress=terminal.note,
        )
    return make_planted_suite(
        args.suite,
        documents,
        encoder=encoder(),
        chunk_size=chunk_size,
        gaps=gaps,
        num_questions=num_questions,
        **({} if args.seed is None else {"seed": args.seed}),
    )


@contextlib.contextmanager
def _listed_if_missing() -> Iterator[None]:
    """Lists what a suite lacks, a line each, before the line of the error."""
    from gru_mem_jax.evaluation.suites import MissingDataSets

    try:
        yield
    except MissingDataSets as error:
        for line in error.lines:
            terminal.note(line)
        raise InputError(f"{error.summary} (listed above)") from None


def _with_flags(suite: Any, args: argparse.Namespace) -> Any:
    """A suite of --data, of gin or of synthetic questions, with the flags' settings."""
    from gru_mem_jax.tiny.synthetic import TASKS

    given: dict[str, Any] = {}
    if args.tasks is not None:
        given["tasks"] = choices("--tasks", args.tasks, TASKS)
    if args.contexts is not None:
        given["contexts"] = contexts(args.contexts)
    if args.lengths is not None:
        given["lengths"] = tuple(args.lengths.split(","))
    # The seed of a file's questions is its source's.
    for name in ("num_questions", "seed") if args.data is None else ("num_questions",):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    for name in given:
        if not hasattr(suite, name):
            raise InputError(
                f"--{name} is not a setting of these questions ({type(suite).__name__})"
            )
    return dataclasses.replace(suite, **given) if given else suite


def choices(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names of a list that are known, each once.

    Raises:
      InputError: one is not.
    """
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"{flag}: unknown name {name!r}{hint}")
    return names


def contexts(text: str) -> tuple[tuple[str, int], ...]:
    """(placement, number of chunks) pairs of --contexts.

    Raises:
      InputError: they are written otherwise.
    """
    return tuple(_context(part) for part in text.split(","))


def _gaps(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"--gaps: expected such as -8,0,8, got {text!r:.40}") from None


def _context(text: str) -> tuple[str, int]:
    placement, colon, chunks = text.partition(":")
    if not colon or not chunks.isdecimal():
        raise InputError(f"--contexts: expected e.g. uniform:8, got {text!r}")
    return placement, int(chunks)
