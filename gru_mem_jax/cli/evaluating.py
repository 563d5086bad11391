"""What `eval` and `quickstart` share: a warm engine, sets of questions, progress."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gru_mem_jax.agent.config import AgentConfig, check_budgets, longest_turn
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.cli import terminal
from gru_mem_jax.sampling.config import EngineConfig

if TYPE_CHECKING:
    from gru_mem_jax.evaluation.questions import DrawnSet
    from gru_mem_jax.evaluation.run import SetResult
    from gru_mem_jax.evaluation.suite import QuestionSet
    from gru_mem_jax.hosts.processes import Hosts
    from gru_mem_jax.policy.files import PolicyDir


_PIPE_WIDTH = 200  # of the table, where no terminal has a width


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
        tiny.SyntheticSuite,
    )


def evaluate_policy(
    policy_dir: str,
    config: AgentConfig,
    engine_config: EngineConfig,
    sets: "Sequence[QuestionSet]",
    modes: Sequence[str],
    cache_bytes: int | None = None,
) -> "list[SetResult]":
    """Loads a policy, compiles its programs, and runs every set in every mode.

    Settings and questions are checked before the weights are read.

    Args:
      policy_dir: a Hugging Face directory.
      config: of the agent.
      engine_config: its max_length is set by the budgets.
      sets, modes: see `evaluation.run.evaluate`.
      cache_bytes: see `EvaluationConfig`.
    """
    from rich import progress
    from rich.console import Console

    from gru_mem_jax.evaluation.questions import draw_sets
    from gru_mem_jax.evaluation.run import count_turns, evaluate, share_a_document
    from gru_mem_jax.hosts import processes as hosts_lib
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.hf import load_config, load_policy
    from gru_mem_jax.sampling import engine_pool
    from gru_mem_jax.sampling.footprint import (
        check_engine_fits,
        engine_dtype,
        with_tensor,
    )
    from gru_mem_jax.sampling.prefix_store import (
        PrefixStore,
        default_memory_bytes,
        with_trunks,
    )
    from gru_mem_jax.tokenization import TextTokenizer

    hosts = hosts_lib.current()
    note = terminal.note if hosts.is_first else _unsaid
    directory = open_policy_dir(policy_dir)
    encoder = TextTokenizer.from_pretrained(directory.root)
    shape = load_config(directory)
    encoder.check_rows(shape.vocab_size)
    builder = PromptBuilder(encoder, config.prompt)
    engine_config = engine_config.sized_for(_longest_turn(builder, config, modes))
    mesh, policy = engine_pool.local_mesh(), make_policy(shape)
    devices = list(mesh.devices.flat)
    engine_config = with_tensor(policy, engine_config, devices)
    check_engine_fits(
        policy, engine_config, devices=devices, tensor=engine_config.tensor
    )
    drawn = draw_sets(sets, builder, config)
    if hosts.count > 1:
        _agree(hosts, directory, (config, engine_config, modes, cache_bytes), drawn)
    for line in (line for each in drawn for line in each.lines()):
        note(terminal.plain_line(line))
    store = None
    if cache_bytes != 0 and config.chunk_first and share_a_document(drawn):
        store = PrefixStore("of one engine", cache_bytes or default_memory_bytes())
    if store is not None or config.reads_ahead:
        engine_config = with_trunks(engine_config, builder, config)
    # Cut over the devices, and let go of where that was no engine's own.
    loaded = load_policy(
        directory.root,
        engine_dtype(engine_config),
        mesh=mesh if mesh.size > 1 else None,
        form="sampling",
    )
    engine = engine_pool.make(*loaded, engine_config, encoder, mesh, store)
    del loaded
    note(engine.attention)
    note("compiling the sampling programs")
    programs = engine.warm_up()
    seconds = engine.stats()["compile_seconds"]
    note(f"{programs} programs ready after {seconds:.1f} s")
    hosts.barrier("warm")  # else one would count what another compiles
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("turns"),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True, no_color=not terminal.wants_colour(sys.stderr)),
        disable=not (hosts.is_first and terminal.is_live(sys.stderr)),
    )
    with bar:
        task = bar.add_task("", total=count_turns(drawn, modes))

        def on_sets(group: "Sequence[DrawnSet]", mode: str) -> None:
            if store is not None:
                store.clear()  # modes are compared: none has what another computed
            names = ", ".join(each.of.name for each in group)
            labels = [str(label) for label in group[0].of.labels.values()]
            text = " · ".join([mode, *labels, names])
            bar.update(task, description=text)
            if bar.disable:
                note(text)

        def advance(task: "progress.TaskID") -> None:
            hosts.check()
            bar.advance(task)

        results = evaluate(
            engine,
            encoder,
            config,
            drawn,
            modes,
            on_sets,
            lambda: advance(task),
            hosts,
        )
        bar.update(task, completed=count_turns(drawn, modes))
    return results


def _unsaid(line: str) -> None:
    """What the first of several processes alone says."""


def _agree(
    hosts: "Hosts", directory: "PolicyDir", settings: Any, sets: "Sequence[DrawnSet]"
) -> None:
    """Refuses processes that would answer other questions, or with other weights."""
    from gru_mem_jax.runs.checkpoints.store import weights_digest

    asked = [[example.id for example in each.examples] for each in sets]
    facts = {
        "weights (sha256)": weights_digest(directory),
        "settings": repr(settings),
        "questions": asked,
    }
    hosts.agree("evaluation", facts)


def _longest_turn(
    builder: PromptBuilder, config: AgentConfig, modes: Sequence[str]
) -> int:
    """Tokens of the longest turn within the budgets.

    Raises:
      InputError: a prompt of full budgets exceeds prompt_tokens.
    """
    longest = 0
    for mode in modes:
        each = dataclasses.replace(config, mode=mode)
        check_budgets(builder, each)
        longest = max(longest, longest_turn(builder, each))
    return longest


def print_rows(rows: Sequence[dict[str, Any]], stream: TextIO, title: str = "") -> None:
    """Prints the table."""
    from gru_mem_jax.evaluation.table import rich_table

    terminal.console(stream, _PIPE_WIDTH).print(rich_table(rows, title))
