"""Show a training run: sampled trajectories turn by turn, and the last rows.

Reads RUN/trajectories and RUN/metrics.jsonl, also during the run. A "!" marks a gate
that differs from its label. The memory is shown after an update, new words in bold on a
terminal, of a scan that which it would leave; for a malformed turn its error is shown.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.agent.config import MODES_IN_PASSES
from gru_mem_jax.agent.trajectory import Turn
from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from gru_mem_jax.runs.samples import TrainingSample

_ROWS = 6
_PIPE_WIDTH = 160
_MOST_WORDS = 4000  # of a memory whose changes are marked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    least = arguments.integer
    parser.add_argument("run", type=arguments.path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--step",
        type=least(least=0),
        metavar="N",
        help="of the trajectories; default: the newest",
    )
    parser.add_argument(
        "--limit",
        type=least(least=1),
        default=3,
        metavar="K",
        help="trajectories to show; default 3",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.runs.folder import RunFolder
    from gru_mem_jax.runs.health import health_of
    from gru_mem_jax.runs.metrics import read_metrics
    from gru_mem_jax.runs.samples import read_samples, sample_steps

    folder = RunFolder.read(args.run)
    try:
        steps = sample_steps(folder.trajectories)
    except OSError as error:
        raise InputError(f"{folder.trajectories}: {error.strerror}") from error
    if args.step is not None and args.step not in steps:
        raise InputError(
            f"{folder.path}: no trajectories of step {args.step} were kept; available: "
            f"{_list(steps)}"
        )
    rows = read_metrics(folder.metrics) if folder.metrics.is_file() else []
    samples: Sequence[TrainingSample] = ()
    if steps:
        step = steps[-1] if args.step is None else args.step
        samples = read_samples(folder.trajectories, step, args.limit)
    if not rows and not samples:
        raise InputError(f"{folder.path}: has neither rows nor trajectories yet")
    _print(samples, rows)
    for rule in health_of(rows).holding:
        terminal.note(f"warning: {rule.line}")
    if steps:
        terminal.note(f"trajectories were kept of {_list(steps)}")
    return 0


def _list(steps: Sequence[int]) -> str:
    if not steps:
        return "none"
    if len(steps) > 12:
        inner = ", ".join(map(str, (*steps[:3], "...", *steps[-6:])))
    else:
        inner = ", ".join(map(str, steps))
    return f"step {inner}" if len(steps) == 1 else f"steps {inner}"


def _print(samples: "Sequence[TrainingSample]", rows: Sequence[Mapping]) -> None:
    console = terminal.console(sys.stdout, _PIPE_WIDTH)
    for sample in samples:
        for part in _parts(sample):
            console.print(part)
        console.print()
    if rows:
        console.print(_rows_table(rows))


def _parts(sample: "TrainingSample") -> "Iterable[Text | Table]":
    """The parts of a trajectory's display, from top to bottom."""
    trajectory = sample.trajectory
    title = f"step {sample.step}, question {sample.question}, rollout {sample.rollout}"
    title += f", {sample.task}" if sample.task else ""
    yield _text(f"{title}, {trajectory.mode}", "bold")
    yield _field("question", trajectory.question)
    yield _field("gold", " / ".join(sample.answers))
    yield _turn_table(sample)
    yield _field("reading", _reading(sample))
    yield _field("answer", trajectory.answer or _no_answer(trajectory.turns))
    terms = ", ".join(f"{k} {v:+.2f}" for k, v in sample.rewards.items())
    reward = f"{sample.reward:+.2f} (before weights: {terms})"
    if not sample.scored:
        reward = "none: the reward function returned None; it is not learned from"
    yield _field("reward", reward)


def _reading(sample: "TrainingSample") -> str:
    trajectory = sample.trajectory
    read, chunks = trajectory.num_chunks, len(sample.evidence)
    text = f"{read} of {chunks} chunks ({trajectory.stop_reason}); "
    turns = trajectory.memory_turns
    if len(turns) > read:
        passes = trajectory.num_passes
        counted = f"{passes} pass{'es' * (passes > 1)}, {len(turns)} turns"
        text = f"{read} of {chunks} chunks in {counted} ({trajectory.stop_reason}); "
    if sample.last_evidence is None:
        return text + "no chunk holds evidence"
    last = sample.last_evidence + 1
    text += f"the last evidence is in chunk {last}"
    if trajectory.mode in MODES_IN_PASSES:  # they read on whatever they know
        return text
    away = read - last
    where = (
        "exact" if not away else f"{abs(away)} too {'late' if away > 0 else 'early'}"
    )
    return f"{text}: {where}"


def _no_answer(turns: Sequence[Turn]) -> str:
    said = turns[-1].text if turns and turns[-1].kind == "answer" else ""
    return f"(none in a box; said: {terminal.shorten(said, 200)})"


def _turn_table(sample: "TrainingSample") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    turns = sample.trajectory.memory_turns
    several = any(turn.pass_number > 1 or turn.step != "read" for turn in turns)
    places = ("pass", "step") if several else ()
    for heading in (*places, "chunk", "evidence", "update", "exit"):
        table.add_column(heading)
    for heading in ("reward", "adv.", "tokens"):
        table.add_column(heading, justify="right")
    table.add_column("memory")
    last = math.inf if sample.last_evidence is None else sample.last_evidence
    for index, turn in enumerate(turns):
        chunk = turn.chunk or 0
        label = chunk < len(sample.evidence) and sample.evidence[chunk]
        table.add_row(
            *((str(turn.pass_number), turn.step) if several else ()),
            str(chunk + 1),
            "yes" if label else "",
            *_gates(turn, sample.trajectory.mode, label, chunk >= last),
            _at(sample.turn_rewards, index),
            _at(sample.advantages, index),
            str(turn.completion_tokens),
            _memory(turn),
        )
    return table


def _gates(turn: Turn, mode: str, label: bool, is_end: bool) -> "list[Text]":
    """Both gates of a turn; wrong ones are marked, if the mode has them."""
    if mode == "memagent":
        return [_text("-"), _text("-")]
    if not turn.well_formed:
        return [_text("none !", "red"), _text("none", "red")]
    cells = []
    for said, wanted, rewarded in (
        (bool(turn.update), label, True),
        (bool(turn.exit), is_end, mode == "with_exit_gate"),
    ):
        wrong = rewarded and said != wanted
        word = "yes" if said else "no"
        cells.append(_text(word + " !" * wrong, "red" if wrong else "green"))
    return cells


def _memory(turn: Turn) -> "Text":
    if not turn.well_formed:
        problem = terminal.plain_line(turn.problem or "malformed")
        return _text(f"{problem}: {terminal.shorten(turn.text, 200)}", "red")
    text = _text("")
    if turn.update:
        from gru_mem_jax.cli.live import changed_words

        words = terminal.safe_text(turn.memory).split()
        marked = len(words) <= _MOST_WORDS
        new = changed_words(turn.memory_before, turn.memory) if marked else ()
        for i, word in enumerate(words):
            text.append(" " * (i > 0) + word, style="bold" if i in new else None)
        text.append(" (cut at the budget)" * turn.memory_cut, style="red")
    return text


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    from rich import box
    from rich.table import Table

    from gru_mem_jax.runs import columns

    shown = rows[-_ROWS:]
    named = columns.table("training", shown)
    table = Table(
        title=f"last {len(shown)} of {len(rows)} rows",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
    )
    for heading in ("step", *(column.title for column in named)):
        table.add_column(_text(heading), justify="right")
    for row in shown:
        cells = [c.cell(row[c.name]) if c.name in row else "" for c in named]
        table.add_row(*(_cell(text) for text in (str(row["step"]), *cells)))
    return table


def _cell(text: str) -> "Text":
    """A cell; numbers that are not finite are strings of any length."""
    return _text(terminal.shorten(text, 12))


def _at(values: Sequence[float], index: int) -> str:
    return f"{values[index]:+.2f}" if index < len(values) else ""


def _field(name: str, value: str) -> "Text":
    from rich.text import Text

    text = Text()
    text.append(f"{name:<10}", style="dim")
    text.append(terminal.plain_line(value))
    return text


def _text(value: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(terminal.plain_line(value) if value.strip() else value, style=style)
