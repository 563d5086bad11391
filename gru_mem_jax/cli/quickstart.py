"""Train a tiny policy, then see GRU-Mem at work: what launch/quickstart.sh runs.

A tiny policy is taught to copy by supervision, with half of its gates wrong
(warm_start/); reinforcement learning mends the gates (rl/, a run folder; policy/). Both
answer held-out questions in the three modes. What is there already is not made again.
Leaves results.json, report.html and plots in --out; the table goes to stdout.
"""

import argparse
import dataclasses
import pathlib
import shutil
import sys
import time
from typing import Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError

_GIN_FILE = "gin/local_tiny.gin"
_TITLE = "GRU-Mem quickstart"
_SUITES = ("before", "evaluation", "long_memory")
_MADE = ("sft", "spoil", "warm_start", "rl", "policy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add(
        "--out",
        type=arguments.path,
        metavar="DIR",
        default="runs/quickstart",
        help="default %(default)s",
    )
    add(
        "--num_questions",
        type=arguments.integer(least=1),
        metavar="N",
        help="of each task and kind of context",
    )
    add("--retrain", action="store_true", help="train anew, even if all is there")
    arguments.add_gin_flags(parser)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is done, checked before the first minute of work.

    Attributes:
      sft, spoil: SFTConfig of the two supervised stages.
      rl: TrainConfig.
      rl_text: the settings as gin text.
      before, after: held-out questions for the warm start, and for the end.
      long_memory: more for the end, that need a long memory.
      engine: EngineConfig of the evaluation.
    """

    sft: Any
    spoil: Any
    rl: Any
    rl_text: str
    before: Any
    after: Any
    long_memory: Any
    engine: Any


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import runtime

    started = time.perf_counter()
    out = pathlib.Path(args.out)
    arguments.check_folder("--out", args.out)
    runtime.start()
    plan = _configure(args, out)
    if args.retrain:
        for name in _MADE:
            shutil.rmtree(out / name, ignore_errors=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out: {out}: {e.strerror}") from None
    seconds = {}
    for stage, train in (("warm_start", _warm_start), ("rl", _reinforce)):
        began = time.perf_counter()
        train(plan, out)
        seconds[stage] = time.perf_counter() - began
    results, long_memory = [], []
    for stage, name, suite, kept in (
        ("warm_start", "warm_start", plan.before, results),
        ("rl", "policy", plan.after, results),
        ("rl", "policy", plan.long_memory, long_memory),
    ):
        for result in _evaluate(plan, out / name, suite):
            kept.append(dataclasses.replace(result, stage=stage))
    seconds["total"] = time.perf_counter() - started
    _report(plan, out, results, long_memory, seconds)
    return 0


def _configure(args: argparse.Namespace, out: pathlib.Path) -> _Plan:
    """All stages, from gin."""
    from gru_mem_jax.cli import evaluating, gin_config, sft, train
    from gru_mem_jax.sampling.config import EngineConfig
    from gru_mem_jax.sft.config import SFTConfig
    from gru_mem_jax.sft.train import agent_settings
    from gru_mem_jax.tiny.sources import SyntheticSuite

    if not args.gin_file:
        args.gin_file = [_GIN_FILE]
    args.gin_bindings.append(f"POLICY = {str(out / 'warm_start')!r}")
    classes = {
        *sft.configurables(),
        *train.configurables(),
        *evaluating.configurables(),
    }
    gin = gin_config.load(args, sorted(classes, key=lambda cls: cls.__name__))
    first = gin.build_field("sft", SFTConfig())
    spoil = gin.build_field("spoil", SFTConfig())
    spoil = dataclasses.replace(
        spoil, policy=str(out / "sft" / "policy"), seed=first.seed
    )
    agent = agent_settings(first)
    sampling = dataclasses.replace(agent.sampling, temperature=1.0)
    rl = train.settings_from(gin, dataclasses.replace(agent, sampling=sampling))
    data = first.data
    default = SyntheticSuite(
        chunk_tokens=data.chunk_tokens,
        min_items=data.min_items,
        max_items=data.max_items,
    )
    suites = [gin.build_field(name, default) for name in _SUITES]
    engine = gin.build_field("evaluation", EngineConfig())
    gin.check_all_read()
    if args.num_questions:
        number = args.num_questions
        suites = [dataclasses.replace(s, num_questions=number) for s in suites]
    return _Plan(
        sft=first,
        spoil=spoil,
        rl=rl,
        rl_text=gin.operative_text(),
        **dict(zip(("before", "after", "long_memory"), suites, strict=True)),
        engine=engine,
    )


def _warm_start(plan: _Plan, out: pathlib.Path) -> None:
    """Leaves a policy that copies well and gates badly."""
    target = out / "warm_start"
    if target.exists():
        terminal.note(f"{target} is there; --retrain trains it anew")
        return
    stages = (
        ("sft", plan.sft, "learning to copy: some minutes on 2 cores"),
        ("spoil", plan.spoil, "half of the gates are taught wrong"),
    )
    for name, config, what in stages:
        if not (out / name / "policy").exists():
            from gru_mem_jax.sft import train as sft

            shutil.rmtree(out / name, ignore_errors=True)  # of a broken-off run
            terminal.note(f"{out / name}: {what}")
            sft.run(config, out / name)
    (out / "spoil" / "policy").rename(target)


def _reinforce(plan: _Plan, out: pathlib.Path) -> None:
    """Leaves the policy whose gates reinforcement learning has mended."""
    target = out / "policy"
    if target.exists():
        terminal.note(f"{target} is there; --retrain trains it anew")
        return
    from gru_mem_jax.train import export_run, train

    terminal.note(f"{out / 'rl'}: the gates learn from rewards")
    result = train(
        plan.rl,
        plan.rl.train.policy,
        out / "rl",
        command=["gru-mem", *sys.argv[1:]],
        config_text=plan.rl_text,
    )
    if not result.finished:
        raise KeyboardInterrupt(f"the same command goes on from step {result.step}")
    export_run(out / "rl", target)


def _evaluate(plan: _Plan, policy_dir: pathlib.Path, suite: Any) -> list[Any]:
    from gru_mem_jax.cli import evaluating
    from gru_mem_jax.evaluation.suite import MODES
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.policy.files import open_policy_dir

    terminal.note(f"{policy_dir} answers questions")
    config = evaluating.greedy(policy_settings(open_policy_dir(policy_dir)))
    sets = list(suite.question_sets())
    return evaluating.evaluate_policy(str(policy_dir), config, plan.engine, sets, MODES)


def _spent(seconds: float) -> str:
    """A stage that was there already took no time."""
    return f"{seconds:.0f} s" if seconds >= 1 else "there before"


def _report(
    plan: _Plan,
    out: pathlib.Path,
    results: list[Any],
    long_memory: list[Any],
    seconds: dict[str, float],
) -> None:
    from gru_mem_jax.cli import evaluating
    from gru_mem_jax.evaluation.run import write_pages
    from gru_mem_jax.evaluation.suite import table_rows
    from gru_mem_jax.runs.metrics import read_metrics
    from gru_mem_jax.runs.plots import plot_training

    overview, *_ = plot_training(
        {"rl": read_metrics(out / "rl" / "metrics.jsonl")}, out / "rl" / "plots"
    )
    model, data, train = plan.sft.model, plan.sft.data, plan.rl.train
    suite, longer = plan.after, plan.long_memory
    heading = f"A long memory: {longer.min_items} to {longer.max_items} values or keys"
    rows = write_pages(
        out,
        results,
        evaluating.MIX,
        title=_TITLE,
        notes=[
            f"A tiny policy (Qwen2, {model.num_layers} layers, width "
            f"{model.hidden_size}), trained from a structured start (attention is "
            f"wired, the task is learnt) on oracle turns of {data.num_chunks} chunks "
            f"of {data.chunk_tokens} tokens. In the warm start "
            f"{plan.spoil.turns.wrong_updates:.0%} of the needless updates and of the "
            f"due exits were taught wrong; reinforcement learning then had "
            f"{train.num_steps} steps of {train.questions_per_step} questions x "
            f"{train.group_size} rollouts. Questions have key-value pairs that "
            f"training never saw; multi value and multi query ask for "
            f"{suite.min_items} to {suite.max_items}.",
            f"Warm start: {_spent(seconds['warm_start'])}, reinforcement learning: "
            f"{_spent(seconds['rl'])}, all: {_spent(seconds['total'])}. The tasks of "
            f"“all” run together, and each has its share of the seconds. In percent; "
            f"MemAgent has no gates: it counts as always updating, never exiting. "
            f"“all” is over {', '.join(evaluating.MIX)}.",
        ],
        extra={
            "seconds_total": seconds["total"],
            "seconds_warm_start": seconds["warm_start"],
            "seconds_rl": seconds["rl"],
            "seed": plan.sft.seed,
        },
        pictures=[(overview, "Reinforcement learning of the gates, step by step.")],
        further={"long_memory_rows": (heading, long_memory)},
    )
    for title, printed in (
        ("", rows),
        (heading, table_rows(long_memory, evaluating.MIX)),
    ):
        mixes = [row for row in printed if row["task"] == "all"]
        evaluating.print_rows(mixes, sys.stdout, title)
    terminal.note(
        f"{seconds['total']:.0f} s in all; by task: {out / 'report.html'}; try"
    )
    terminal.note(
        f"  gru-mem ask --policy {out / 'policy'} --question 'Which code belongs to "
        "heron?' --context FILE"
    )
