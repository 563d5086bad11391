"""A policy on sets of questions, in several modes, with its tables and pages."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.evaluation import figures
from gru_mem_jax.evaluation.report import Sample, write_report
from gru_mem_jax.evaluation.suite import QuestionSet, SetResult, run_sets, table_rows

CONTEXT_TITLES = {
    "uniform": "evidence anywhere",
    "first_20": "evidence in the first 20%",
}


def evaluate(
    generator: Generator,
    encoder: Encoder,
    config: AgentConfig,
    sets: Sequence[QuestionSet],
    modes: Sequence[str],
    on_sets: Callable[[Sequence[QuestionSet], str], None] = lambda sets, mode: None,
    on_turn: Callable[[], None] = lambda: None,
    together: Sequence[str] = (),
) -> list[SetResult]:
    """Runs every set in every mode.

    Args:
      generator: warm, so that seconds count no compilation.
      encoder: the policy's tokenizer.
      config: of the agent; its mode is replaced by each of `modes`.
      sets: questions.
      modes: of the agent.
      on_sets: called before each run.
      on_turn: called after each turn.
      together: tasks whose sets run as one for each context and mode, so that slots
        that one leaves are filled by the next; the others run one after the other.

    Returns:
      Results in the order of a table: by context, then mode, then task.
    """
    results = []
    contexts = dict.fromkeys((item.evidence, item.num_chunks) for item in sets)
    for context in contexts:
        for mode in modes:
            mode_config = dataclasses.replace(config, mode=mode)
            chosen = [s for s in sets if (s.evidence, s.num_chunks) == context]
            mixed = [item for item in chosen if item.task in together]
            alone = [[item] for item in chosen if item.task not in together]
            for group in filter(None, [mixed, *alone]):
                on_sets(group, mode)
                results += run_sets(generator, encoder, mode_config, group, on_turn)
    return results


def count_turns(sets: Iterable[QuestionSet], modes: Sequence[str]) -> int:
    """The most turns that `evaluate` may take: every chunk read, and the answers."""
    return len(modes) * sum(len(s.examples) * (s.num_chunks + 1) for s in sets)


def write_pages(
    folder: str | os.PathLike,
    results: Sequence[SetResult],
    mix: Sequence[str],
    *,
    title: str,
    notes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    pictures: Sequence[tuple[str | os.PathLike, str]] = (),
    further: Mapping[str, tuple[str, Sequence[SetResult]]] | None = None,
) -> list[dict]:
    """Writes results.json, memory.png, trace.png and report.html into a folder.

    Args:
      folder: made if absent.
      results: of `evaluate`; pictures and loops show the last stage's.
      mix: tasks that the rows "all" are over.
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
    rows = table_rows(results, mix)
    panels: dict[str, dict[str, list]] = {}
    last = [result for result in results if result.stage == results[-1].stage]
    for result in last:
        if result.questions.task in mix:
            kind = CONTEXT_TITLES.get(result.questions.evidence)
            label = f"{result.questions.num_chunks} chunks, "
            label += kind or result.questions.evidence
            by_mode = panels.setdefault(label, {})
            by_mode.setdefault(result.mode, []).extend(result.outcomes)
    figures.plot_memory(panels, folder / "memory.png")
    shown = [(folder / "memory.png", "Mean memory size after each chunk.")]
    traced = _to_trace(last)
    if traced is not None:
        figures.plot_trace(
            traced.trajectory, traced.outcome.evidence, folder / "trace.png"
        )
        caption = f"One loop: {traced.example.question}"
        shown.append((folder / "trace.png", caption))
    more = {
        name: (heading, table_rows(others, mix))
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


def _pairs(result: SetResult) -> Iterable[Sample]:
    for example, trajectory, outcome in zip(
        result.questions.examples, result.trajectories, result.outcomes, strict=True
    ):
        yield Sample(example=example, trajectory=trajectory, outcome=outcome)


def _to_trace(results: Sequence[SetResult]) -> Sample | None:
    """The loop worth a picture: the most updates, exited before the end."""
    best, most = None, -1
    for result in results:
        if result.mode != "with_exit_gate" or result.questions.num_chunks > 40:
            continue
        for sample in _pairs(result):
            spared = len(sample.outcome.evidence) - len(sample.outcome.updates)
            updates = sum(sample.outcome.updates)
            if sample.outcome.correct == 1.0 and spared > 0 and updates > most:
                best, most = sample, updates
    return best


def _samples(results: Sequence[SetResult], each: int = 1) -> list[Sample]:
    """For each run a right loop and a wrong one, if there are."""
    shown = []
    for result in results:
        for right in (True, False):
            of_kind = [s for s in _pairs(result) if (s.outcome.correct == 1.0) == right]
            shown += of_kind[:each]
    return shown
