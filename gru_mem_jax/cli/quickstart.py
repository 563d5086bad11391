"""Train a tiny policy, then see GRU-Mem at work: what launch/quickstart.sh runs.

Trains on oracle turns unless the policy is there already, answers held-out questions
in the three modes, and leaves policy/, results.json, report.html, memory.png and
trace.png in --out. The table goes to stdout.
"""

import argparse
import dataclasses
import pathlib
import shutil
import sys
import time
from typing import Any

from gru_mem_jax.cli import arguments, terminal

_GIN_FILE = "gin/local_tiny.gin"
_TITLE = "GRU-Mem quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/quickstart", help="default %(default)s")
    add(
        "--num_questions",
        type=arguments.integer(least=1),
        metavar="N",
        help="of each task and kind of context",
    )
    add("--retrain", action="store_true", help="train even if the policy is there")
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import evaluating
    from gru_mem_jax.cli.ask import policy_settings
    from gru_mem_jax.evaluation.run import write_pages
    from gru_mem_jax.evaluation.suite import MODES
    from gru_mem_jax.policy.files import open_policy_dir

    started = time.perf_counter()
    out = pathlib.Path(args.out)
    sft_config, suite, engine_config = _configure(args)
    policy_dir = _train(sft_config, out, retrain=args.retrain)
    trained = time.perf_counter()
    config = evaluating.greedy(policy_settings(open_policy_dir(policy_dir)))
    results = evaluating.evaluate_policy(
        str(policy_dir), config, engine_config, list(suite.question_sets()), MODES
    )
    seconds = time.perf_counter() - started
    rows = write_pages(
        out,
        results,
        evaluating.MIX,
        title=_TITLE,
        notes=[
            f"A tiny policy ({_shape(sft_config)}), trained from a structured start "
            f"(attention is wired, the task is learnt) on oracle turns of "
            f"{sft_config.data.num_chunks} chunks of {config.chunk_size} tokens; "
            f"questions with key-value pairs that training never saw; multi value and "
            f"multi query ask for {suite.min_items} to {suite.max_items}.",
            f"Training {trained - started:.0f} s, questions "
            f"{seconds - (trained - started):.0f} s. Ratios in percent; MemAgent has "
            f"no gates: it counts as always updating, never exiting. “all” is over "
            f"{', '.join(evaluating.MIX)}.",
        ],
        extra={
            "seconds_total": seconds,
            "seconds_training": trained - started,
            "seed": sft_config.seed,
        },
    )
    evaluating.print_rows(rows, sys.stdout)
    terminal.note(f"{seconds:.0f} s in all; look at {out / 'report.html'}, then try")
    terminal.note(
        f"  gru-mem ask --policy {policy_dir} --question 'Which code belongs to "
        "heron?' --context FILE"
    )
    return 0


def _configure(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Training, questions and engine, from gin."""
    from gru_mem_jax.cli import evaluating, gin_config
    from gru_mem_jax.cli.sft import configurables
    from gru_mem_jax.evaluation.suite import SyntheticSuite
    from gru_mem_jax.sampling.config import EngineConfig
    from gru_mem_jax.sft.config import SFTConfig

    if not args.gin_file:
        args.gin_file = [_GIN_FILE]
    classes = {*configurables(), *evaluating.configurables()}
    gin = gin_config.load(args, sorted(classes, key=lambda cls: cls.__name__))
    sft_config = gin.build(SFTConfig())
    data = sft_config.data
    default_suite = SyntheticSuite(
        chunk_tokens=data.chunk_tokens,
        min_items=data.min_items,
        max_items=data.max_items,
    )
    suite = gin.build(default_suite)
    engine_config = gin.build(EngineConfig())
    gin.check_all_read()
    if args.num_questions:
        suite = dataclasses.replace(suite, num_questions=args.num_questions)
    return sft_config, suite, engine_config


def _train(config: Any, out: pathlib.Path, *, retrain: bool) -> pathlib.Path:
    """The policy's directory, trained if it is not there."""
    from gru_mem_jax import sft
    from gru_mem_jax.cli import runtime

    policy_dir = out / "policy"
    if policy_dir.exists() and not retrain:
        terminal.note(f"{policy_dir} is there; --retrain trains it anew")
        return policy_dir
    for name in ("policy", "checkpoints"):  # of an earlier or a broken-off run
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "metrics.jsonl").unlink(missing_ok=True)
    runtime.start()
    terminal.note(f"training a tiny policy into {out}: some minutes on 2 cores")
    return sft.run(config, out).policy_dir


def _shape(config: Any) -> str:
    model = config.model
    return f"Qwen2, {model.num_layers} layers, width {model.hidden_size}"
