"""A self-contained HTML page of results: table, figures, loops turn by turn."""

import base64
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.data.example import Example
from gru_mem_jax.evaluation.outcomes import Outcome

# Table columns: key of a row, heading, format. Ratios are shown in percent.
COLUMNS = (
    ("stage", "stage", "text"),
    ("evidence", "evidence", "text"),
    ("mode", "mode", "text"),
    ("task", "task", "text"),
    ("num_chunks", "chunks", "count"),
    ("num_questions", "questions", "count"),
    ("exact", "exact", "percent"),
    ("update_on_evidence", "update on evidence", "percent"),
    ("update_off_evidence", "update off evidence", "percent"),
    ("exact_exit", "exact exit", "percent"),
    ("chunks_read", "chunks read", "percent"),
    ("seconds", "seconds", "seconds"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A loop to show, with what it should have done."""

    example: Example
    trajectory: Trajectory
    outcome: Outcome


def format_cell(value, kind: str) -> str:
    """A table cell; "–" where nothing was counted."""
    if value is None:
        return "–"
    if kind == "percent":
        return f"{100 * value:.1f}"
    if kind == "seconds":
        return f"{value:.1f}"
    return str(value)


def columns_of(rows: Sequence[Mapping]) -> list[tuple[str, str, str]]:
    """The columns that any row fills."""
    return [c for c in COLUMNS if any(c[0] in row for row in rows)]


@functools.cache
def _template():
    import jinja2

    source = pathlib.Path(__file__).with_name("report.html.jinja")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source.read_text(encoding="utf-8"))


def _table(heading: str, rows: Sequence[Mapping]) -> dict:
    columns = columns_of(rows)
    shown = [
        {
            "mix": row.get("task") == "all",
            "cells": [format_cell(row.get(key), kind) for key, _, kind in columns],
        }
        for row in rows
    ]
    return {
        "heading": heading,
        "columns": [{"name": name, "kind": kind} for _, name, kind in columns],
        "mixes": [row | {"mix": False} for row in shown if row["mix"]],
        "rows": shown,
    }


def _sample_context(sample: Sample) -> dict:
    turns = [turn for turn in sample.trajectory.turns if turn.kind == "memory"]
    gate = {True: "yes", False: "no", None: "–"}
    return {
        "correct": sample.outcome.correct == 1.0,
        "mode": sample.trajectory.mode,
        "question": sample.example.question,
        "answer": sample.trajectory.answer or "(no answer)",
        "gold": " / ".join(sample.example.answers),
        "turns": [
            {
                "chunk": turn.chunk + 1,
                "update": gate[turn.update],
                "exit": gate[turn.exit],
                "memory": turn.memory,
                "evidence": "yes" if label else "",
                "tokens": turn.completion_tokens,
            }
            for turn, label in zip(turns, sample.outcome.evidence, strict=False)
        ],
    }


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    notes: Sequence[str],
    rows: Sequence[Mapping],
    figures: Sequence[tuple[str | os.PathLike, str]],
    samples: Sequence[Sample] = (),
    further: Sequence[tuple[str, Sequence[Mapping]]] = (),
) -> None:
    """Writes one HTML file that needs nothing beside it.

    All text is escaped: documents, memories and answers come from outside.

    Args:
      path: of the page.
      title, notes: heading and the lines below it.
      rows: of `suite.table_rows`.
      figures: (path of a PNG, caption) pairs.
      samples: loops shown turn by turn.
      further: (heading, rows) of more tables.
    """
    page = _template().render(
        title=title,
        notes=notes,
        tables=[_table(*table) for table in (("Results", rows), *further)],
        figures=[
            {
                "data": base64.b64encode(pathlib.Path(file).read_bytes()).decode(),
                "caption": caption,
            }
            for file, caption in figures
        ],
        samples=[_sample_context(sample) for sample in samples],
    )
    pathlib.Path(path).write_text(page, encoding="utf-8")
