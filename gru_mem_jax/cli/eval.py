"""Score a policy on questions whose answers are known.

Questions of a suite (--suite), of a file or data set (--data), of any source (by gin:
EvaluationConfig.suite), or synthetic ones in the manner of RULER, are answered in
several modes; a table of answers, gates, exits, chunks read and wall-clock goes to
stdout, all that was measured to --out: `gru-mem report` makes a page of it, and the
same command goes on where an evaluation was stopped. Settings: the policy's own
(gru_mem.json), then gin, then flags.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator

from gru_mem_jax.cli import arguments, server, suites, terminal
from gru_mem_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    from gru_mem_jax.evaluation.records import KEPT

    add = parser.add_argument
    count = arguments.integer(least=1)
    path = arguments.path
    add(
        "--policy",
        type=path,
        metavar="DIR",
        action="append",
        default=[],
        help="a Hugging Face directory, or hf://org/name@revision; several, such as "
        "seeds of one training: each in turn, and their mean",
    )
    add(
        "--out",
        type=path,
        metavar="DIR",
        help="folder for all that is measured; if it holds a part of this evaluation, "
        "only the rest is asked",
    )
    arguments.add_json(add, "the rows")
    server.add_server_flags(add)
    add(
        "--modes",
        metavar="M[,M]",
        help="agent modes memagent, without_exit_gate, with_exit_gate (these by "
        "default), reread and parallel, and the baselines whole_text, bm25 and "
        "question_alone",
    )
    add(
        "--window",
        type=count,
        metavar="N",
        help="tokens of prompt and completion that whole_text and bm25 may fill; "
        "default what the model was made for",
    )
    suites.add_suite_flags(add)
    add("--slots", type=count, metavar="N", help="trajectories that run side by side")
    add(
        "--keep_trajectories",
        type=arguments.integer(least=0),
        metavar="N",
        default=KEPT,
        help="trajectories that are kept to be looked at, over all sets, modes and "
        "policies; default %(default)s",
    )
    add(
        "--time_alone",
        type=arguments.integer(least=0),
        metavar="N",
        default=0,
        help="questions of each set that are asked once more, one at a time, to be "
        "timed; default none",
    )
    arguments.add_template_variables(add)
    arguments.add_form_flags(add)
    arguments.add_host_flags(add)
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax import evaluation
    from gru_mem_jax.agent.config import MODES, check_taught, replace_settings
    from gru_mem_jax.cli import evaluating, gin_config, json_output, runtime
    from gru_mem_jax.cli.train import listed_if_bad
    from gru_mem_jax.evaluation import BASELINES, EvaluationConfig
    from gru_mem_jax.evaluation.evaluating import by_name, common_settings
    from gru_mem_jax.sampling import RemoteConfig
    from gru_mem_jax.tokenization import TextTokenizer

    modes = None
    if args.modes is not None:
        modes = suites.choices("--modes", args.modes, (*MODES, *BASELINES))
    target = json_output.open_target(args.json)
    served = server.served(args, args.policy)
    if served is None and not args.policy:
        raise InputError("give --policy DIR, or --server URL")
    policies = by_name([served.settings] if served else args.policy)
    agent = common_settings(policies)
    if args.out is not None:
        arguments.check_folder("--out", args.out)
    if served is None:
        runtime.start(args)
    gin = gin_config.load(args, evaluating.configurables())
    suite = suites.default_suite(args, gin, agent.chunk_size)
    config = gin.build(EvaluationConfig(agent=agent, suite=suite))
    remote = gin.build(RemoteConfig(send=args.send or "auto"))
    gin.check_all_read()
    check_taught(agent, modes or config.modes)
    agent, engine = config.agent, config.engine
    suite = suites.suite_from(
        args,
        config.suite,
        lambda: TextTokenizer.from_pretrained(
            served.tokenizer if served else args.policy[0]
        ),
        agent.chunk_size,
    )
    if args.template_variable:
        given = agent.prompt.template_variables | dict(args.template_variable)
        agent = replace_settings(agent, template_variables=given)
    agent = replace_settings(agent, **arguments.form_settings(args))
    if args.slots:
        engine = dataclasses.replace(engine, slots=args.slots)
    if args.slots and served:
        remote = dataclasses.replace(remote, concurrency=args.slots)
    with listed_if_bad(None), _folder(args.out) as out:
        folder = evaluation.evaluate(
            {served.name: served.where} if served else policies,
            suite,
            out,
            modes=modes or config.modes,
            agent=agent,
            engine=engine,
            cache_bytes=config.cache_bytes,
            keep_trajectories=args.keep_trajectories if args.out else 0,
            time_alone=args.time_alone,
            window=args.window,
            reader=served.reader(remote) if served else None,
            observer=evaluating.Shown(),
        )
        if folder is None:  # not the first of several processes
            return 0
        results, status = folder.results(), evaluating.status(folder)
    target.write(results)
    if not target.is_stdout:
        evaluating.print_rows(results["rows"], sys.stdout)
    if args.out is not None:
        terminal.note(f"  gru-mem report {args.out} --out {args.out}")
    return status


@contextlib.contextmanager
def _folder(out: str | None) -> Iterator[str]:
    """--out, or a folder for the time of the evaluation."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="gru-mem-eval-") as scratch:
        yield scratch
