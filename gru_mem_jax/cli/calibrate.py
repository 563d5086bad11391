"""Say how far a policy's gates can be believed, and pick their thresholds.

Labelled questions are read to the end in constrained turns, so that P(yes) and P(end)
of every chunk are known, and compared with the evidence: reliability, calibration
error, AUC. The update threshold is the best by --criterion. The exit threshold reads
the fewest chunks for all but --max_loss of the evidence; then the questions are asked
with it, its neighbours and 0.5, for true scores. The thresholds go into
OUT/gru_mem.json, and with --write into the policy's own. Questions: as for
`gru-mem eval`, with evidence labels, best such as nothing was trained on. The same
command goes on where it was stopped.
"""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any, TextIO

from gru_mem_jax.cli import arguments, suites, terminal

if TYPE_CHECKING:
    from gru_mem_jax.evaluation.calibration.result import Calibration, Run
    from gru_mem_jax.evaluation.statistics import Share

_PIPE_WIDTH = 160  # of the tables, where no terminal has a width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    from gru_mem_jax.evaluation.calibration.gates import CRITERIA

    add = parser.add_argument
    add(
        "--policy",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="a Hugging Face directory, or hf://org/name@revision",
    )
    add(
        "--out",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="folder for readings, figures, the picture and gru_mem.json; if it holds "
        "a part of this calibration, only the rest is asked",
    )
    add(
        "--write",
        action="store_true",
        help="put the thresholds into the policy's own gru_mem.json too, all else as "
        "it is",
    )
    add(
        "--criterion",
        choices=CRITERIA,
        default=CRITERIA[0],
        help="of the update threshold; default %(default)s",
    )
    add(
        "--max_loss",
        type=arguments.number(),
        metavar="SHARE",
        default=0.01,
        help="of the questions, how many may have their evidence missed by an early "
        "exit; default %(default)s",
    )
    add(
        "--no_runs",
        action="store_true",
        help="pick by the readings to the end alone, and ask nothing at thresholds",
    )
    arguments.add_json(add, "what was found")
    suites.add_suite_flags(add)
    add("--slots", type=arguments.integer(least=1), metavar="N",
        help="trajectories that run side by side")  # fmt: skip
    arguments.add_template_variables(add)
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax import evaluation
    from gru_mem_jax.agent.config import replace_settings
    from gru_mem_jax.cli import evaluating, gin_config, json_output, runtime
    from gru_mem_jax.cli.train import listed_if_bad
    from gru_mem_jax.evaluation import EvaluationConfig
    from gru_mem_jax.evaluation.calibration.settings import check_writable
    from gru_mem_jax.evaluation.evaluating import by_name, common_settings
    from gru_mem_jax.tokenization import TextTokenizer

    target = json_output.open_target(args.json)
    arguments.check_folder("--out", args.out)
    if args.write:
        check_writable(args.policy)
    agent = common_settings(by_name(args.policy))
    runtime.start()
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
        found = evaluation.calibrate(
            args.policy,
            suite,
            args.out,
            agent=agent,
            engine=engine,
            cache_bytes=config.cache_bytes,
            criterion=args.criterion,
            max_loss=args.max_loss,
            verify=not args.no_runs,
            write=args.write,
            observer=evaluating.Shown(),
        )
    target.write(found.record())
    if not target.is_stdout:
        print_tables(found, sys.stdout)
    for line in told(found, args.out, written=args.write):
        terminal.note(terminal.plain_line(line))
    return 0


def told(found: "Calibration", out: str, *, written: bool) -> list[str]:
    """What was left out and left as it is, and where the thresholds are."""
    lines = []
    if found.left_out:
        lines.append(
            f"{found.left_out} of {found.left_out + found.questions} questions are "
            "left out of the gates: they failed, or have a turn without probabilities"
        )
    for name, gate in found.gates.items():
        if gate.problem is not None:
            as_it_is = "none" if gate.before is None else f"{gate.before:g}"
            lines.append(
                f"{name}_threshold is left as it is ({as_it_is}): {gate.problem}"
            )
    if found.settings is not None:
        lines.append(f"settings with thresholds: {out}/gru_mem.json")
        if written:
            lines.append(f"written into {found.policy}/gru_mem.json")
        else:
            lines.append(f"--write puts them into {found.policy}/gru_mem.json")
    return [*lines, f"picture: {out}/calibration.png"]


def print_tables(found: "Calibration", stream: TextIO) -> None:
    """Prints a table of the gates, and one of the runs."""
    console = terminal.console(stream, _PIPE_WIDTH)
    gates = _table(
        "gate", "turns", "should open", "AUC", "calibration error", "Brier",
        "threshold", "balanced accuracy", "F1", "at 0.5: balanced accuracy",
    )  # fmt: skip
    for name, gate in found.gates.items():
        own, half = gate.reliability, gate.at(0.5) or {}
        at = {} if gate.threshold is None else gate.at(gate.threshold) or {}
        gates.add_row(
            name,
            str(own.turns),
            str(own.positives),
            _number(own.auc),
            _number(own.calibration_error),
            _number(own.brier),
            "–" if gate.threshold is None else f"{gate.threshold:g}",
            _number(at.get("balanced_accuracy")),
            _number(at.get("f1")),
            _number(half.get("balanced_accuracy")),
        )
    console.print(gates)
    runs = _table(
        "exit threshold", "chunks read", "predicted", "evidence complete",
        "predicted", "exact exits", "score", "loss of score", "failed",
    )  # fmt: skip
    for each in found.runs:
        runs.add_row(*_cells(each), style="bold" if each.chosen else None)
    console.print(runs)


def _cells(run: "Run") -> list[str]:
    name = "none: to the end"
    if run.exit_threshold is not None:
        name = f"{run.exit_threshold:g}" + (" (picked)" if run.chosen else "")
    score, loss = run.score, run.loss
    return [
        name,
        f"{run.chunks:.2f}",
        "–" if run.predicted_chunks is None else f"{run.predicted_chunks:.2f}",
        _share(run.complete),
        _number(run.predicted_complete),
        _share(run.exact),
        f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]",
        "–" if loss is None
        else f"{loss.value:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]",
        str(run.failed),
    ]  # fmt: skip


def _table(*headings: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold"
    )
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(share: "Share | None") -> str:
    if share is None:
        return "–"
    return f"{share.share:.3f} [{share.low:.3f}, {share.high:.3f}]"
