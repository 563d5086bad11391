"""What `eval` and `quickstart` share: a warm engine, sets of questions, progress."""

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gru_mem_jax.agent.config import AgentConfig, config_to_dict
from gru_mem_jax.cli import signals, terminal
from gru_mem_jax.cli.readers import LocalReader, Reader, unsaid
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import cut, to_record
from gru_mem_jax.sampling.config import EngineConfig

if TYPE_CHECKING:
    from gru_mem_jax.evaluation.asking import Asking
    from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
    from gru_mem_jax.evaluation.questions import DrawnSet
    from gru_mem_jax.evaluation.suite import QuestionSet

KEPT = 300  # trajectories, by default
_PIPE_WIDTH = 200  # of the table, where no terminal has a width
_BAR_WIDTH = 56  # of a bar of progress, without what it is at


def configurables() -> tuple[type, ...]:
    """What gin can configure in an evaluation."""
    from gru_mem_jax import agent, data, evaluation, sampling, tiny

    return (
        agent.AgentConfig,
        agent.PromptConfig,
        agent.SamplingConfig,
        data.CurriculumSource,
        data.DatasetSource,
        data.HotpotQASource,
        data.JsonlSource,
        data.SQuADSource,
        evaluation.EvaluationConfig,
        evaluation.SourceSuite,
        sampling.EngineConfig,
        sampling.RemoteConfig,
        tiny.SyntheticSuite,
    )


def evaluate(
    policies: Mapping[str, str],
    config: AgentConfig,
    engine_config: EngineConfig,
    sets: "Sequence[QuestionSet]",
    modes: Sequence[str],
    out: str | os.PathLike[str],
    *,
    cache_bytes: int | None = None,
    keep_trajectories: int = KEPT,
    time_alone: int = 0,
    window: int | None = None,
    reader: Callable[[str, AgentConfig], Reader] | None = None,
    title: str | None = None,
) -> "ResultsFolder | None":
    """Asks what the folder has not yet of every set, mode and policy, and tabulates it.

    Settings and questions are checked before weights are read, and those of a policy
    that has answered all are not read but for their sha256.

    Args:
      policies: name to Hugging Face directory, or to what `reader` takes.
      config: of the agent.
      engine_config: its max_length is set by the budgets.
      sets: questions.
      modes: of the agent, and baselines.
      out: the folder, new or of the same evaluation.
      cache_bytes: see `EvaluationConfig`.
      keep_trajectories, time_alone: see `evaluation.asking.Asking`.
      window: of baselines that show a text; None: what a policy was made for.
      reader: of policies that are no directories.
      title: of the report; None: the policies' names.

    Returns:
      The folder, with its results.json; None on all processes but the first.

    Raises:
      InputError: settings, questions, a policy or the folder are refused; before
        anything is asked.
      RunError, KeyboardInterrupt, signals.Terminated: with a line on how to go on.
    """
    from gru_mem_jax.evaluation import retrieval, tabulate
    from gru_mem_jax.evaluation.asking import Asking, count_left
    from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
    from gru_mem_jax.evaluation.questions import draw_sets
    from gru_mem_jax.evaluation.queue import check_distinct
    from gru_mem_jax.evaluation.records import Manifest
    from gru_mem_jax.hosts import processes as hosts_lib

    if "bm25" in modes:
        retrieval.library()  # else each of its questions would fail
    hosts = hosts_lib.current()
    note = terminal.note if hosts.is_first else unsaid
    read = reader or LocalReader
    readers = {name: read(path, config) for name, path in policies.items()}
    drawn = draw_sets(sets, next(iter(readers.values())).builder, config)
    check_distinct(drawn)
    for line in (line for one in drawn for line in one.lines()):
        note(terminal.plain_line(line))
    manifest = Manifest(
        title=title or f"Evaluation of {', '.join(policies)}",
        policies={name: str(path) for name, path in policies.items()},
        modes=tuple(modes),
        settings={
            "agent": config_to_dict(config),
            "engine": to_record(engine_config),
            "cache_bytes": cache_bytes,
            "time_alone": time_alone,
            "window": window,
            "sets": [each.facts() for each in drawn],
            "policies": {name: each.facts() for name, each in readers.items()},
        },
    )
    if hosts.count > 1:
        hosts.agree("evaluation", {"modes": list(modes), **manifest.settings})
    with contextlib.ExitStack() as stack:

        def opened() -> "ResultsWriter | None":
            if not hosts.is_first:
                return None
            return stack.enter_context(ResultsWriter(out, manifest))

        writer = hosts.together("folder", opened)
        for line in writer.notes if writer else ():
            note(terminal.plain_line(line))
        scored = dict(writer.scored) if writer else {}
        for name, each in readers.items():
            asking = Asking(
                policy=name,
                modes=modes,
                keep_trajectories=keep_trajectories,
                num_policies=len(policies),
                time_alone=time_alone,
                window=window,
            )
            left, every = hosts.gather("left", count_left(drawn, asking, scored))[0]
            if left < every:
                note(f"{name}: {every - left} of {every} questions were scored before")
            if not left:
                continue
            try:
                _ask(each, config, engine_config, drawn, asking, writer, cache_bytes)
            except (KeyboardInterrupt, signals.Terminated) as e:
                raise type(e)(
                    f"{len(writer.scored) if writer else 0} questions are scored; the "
                    "same command goes on from there"
                ) from None
            except RunError as e:
                raise RunError(
                    f"{e}; {len(writer.scored) if writer else 0} questions are scored, "
                    "and the same command goes on from there"
                ) from e
        if writer is None:
            return None
        folder = ResultsFolder(out)
        writer.write_results(tabulate.results([folder]))
    return folder


def _ask(
    reader: Reader,
    config: AgentConfig,
    engine_config: EngineConfig,
    drawn: "Sequence[DrawnSet]",
    asking: "Asking",
    writer: "ResultsWriter | None",
    cache_bytes: int | None,
) -> None:
    """Asks one policy, with a bar of progress."""
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    from gru_mem_jax.evaluation.asking import ask, count_left
    from gru_mem_jax.hosts import processes as hosts_lib

    hosts = hosts_lib.current()
    note = terminal.note if hosts.is_first else unsaid
    warm = reader.warm(config, engine_config, drawn, asking, cache_bytes)
    hosts.barrier("warm")  # else one would count what another compiles
    console = Console(stderr=True, no_color=not terminal.wants_colour(sys.stderr))
    text = Column(no_wrap=True, max_width=max(16, console.width - _BAR_WIDTH))
    bar = progress.Progress(
        progress.TextColumn("{task.description}", table_column=text),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("questions, {task.fields[turns]} turns"),
        progress.TimeElapsedColumn(),
        console=console,
        disable=not (hosts.is_first and terminal.is_live(sys.stderr)),
    )
    left, every = count_left(drawn, asking, writer.scored if writer else {})
    with bar:
        task = bar.add_task("", total=every, completed=every - left, turns=0)
        turns = itertools.count(1)

        def on_run(group: "Sequence[DrawnSet]", mode: str) -> None:
            warm.forget_documents()  # modes are compared: none has another's work
            names = ", ".join(each.of.name for each in group)
            labels = [str(label) for label in group[0].of.labels.values()]
            text = " · ".join([mode, *labels, names])
            bar.update(task, description=text)
            if bar.disable:
                note(text)

        def on_turn() -> None:
            hosts.check()
            bar.update(task, turns=next(turns))

        ask(
            warm.generator,
            reader.builder,
            config,
            drawn,
            dataclasses.replace(asking, window=warm.window),
            writer,
            on_run=on_run,
            forget=warm.forget,
            on_turn=on_turn,
            on_answer=lambda _: bar.advance(task),
            hosts=hosts,
        )


def named(paths: Sequence[str]) -> dict[str, str]:
    """Policies by name.

    Raises:
      InputError: two are one.
    """
    from gru_mem_jax.evaluation.naming import told_apart

    names = dict(zip(told_apart(paths), paths, strict=True))
    if len(names) < len(paths):
        raise InputError(f"--policy: given twice: {', '.join(paths)}")
    return names


def status(folder: "ResultsFolder") -> int:
    """The exit status: 1 if all questions failed; a line says if any did."""
    answers = folder.answers()
    failed = [answer for answer in answers if answer.failed is not None]
    if failed:
        last = " ".join(str(failed[-1].failed).split())
        terminal.note(
            terminal.plain_line(
                f"{len(failed)} of {len(answers)} questions failed and count as wrong; "
                f"the last: {cut(last, 200)}"
            )
        )
    return int(bool(failed) and len(failed) == len(answers))


def print_rows(rows: Sequence[dict[str, Any]], stream: TextIO, title: str = "") -> None:
    """Prints the table."""
    from gru_mem_jax.evaluation.table import rich_table

    console = terminal.console(stream, _PIPE_WIDTH)
    console.print(rich_table(rows, title, width=console.width))
