"""Train a tiny policy and evaluate it: launch/quickstart.sh runs this.

A tiny policy learns to copy by supervision, with half of its gates taught wrong
(warm_start/); reinforcement learning corrects the gates (rl/, a run folder; policy/).
Both answer held-out questions in the three modes of the paper, the second in parallel
too (evaluation/). Finished stages are not repeated, and no question is asked twice.
Writes results.json, report.html and plots into --out; the table goes to stdout.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from gru_mem_jax.agent.config import PAPER_MODES
from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError

_MODES = PAPER_MODES[::-1]
_ALL_MODES = (*_MODES, "parallel")

# The gin file of each stage; "questions" is the evaluation.
_STAGES = {
    "sft": "gin/runs/sft.gin",
    "spoil": "gin/runs/spoil.gin",
    "rl": "gin/experiments/tiny.gin",
    "questions": "gin/runs/quickstart.gin",
}
_RL_STEPS = 24
_TITLE = "GRU-Mem quickstart"
_SUITES = ("before", "after", "long_memory", "alone")
_LATENCY = ("alone_seconds", "alone_steps", "alone_speed_up", "latency_ratio")
_MADE = ("sft", "spoil", "warm_start", "rl", "policy", "evaluation")


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
    add("--retrain", action="store_true", help="repeat finished stages")
    arguments.add_gin_bindings(parser)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Recipe:
    """The settings of all stages, checked before the first one starts.

    Attributes:
      sft, spoil: SFTConfig of the two supervised stages.
      rl: TrainConfig.
      texts: settings of these stages as gin text.
      before, after: held-out questions for the warm start, and for the final policy.
      long_memory: further questions for the final policy, that need a long memory.
      alone: some for it that are asked one at a time, to be timed.
      engine: EngineConfig of the evaluation.
    """

    sft: Any
    spoil: Any
    rl: Any
    texts: dict[str, str]
    before: Any
    after: Any
    long_memory: Any
    alone: Any
    engine: Any


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import runtime

    started = time.perf_counter()
    out = pathlib.Path(args.out)
    arguments.check_folder("--out", args.out)
    runtime.start()
    runtime.keep_freed_memory()
    recipe = _configure(args, out)
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
        train(recipe, out)
        seconds[stage] = time.perf_counter() - began
    evaluated = [
        _evaluate(recipe, out, *which)
        for which in (
            ("warm_start", "warm_start", "warm_start", recipe.before),
            ("policy", "rl", "policy", recipe.after, _ALL_MODES),
            ("long_memory", "rl", "policy", recipe.long_memory),
            ("alone", "rl", "policy", recipe.alone, _ALL_MODES, 1),
        )
    ]
    seconds["total"] = time.perf_counter() - started
    _report(recipe, out, evaluated, seconds)
    return 0


def _configure(args: argparse.Namespace, out: pathlib.Path) -> _Recipe:
    """All stages, from gin."""
    from gru_mem_jax.cli import evaluating, gin_config, sft, train
    from gru_mem_jax.sampling.config import EngineConfig
    from gru_mem_jax.tiny.sources import SyntheticSuite
    from gru_mem_jax.tiny.start import tiny_agent

    bindings = _by_stage(args.gin_bindings)
    own = {
        "spoil": [f"POLICY = {str(out / 'sft' / 'policy')!r}"],
        "rl": [f"POLICY = {str(out / 'warm_start')!r}", f"NUM_STEPS = {_RL_STEPS}"],
    }

    def load(stage: str, classes: Any) -> Any:
        return gin_config.GinConfig(
            classes, [_STAGES[stage]], [*own.get(stage, ()), *bindings[stage]]
        )

    # The policies do not exist yet, but their settings are known.
    agent = tiny_agent()
    sampling = dataclasses.replace(agent.sampling, temperature=1.0)
    made: dict[str, Any] = {}
    texts = {}
    for stage, command, default in (
        ("sft", sft, None),
        ("spoil", sft, agent),
        ("rl", train, dataclasses.replace(agent, sampling=sampling)),
    ):
        gin = load(stage, command.configurables())
        made[stage] = command.settings_from(gin, default)
        gin.check_all_read()
        texts[stage] = gin.operative_text()
    gin = load("questions", (*evaluating.configurables(), SyntheticSuite))
    suites = [gin.build_field(name, SyntheticSuite()) for name in _SUITES]
    engine = gin.build(EngineConfig())
    gin.check_all_read()
    if args.num_questions:
        number = args.num_questions
        suites = [dataclasses.replace(s, num_questions=number) for s in suites]
    return _Recipe(
        **made, texts=texts, **dict(zip(_SUITES, suites, strict=True)), engine=engine
    )


def _by_stage(bindings: Sequence[str]) -> dict[str, list[str]]:
    """The command line's bindings, "STAGE/NAME = VALUE", by stage; SEED is for all."""
    found: dict[str, list[str]] = {stage: [] for stage in _STAGES}
    for binding in bindings:
        name = binding.split("=", 1)[0].strip()
        stage, _, rest = binding.partition("/")
        if name == "SEED":
            for each in ("sft", "spoil", "rl"):
                found[each].append(binding)
        elif rest and stage.strip() in found:
            found[stage.strip()].append(rest)
        else:
            raise InputError(
                f"--gin.{name}: name its stage, --gin.STAGE/{name}: "
                f"{', '.join(_STAGES)}"
            )
    return found


def _train(recipe: _Recipe, out: pathlib.Path, stage: str, what: str) -> pathlib.Path:
    """Runs a stage, or resumes it; returns its run folder."""
    from gru_mem_jax import train

    folder = out / stage
    terminal.note(f"{folder}: {what}")
    config = getattr(recipe, stage)
    result = (train.train if stage == "rl" else train.sft)(
        config,
        folder,
        command=["gru-mem", *sys.argv[1:]],
        config_text=recipe.texts[stage],
    )
    if not result.finished:
        raise KeyboardInterrupt(f"the same command resumes it at step {result.step}")
    return folder


def _warm_start(recipe: _Recipe, out: pathlib.Path) -> None:
    """Makes a policy that copies well and gates badly."""
    from gru_mem_jax.runs.export import export_run

    target = out / "warm_start"
    if target.exists():
        terminal.note(f"{target} exists; --retrain repeats its training")
        return
    if not (out / "sft" / "policy").exists():
        run = _train(recipe, out, "sft", "learning to copy: some minutes on 2 cores")
        export_run(run, run / "policy")
    run = _train(recipe, out, "spoil", "half of the gates are taught wrong")
    export_run(run, target)


def _reinforce(recipe: _Recipe, out: pathlib.Path) -> None:
    """Makes the policy whose gates reinforcement learning has corrected."""
    from gru_mem_jax.runs.export import export_run

    target = out / "policy"
    if target.exists():
        terminal.note(f"{target} exists; --retrain repeats its training")
        return
    export_run(_train(recipe, out, "rl", "the gates learn from rewards"), target)


def _evaluate(
    recipe: _Recipe,
    out: pathlib.Path,
    name: str,
    stage: str,
    policy: str,
    suite: Any,
    modes: Sequence[str] = _MODES,
    time_alone: int = 0,
) -> Any:
    """Asks a policy; its `ResultsFolder`."""
    from gru_mem_jax import evaluation
    from gru_mem_jax.cli import evaluating

    terminal.note(f"{out / policy} answers questions")
    return evaluation.evaluate(
        {stage: out / policy},
        suite,
        out / "evaluation" / name,
        modes=modes,
        engine=recipe.engine,
        time_alone=time_alone,
        title=_TITLE,
        observer=evaluating.Shown(),
    )


def _rows(folder: Any) -> list[dict[str, Any]]:
    """The table of an evaluation, whose policy is the stage that it is from."""
    rows = [dict(row) for row in folder.results()["rows"]]
    return [{"stage": row.pop("policy"), **row} for row in rows]


def _add_latency(rows: list[dict[str, Any]], alone: list[dict[str, Any]]) -> None:
    """Gives sums of a context the latency of a question that was asked there alone."""
    from gru_mem_jax.evaluation.tabulate import MIX

    keys = ("stage", "set", "mode", "placement", "num_chunks")
    found = {tuple(r.get(k) for k in keys): r for r in alone if r["set"] == MIX}
    for row in rows:
        timed = found.get(tuple(row.get(k) for k in keys), {})
        row |= {name: timed[name] for name in _LATENCY if name in timed}


def _spent(seconds: float) -> str:
    """Seconds as text; a finished stage took none."""
    return f"{seconds:.0f} s" if seconds >= 1 else "finished before"


def _report(
    recipe: _Recipe, out: pathlib.Path, evaluated: list[Any], seconds: dict[str, float]
) -> None:
    from gru_mem_jax.cli import evaluating
    from gru_mem_jax.durable_files import write_atomically, writing
    from gru_mem_jax.evaluation.report import write_report_page
    from gru_mem_jax.evaluation.tabulate import MIX
    from gru_mem_jax.runs.metrics import read_metrics
    from gru_mem_jax.runs.plots import plot_training

    before, after, longer_rows, alone = (_rows(folder) for folder in evaluated)
    _add_latency(after, alone)
    rows = [*before, *after]
    overview, *_ = plot_training(
        {"rl": read_metrics(out / "rl" / "metrics.jsonl")}, out / "rl" / "plots"
    )
    model, data = recipe.sft.start, recipe.sft.source.config
    rollouts = recipe.rl.rollouts
    suite, longer = recipe.after, recipe.long_memory
    heading = f"A long memory: {longer.min_items} to {longer.max_items} values or keys"
    results = {
        "seconds_total": seconds["total"],
        "seconds_warm_start": seconds["warm_start"],
        "seconds_rl": seconds["rl"],
        "seed": recipe.sft.loop.seed,
        "rows": rows,
        "long_memory_rows": longer_rows,
    }
    write_report_page(
        [folder.path for folder in evaluated[:-1]],
        out,
        title=_TITLE,
        notes=[
            f"A tiny policy (Qwen2, {model.num_layers} layers, width "
            f"{model.hidden_size}), trained from a structured start (attention is "
            f"wired, the task is learnt) on oracle turns of {data.num_chunks} chunks "
            f"of {data.chunk_tokens} tokens. In the warm start "
            f"{recipe.spoil.turns.wrong_updates:.0%} of the needless updates and of "
            f"the due exits were taught wrong; reinforcement learning then had "
            f"{recipe.rl.loop.num_steps} steps of {rollouts.questions_per_step} "
            f"questions x {rollouts.group_size} rollouts. Questions have key-value "
            f"pairs that training never saw; multi value and multi query ask for "
            f"{suite.min_items} to {suite.max_items}. {heading}: in the sets of these "
            "two alone.",
            f"Warm start: {_spent(seconds['warm_start'])}, reinforcement learning: "
            f"{_spent(seconds['rl'])}, all: {_spent(seconds['total'])}. “mix” is over "
            f"all tasks but the chain; they run together, and each has its share of "
            f"the seconds. MemAgent has no gates to measure. Asked alone, to be timed: "
            f"{recipe.alone.num_questions} of {', '.join(recipe.alone.tasks)}.",
        ],
        pictures=[(overview, "Reinforcement learning of the gates, step by step.")],
    )
    with writing(out / "results.json"):
        write_atomically(out / "results.json", json.dumps(results, indent=1) + "\n")
    for title, printed in (("", rows), (heading, longer_rows)):
        mixes = [row for row in printed if row["set"] == MIX]
        evaluating.print_rows(mixes or printed, sys.stdout, title)
    terminal.note(
        f"{seconds['total']:.0f} s in all; set by set: {out / 'report.html'}; try"
    )
    terminal.note(
        f"  gru-mem ask --policy {out / 'policy'} --question 'Which code belongs to "
        "heron?' --context FILE"
    )
