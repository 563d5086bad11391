"""Score a policy on questions whose answers are known.

Questions of a suite (--suite), of a file (--data), of any source (by gin:
EvaluationConfig.suite), or synthetic ones in the manner of RULER, are answered in
several modes; a table of answers, gates, exits, chunks read and wall-clock goes to
stdout, a page with plots to --out. Settings: the policy's own (gru_mem.json), then gin,
then flags.
"""

import argparse
import dataclasses
import sys

from gru_mem_jax.cli import arguments, suites


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
    arguments.add_json(add, "the rows")
    add("--modes", metavar="M[,M]", help="agent modes; default all three")
    suites.add_suite_flags(add)
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
    from gru_mem_jax.tokenization import TextTokenizer

    modes = args.modes and suites.choices("--modes", args.modes, MODES)
    target = json_output.open_target(args.json)
    agent = greedy(policy_settings(open_policy_dir(args.policy)))
    if args.out is not None:
        arguments.check_folder("--out", args.out)
    runtime.start(args)
    gin = gin_config.load(args, evaluating.configurables())
    suite = suites.default_suite(args, gin, agent.chunk_size)
    config = gin.build(EvaluationConfig(agent=agent, suite=suite))
    gin.check_all_read()
    agent, engine = config.agent, config.engine
    suite = suites.suite_from(
        args,
        config.suite,
        lambda: TextTokenizer.from_pretrained(args.policy),
        agent.chunk_size,
    )
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
