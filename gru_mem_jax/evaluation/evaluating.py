"""An evaluation from its policies to its folder: `evaluate`."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from gru_mem_jax.agent.config import (
    PAPER_MODES,
    AgentConfig,
    check_taught,
    config_to_dict,
)
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation import retrieval, tabulate
from gru_mem_jax.evaluation.asking import Asking, ask, count_left
from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
from gru_mem_jax.evaluation.naming import told_apart
from gru_mem_jax.evaluation.questions import DrawnSet, draw_sets
from gru_mem_jax.evaluation.queue import check_distinct
from gru_mem_jax.evaluation.readers import LocalReader, Reader, Warm
from gru_mem_jax.evaluation.records import KEPT, Manifest
from gru_mem_jax.evaluation.run import greedy
from gru_mem_jax.evaluation.suite import Suite
from gru_mem_jax.hosts import processes as hosts_lib
from gru_mem_jax.records import first_difference, to_record
from gru_mem_jax.runs.signals import Terminated
from gru_mem_jax.sampling.config import EngineConfig

PathLike = str | os.PathLike[str]


class Observer:
    """Is told how an evaluation goes on; this one shows nothing.

    Of several processes the first alone has one that shows something.
    """

    def note(self, line: str) -> None:
        """A line on what happens; names of files and sets in it are others' text."""

    def begin(self, done: int, total: int) -> None:
        """A policy is asked now, which has answered `done` of `total` questions."""

    def run(self, name: str) -> None:
        """Sets of one kind of context are asked now, in one mode."""

    def turn(self) -> None:
        """A turn has ended."""

    def answer(self) -> None:
        """A question was scored."""

    def end(self) -> None:
        """The policy of `begin` has answered all, or the evaluation ends."""


def evaluate(
    policies: PathLike | Sequence[PathLike] | Mapping[str, PathLike],
    suite: Suite,
    out: PathLike,
    *,
    modes: Sequence[str] = PAPER_MODES[::-1],
    agent: AgentConfig | None = None,
    engine: EngineConfig | None = None,
    cache_bytes: int | None = None,
    keep_trajectories: int = KEPT,
    time_alone: int = 0,
    window: int | None = None,
    title: str | None = None,
    reader: Callable[[str, AgentConfig], Reader] | None = None,
    observer: Observer | None = None,
) -> ResultsFolder | None:
    """Asks what the folder has not yet of every set, mode and policy, and tabulates it.

    Settings and questions are checked before weights are read, and those of a policy
    that has answered all are not read but for their sha256.

    Args:
      policies: a Hugging Face directory, several, or a dict of names to these or to
        what `reader` takes.
      suite: the questions.
      out: the folder, new or of the same evaluation.
      modes: of the agent, and baselines.
      agent: how contexts are read; None: as the policies' settings (gru_mem.json) say,
        and greedily.
      engine: its max_length is set by the budgets; None: an `EngineConfig`.
      cache_bytes: see `EvaluationConfig`.
      keep_trajectories, time_alone: see `evaluation.asking.Asking`.
      window: of baselines that show a text; None: what a policy was made for.
      title: of the report; None: the policies' names.
      reader: of policies that are no directories; `agent` must be given.
      observer: is told how it goes on.

    Returns:
      The folder, with its results.json; None on all processes but the first.

    Raises:
      InputError: settings, questions, a policy or the folder are refused; before
        anything is asked.
      RunError, KeyboardInterrupt, runs.signals.Terminated: with a line on how to go on.
    """
    named = policies if isinstance(policies, Mapping) else by_name(policies)
    paths = {name: os.fspath(path) for name, path in named.items()}
    config = agent or common_settings(paths)
    if reader is None:
        for path in paths.values():
            check_taught(own_settings(path), modes)
    engine = engine or EngineConfig()
    if "bm25" in modes:
        retrieval.library()  # else each of its questions would fail
    hosts = hosts_lib.current()
    watch = (observer if hosts.is_first else None) or Observer()
    read = reader or LocalReader
    readers = {name: read(path, config) for name, path in paths.items()}
    sets = list(suite.question_sets())
    drawn = draw_sets(sets, next(iter(readers.values())).builder, config)
    check_distinct(drawn)
    for line in (line for one in drawn for line in one.lines()):
        watch.note(line)
    manifest = Manifest(
        title=title or f"Evaluation of {', '.join(paths)}",
        policies=paths,
        modes=tuple(modes),
        settings={
            "agent": config_to_dict(config),
            "engine": to_record(engine),
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

        def opened() -> ResultsWriter | None:
            if not hosts.is_first:
                return None
            return stack.enter_context(ResultsWriter(out, manifest))

        writer = hosts.together("folder", opened)
        for line in writer.notes if writer else ():
            watch.note(line)
        scored = dict(writer.scored) if writer else {}
        for name, each in readers.items():
            asking = Asking(
                policy=name,
                modes=modes,
                keep_trajectories=keep_trajectories,
                num_policies=len(paths),
                time_alone=time_alone,
                window=window,
            )
            left, every = hosts.gather("left", count_left(drawn, asking, scored))[0]
            if left < every:
                watch.note(
                    f"{name}: {every - left} of {every} questions were scored before"
                )
            if not left:
                continue
            try:
                warm = each.warm(config, engine, drawn, asking, cache_bytes, watch.note)
                hosts.barrier("warm")  # else one would count what another compiles
                watch.begin(every - left, every)
                _ask(warm, each.builder, config, drawn, asking, writer, watch)
            except (KeyboardInterrupt, Terminated) as e:
                raise type(e)(
                    f"{len(writer.scored) if writer else 0} questions are scored; the "
                    "same command goes on from there"
                ) from None
            except RunError as e:
                raise RunError(
                    f"{e}; {len(writer.scored) if writer else 0} questions are scored, "
                    "and the same command goes on from there"
                ) from e
            finally:
                watch.end()
        if writer is None:
            return None
        folder = ResultsFolder(out)
        writer.write_results(tabulate.results([folder]))
    return folder


def by_name(paths: PathLike | Sequence[PathLike]) -> dict[str, str]:
    """Policies by name.

    Raises:
      InputError: two are one, or there is none.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    texts = [os.fspath(path) for path in given]
    if not texts:
        raise InputError("policies: none is given")
    names = dict(zip(told_apart(texts), texts, strict=True))
    if len(names) < len(texts):
        raise InputError(f"policies: given twice: {', '.join(texts)}")
    return names


def common_settings(policies: Mapping[str, str]) -> AgentConfig:
    """How policies read contexts, by their settings, which must be the same; greedily.

    Args:
      policies: name to directory.

    Raises:
      InputError: two differ; names the first difference.
    """
    (first, agent), *others = (
        (name, greedy(own_settings(path))) for name, path in policies.items()
    )
    for name, other in others:
        found = first_difference(config_to_dict(other), config_to_dict(agent))
        if found is not None:
            raise InputError(
                f"policies: {name} and {first} differ in their settings "
                f"(gru_mem.json): {found} as in {first}; evaluate each into a folder "
                "of its own"
            )
    return agent


def own_settings(path: str) -> AgentConfig:
    """How the policy of a directory reads contexts, by its own settings."""
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.policy.files import open_policy_dir

    return policy_settings(open_policy_dir(path))


def _ask(
    warm: Warm,
    builder: PromptBuilder,
    config: AgentConfig,
    drawn: Sequence[DrawnSet],
    asking: Asking,
    writer: ResultsWriter | None,
    watch: Observer,
) -> None:
    """Asks one policy what is left."""
    hosts = hosts_lib.current()

    def on_run(group: Sequence[DrawnSet], mode: str) -> None:
        warm.forget_documents()  # modes are compared: none has another's work
        names = ", ".join(each.of.name for each in group)
        labels = [str(label) for label in group[0].of.labels.values()]
        watch.run(" · ".join([mode, *labels, names]))

    def on_turn() -> None:
        hosts.check()
        watch.turn()

    ask(
        warm.generator,
        builder,
        config,
        drawn,
        dataclasses.replace(asking, window=warm.window),
        writer,
        on_run=on_run,
        forget=warm.forget,
        on_turn=on_turn,
        on_answer=lambda _: watch.answer(),
        hosts=hosts,
    )
