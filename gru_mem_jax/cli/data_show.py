"""Print what a set holds, and a question with its evidence marked.

A table of the lengths, then one question (--index, --length): its evidence stands in
⟦brackets⟧, with the step at which it is needed where that is known, and the text around
it is cut.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gru_mem_jax.cli import arguments, terminal

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from gru_mem_jax.data import Dataset, Example

_PIPE_WIDTH = 120
_AROUND = 200  # characters of text on each side of evidence
_COUNTED = 3  # documents whose tokens are counted
_OPEN, _CLOSE = "⟦", "⟧"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add("path", type=arguments.path, metavar="DIR", help="of gru-mem data build")
    add("--length", metavar="L", help="such as '50 documents'; default: the first")
    add(
        "--index",
        type=arguments.integer(least=0),
        metavar="I",
        help="of the question, from 0; without the table",
    )
    add(
        "--tokenizer",
        type=arguments.path,
        metavar="DIR",
        help="of a policy: also count tokens of documents",
    )
    add("--verify", action="store_true", help="compare every byte with its sha256")
    arguments.add_json(add, "the question, with its whole document,")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import json_output
    from gru_mem_jax.data.dataset import first_length, open_dataset
    from gru_mem_jax.errors import InputError
    from gru_mem_jax.records import to_record

    target = json_output.open_target(args.json)
    length = args.length or first_length(args.path)
    dataset = open_dataset(args.path, length, verify=args.verify)
    index = args.index or 0
    if index >= len(dataset):
        raise InputError(
            f"--index {index}: {args.path} has {len(dataset)} questions, from 0 on"
        )
    out = terminal.console(sys.stdout, _PIPE_WIDTH)
    if args.index is None and not target.is_stdout:
        out.print(_table(dataset, args.tokenizer))
    example = dataset[index]
    target.write(
        {
            "path": args.path,
            "length": str(dataset.length),
            "index": index,
            "example": to_record(example),
        }
    )
    if not target.is_stdout:
        out.print(_facts(dataset, index, example), soft_wrap=True)
        out.print(marked(example), soft_wrap=True)
    return 0


def _table(dataset: "Dataset", tokenizer: str | None) -> "Table":
    """A row for each length."""
    from rich.table import Table

    from gru_mem_jax.data.dataset import open_dataset

    manifest = dataset.manifest
    size = sum(manifest.files.values())
    table = Table(
        title=f"{manifest.name}: {manifest.texts} texts, {size / 1e6:.1f} MB on disk"
    )
    few = min(_COUNTED, len(dataset))
    headings = ["length", "questions", "texts", "characters"]
    if tokenizer is not None:
        from gru_mem_jax.cli.data_build import encoder_of

        encoder = encoder_of(tokenizer)
        headings.append("tokens")
    for heading in headings:
        justify = "left" if heading == "length" else "right"
        table.add_column(heading, justify=justify)
    for length in manifest.lengths:
        opened = open_dataset(dataset.path, length)
        examples = [opened[i] for i in range(few)]
        pieces = [len(opened.question(i).pieces) for i in range(few)]
        values = [sum(pieces), sum(len(example.document) for example in examples)]
        if tokenizer is not None:
            values.append(sum(len(encoder.encode(e.document)) for e in examples))
        means = (f"{value / few:,.0f}" for value in values)
        table.add_row(str(length), f"{len(opened):,}", *means)
    table.caption = f"a document's texts, characters: means of the first {few}"
    return table


def _facts(dataset: "Dataset", index: int, example: "Example") -> "Text":
    """What is known of a question but its document."""
    from rich.text import Text

    rows: list[tuple[str, Any]] = [
        (f"question {index}", f"{example.id} ({dataset.length})"),
        ("question", example.question),
        ("answers", " | ".join(example.answers)),
        ("scoring", example.scoring),
    ]
    if example.task:
        rows.append(("task", example.task))
    rows += sorted(example.metadata.items())
    rows.append(("document", f"{len(example.document):,} characters"))
    text = Text()
    for name, value in rows:
        text.append(f"{terminal.shorten(name, 20)}: ", "bold")
        text.append(f"{terminal.shorten(str(value), 500)}\n")
    return text


def marked(example: "Example") -> "Text":
    """The document around its evidence, which is marked."""
    from rich.text import Text

    text = Text()
    for start, end, place in _pieces(example):
        part = terminal.safe_text(example.document[start:end])
        if place is None:
            text.append(part)
        elif place < 0:
            text.append(f"\n… {end - start:,} characters …\n", "dim")
        else:
            steps = example.evidence_order
            step = f"{steps[place]}: " if steps else ""
            text.append(f"{_OPEN}{step}{part}{_CLOSE}", "bold reverse")
    return text


def _pieces(example: "Example") -> Iterator[tuple[int, int, int | None]]:
    """(start, end, place) of parts that follow each other.

    The place is that in `evidence`, None of text around it, -1 of what is cut.
    """
    length, at = len(example.document), 0
    for place, (start, end) in enumerate(example.evidence):
        if end > at:  # spans may overlap
            start = max(start, at)
            yield from _between(at, start, _AROUND if at else 0, _AROUND)
            yield start, end, place
            at = end
    yield from _between(at, length, _AROUND if at else 2 * _AROUND, 0)


def _between(
    start: int, end: int, head: int, tail: int
) -> Iterator[tuple[int, int, int | None]]:
    """Text without evidence, of which the beginning and the end are kept."""
    if end - start <= head + tail + _AROUND:
        yield start, end, None
    else:
        yield start, start + head, None
        yield start + head, end - tail, -1
        yield end - tail, end, None
