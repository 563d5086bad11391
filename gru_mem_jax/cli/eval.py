"""Score a policy on questions whose answers are known.

Questions of a file (--data), of any source (by gin: EvaluationConfig.suite), or
synthetic ones in the manner of RULER, are answered in several modes; a table of
answers, gates, exits, chunks read and wall-clock goes to stdout, a page with plots to
--out. Settings: the policy's own (gru_mem.json), then gin, then flags.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean

if TYPE_CHECKING:
    from gru_mem_jax.cli.gin_config import GinConfig
    from gru_mem_jax.evaluation.suite import Suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    count = arguments.integer(least=1)
    path = arguments.path
    add(
        "--policy",
        type=path,
        metavar="DIR",
        required=True,
        help="a Hugging Face directory, or hf://org/name@revision",
    )
    add(
        "--data",
        type=path,
        metavar="FILE",
        help="questions to ask, one JSON object a line (docs/data.md)",
    )
    add(
        "--out",
        type=path,
        metavar="DIR",
        help="folder for results.json, report.html and plots",
    )
    arguments.add_json(add, "the rows")
    add("--modes", metavar="M[,M]", help="agent modes; default all three")
    add("--tasks", metavar="T[,T]", help="synthetic tasks; default all")
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
        help="in each set; default all of a file",
    )
    add("--seed", type=arguments.integer(least=0), metavar="N", help="of the questions")
    add("--slots", type=count, metavar="N", help="trajectories that run side by side")
    arguments.add_template_variables(add)
    arguments.add_host_flags(add)
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.agent.config import MODES, replace_settings
    from gru_mem_jax.cli import evaluating, gin_config, json_output, runtime
    from gru_mem_jax.cli.train import listed_if_bad
    from gru_mem_jax.evaluation import EvaluationConfig
    from gru_mem_jax.evaluation.report import write_pages
    from gru_mem_jax.evaluation.run import greedy, table_rows
    from gru_mem_jax.hosts import processes as hosts
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.policy.files import open_policy_dir

    modes = args.modes and _choices("--modes", args.modes, MODES)
    target = json_output.open_target(args.json)
    agent = greedy(policy_settings(open_policy_dir(args.policy)))
    if args.out is not None:
        arguments.check_folder("--out", args.out)
    runtime.start(args)
    gin = gin_config.load(args, evaluating.configurables())
    suite = _suite(args, gin, agent.chunk_size)
    config = gin.build(EvaluationConfig(agent=agent, suite=suite))
    gin.check_all_read()
    agent, engine = config.agent, config.engine
    suite = _with_flags(config.suite, args)
    if args.template_variable:
        given = agent.prompt.template_variables | dict(args.template_variable)
        agent = replace_settings(agent, template_variables=given)
    if args.slots:
        engine = dataclasses.replace(engine, slots=args.slots)
    with listed_if_bad(None):
        results = evaluating.evaluate_policy(
            args.policy,
            agent,
            engine,
            list(suite.question_sets()),
            modes or config.modes,
            config.cache_bytes,
        )
    if not hosts.current().is_first:
        return 0
    rows = table_rows(results)
    if args.out:
        write_pages(args.out, results, title=f"Evaluation of {args.policy}")
    target.write({"policy": args.policy, "rows": rows})
    if not target.is_stdout:
        evaluating.print_rows(rows, sys.stdout)
    return 0


def _suite(args: argparse.Namespace, gin: "GinConfig", chunk_size: int) -> "Suite":
    """The questions of --data, or synthetic ones if gin says nothing else."""
    from gru_mem_jax.data.jsonl import JsonlSource
    from gru_mem_jax.evaluation.suite import SourceSuite
    from gru_mem_jax.tiny.sources import SyntheticSuite

    if args.data is None:
        return SyntheticSuite(chunk_tokens=min(chunk_size, 64))
    source = gin.build(JsonlSource(path=args.data, seed=args.seed or 0))
    return SourceSuite(sources={pathlib.Path(args.data).stem: source})


def _with_flags(suite: Any, args: argparse.Namespace) -> Any:
    """The suite with the settings of the flags."""
    from gru_mem_jax.tiny.synthetic import TASKS

    given: dict[str, Any] = {}
    if args.tasks is not None:
        given["tasks"] = _choices("--tasks", args.tasks, TASKS)
    if args.contexts is not None:
        given["contexts"] = tuple(_context(c) for c in args.contexts.split(","))
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


def _choices(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"{flag}: unknown name {name!r}{hint}")
    return names


def _context(text: str) -> tuple[str, int]:
    placement, colon, chunks = text.partition(":")
    if not colon or not chunks.isdecimal():
        raise InputError(f"--contexts: expected e.g. uniform:8, got {text!r}")
    return placement, int(chunks)
