"""What an evaluation leaves in a folder: results, plots, and a page of all of it.

The page is one HTML file that needs nothing beside it. All text in it is escaped:
documents, memories and answers come from outside.
"""

import base64
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.evaluation import figures
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.records import ScoredKey
from gru_mem_jax.evaluation.run import MIX, SetResult, table_rows
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.rl.outcomes import Outcomes, concatenate, outcomes
from gru_mem_jax.runs import columns

if TYPE_CHECKING:
    import jinja2

_PLACEMENTS = {
    "uniform": "evidence anywhere",
    "first_20": "evidence in the first 20%",
}
_MOST_TRACED = 40  # chunks: more make no picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A trajectory to show, with what it should have done.

    Attributes:
      example, trajectory: the question, and how it was answered.
      correct: the answer's score.
      evidence: evidence[t] of every chunk of the context, read or not.
    """

    example: Example
    trajectory: Trajectory
    correct: float
    evidence: Sequence[bool]


def write_pages(
    folder: str | os.PathLike[str],
    results: Sequence[SetResult],
    *,
    title: str,
    notes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    pictures: Sequence[tuple[str | os.PathLike[str], str]] = (),
    further: Mapping[str, tuple[str, Sequence[SetResult]]] | None = None,
) -> list[dict[str, Any]]:
    """Writes results.json, memory.png, trace.png and report.html into a folder.

    Args:
      folder: made if absent.
      results: of `run.evaluate`; pictures and trajectories are the last stage's.
      title, notes: of the report.
      extra: more entries of results.json.
      pictures: more (PNG, caption) pairs for the report.
      further: more results, in tables of their own: name of the rows in results.json
        to (heading, results); no picture shows them.

    Returns:
      The table's rows.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = table_rows(results)
    last = [result for result in results if result.stage == results[-1].stage]
    figures.plot_memory(_panels(last), folder / "memory.png")
    shown = [(folder / "memory.png", "Mean memory size after each chunk.")]
    traced = _to_trace(last)
    if traced is not None:
        figures.plot_trace(traced.trajectory, traced.evidence, folder / "trace.png")
        caption = f"One trajectory: {traced.example.question}"
        shown.append((folder / "trace.png", caption))
    more = {
        name: (heading, table_rows(others))
        for name, (heading, others) in (further or {}).items()
    }
    write_report(
        folder / "report.html",
        title=title,
        notes=notes,
        rows=rows,
        figures=[*shown, *pictures],
        samples=_samples(last),
        further=tuple(more.values()),
    )
    results_json = {**(extra or {}), "rows": rows}
    results_json |= {name: others for name, (_, others) in more.items()}
    text = json.dumps(results_json, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    return rows


def set_results(folder: ResultsFolder) -> list[SetResult]:
    """What is in a folder whose trajectories were all kept, for the pages above."""
    asked = {question.key: question for question in folder.questions()}
    answers = {answer.key: answer for answer in folder.answers()}
    grouped: dict[object, list[ScoredKey]] = {}
    kept = dict(folder.trajectories())
    for key in answers:
        grouped.setdefault(key[:4], []).append(key)
    results = []
    for keys in grouped.values():
        keys.sort(key=lambda key: key[4])
        examples, labels = [], []
        for question in (asked[key[2:]] for key in keys):
            examples.append(
                Example(
                    id=question.id,
                    question=question.question,
                    answers=question.answers,
                    document="",
                    scoring=cast(Any, question.scoring),
                )
            )
            held = range(question.num_chunks)
            evidence = tuple(i in question.evidence_chunks for i in held)
            labels.append((evidence, max(question.evidence_chunks, default=None)))
        trajectories = tuple(kept[key] for key in keys)
        first = answers[keys[0]]
        of = QuestionSet(
            name=first.set, source=ListSource(examples=tuple(examples)), **first.labels
        )
        results.append(
            SetResult(
                questions=DrawnSet(
                    of=of, examples=tuple(examples), labels=tuple(labels)
                ),
                mode=first.mode,
                trajectories=trajectories,
                outcomes=outcomes([[t] for t in trajectories], examples, labels),
                seconds=sum(answers[key].seconds_share for key in keys),
                stage=first.policy,
            )
        )
    return results


def _panels(results: Sequence[SetResult]) -> dict[str, dict[str, Outcomes]]:
    """Outcomes by kind of context and mode, of the mix if there is one."""
    mixed = [result for result in results if result.questions.of.in_mix] or results
    grouped: dict[str, dict[str, list[Outcomes]]] = {}
    for result in mixed:
        of = result.questions.of
        words = [] if of.num_chunks is None else [f"{of.num_chunks} chunks"]
        if of.placement is not None:
            words.append(_PLACEMENTS.get(of.placement, of.placement))
        title = ", ".join(words) or "all questions"
        by_mode = grouped.setdefault(title, {})
        by_mode.setdefault(result.mode, []).append(result.outcomes)
    return {
        title: {mode: concatenate(parts) for mode, parts in by_mode.items()}
        for title, by_mode in grouped.items()
    }


def _pairs(result: SetResult) -> Iterator[Sample]:
    for example, trajectory, correct, (evidence, _) in zip(
        result.questions.examples,
        result.trajectories,
        result.outcomes.correct[:, 0],
        result.questions.labels,
        strict=True,
    ):
        yield Sample(
            example=example,
            trajectory=trajectory,
            correct=float(correct),
            evidence=evidence,
        )


def _to_trace(results: Sequence[SetResult]) -> Sample | None:
    """The trajectory worth a picture: the most updates, exited before the end."""
    best, most = None, -1
    for result in results:
        if result.mode != "with_exit_gate":
            continue
        for sample in _pairs(result):
            turns, chunks = sample.trajectory.memory_turns, len(sample.evidence)
            updates = sum(bool(turn.update) for turn in turns)
            right = sample.correct == 1.0 and len(turns) < chunks <= _MOST_TRACED
            if right and updates > most:
                best, most = sample, updates
    return best


def _samples(results: Sequence[SetResult], each: int = 1) -> list[Sample]:
    """For each run a right trajectory and a wrong one, if there are."""
    shown: list[Sample] = []
    for result in results:
        for right in (True, False):
            of_kind = [s for s in _pairs(result) if (s.correct == 1.0) == right]
            shown += of_kind[:each]
    return shown


@functools.cache
def _template() -> "jinja2.Template":
    import jinja2

    source = pathlib.Path(__file__).with_name("report.html.jinja")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source.read_text(encoding="utf-8"))


def _table(heading: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named = columns.table("evaluation", rows)
    shown = [
        {
            "mix": row.get("set") == MIX,
            "cells": [column.cell(row.get(column.name)) for column in named],
        }
        for row in rows
    ]
    return {
        "heading": heading,
        "columns": [
            {
                "name": column.title,
                "kind": "text" if column.format == "text" else "number",
                "meaning": column.description,
            }
            for column in named
        ],
        "mixes": [row | {"mix": False} for row in shown if row["mix"]],
        "rows": shown,
    }


def _sample_context(sample: Sample) -> dict[str, Any]:
    gate = {True: "yes", False: "no", None: "–"}
    return {
        "correct": sample.correct == 1.0,
        "mode": sample.trajectory.mode,
        "question": sample.example.question,
        "answer": sample.trajectory.answer or "(no answer)",
        "gold": " / ".join(sample.example.answers),
        "turns": [
            {
                "chunk": number,
                "update": gate[turn.update],
                "exit": gate[turn.exit],
                "memory": turn.memory,
                "evidence": "yes" if label else "",
                "tokens": turn.completion_tokens,
            }
            for number, (turn, label) in enumerate(
                zip(sample.trajectory.memory_turns, sample.evidence), 1
            )
        ],
    }


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    notes: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[tuple[str | os.PathLike[str], str]],
    samples: Sequence[Sample] = (),
    further: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = (),
) -> None:
    """Writes the page.

    Args:
      path: of the page.
      title, notes: heading and the lines below it.
      rows: of `run.table_rows`.
      figures: (path of a PNG, caption) pairs.
      samples: trajectories shown turn by turn.
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
