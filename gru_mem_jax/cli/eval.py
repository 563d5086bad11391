"""Score a policy on questions whose answers are known.

Held-out synthetic questions in the manner of RULER are answered in several modes; a
table of answers, gates, exits, chunks read and wall-clock goes to stdout, a page with
plots to --out. Settings: the policy's own (gru_mem.json), then gin, then flags.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean


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
        "--out",
        type=path,
        metavar="DIR",
        help="folder for results.json, report.html and plots",
    )
    add(
        "--json",
        type=os.path.expanduser,
        metavar="OUT",
        help="write the rows as JSON; - for stdout",
    )
    add("--modes", metavar="M[,M]", help="agent modes; default all three")
    add("--tasks", metavar="T[,T]", help="synthetic tasks; default all")
    add(
        "--contexts",
        metavar="P:N[,P:N]",
        help="placement of the evidence and number of chunks, e.g. uniform:8",
    )
    add("--num_questions", type=count, metavar="N", help="in each set")
    add("--seed", type=arguments.integer(least=0), metavar="N", help="of the questions")
    add("--slots", type=count, metavar="N", help="loops that run side by side")
    arguments.add_template_variables(add)
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.agent.config import replace_settings
    from gru_mem_jax.cli import evaluating, gin_config, json_output, runtime
    from gru_mem_jax.evaluation.run import write_pages
    from gru_mem_jax.evaluation.suite import MODES, table_rows
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.tiny.sources import SyntheticSuite

    modes = _choices("--modes", args.modes, MODES)
    target = json_output.open_target(args.json) if args.json else None
    config = evaluating.greedy(policy_settings(open_policy_dir(args.policy)))
    if args.out is not None:
        arguments.check_folder("--out", args.out)
    runtime.start()
    suite = SyntheticSuite(chunk_tokens=min(config.chunk_size, 64))
    engine_config = evaluating.EngineConfig()
    if args.gin_file or args.gin_bindings:
        gin = gin_config.load(args, evaluating.configurables())
        config = gin.build(config)
        suite = gin.build(suite)
        engine_config = gin.build(engine_config)
        gin.check_all_read()
    if args.template_variable:
        given = config.prompt.template_variables | dict(args.template_variable)
        config = replace_settings(config, template_variables=given)
    suite = dataclasses.replace(suite, **_suite_flags(args))
    if args.slots:
        engine_config = dataclasses.replace(engine_config, slots=args.slots)
    results = evaluating.evaluate_policy(
        args.policy, config, engine_config, list(suite.question_sets()), modes
    )
    rows = table_rows(results, evaluating.MIX)
    if args.out:
        title = f"Evaluation of {args.policy}"
        write_pages(args.out, results, evaluating.MIX, title=title)
    if target is not None:
        target.write({"policy": args.policy, "rows": rows})
    if target is None or not target.is_stdout:
        evaluating.print_rows(rows, sys.stdout)
    return 0


def _suite_flags(args: argparse.Namespace) -> dict[str, Any]:
    from gru_mem_jax.tiny.synthetic import TASKS

    given: dict[str, Any] = {}
    if args.tasks is not None:
        given["tasks"] = _choices("--tasks", args.tasks, TASKS)
    if args.contexts is not None:
        given["contexts"] = tuple(_context(c) for c in args.contexts.split(","))
    for name in ("num_questions", "seed"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    return given


def _choices(flag: str, text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return tuple(known)
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
