"""What `eval` and `quickstart` share: what gin may set, progress, the table."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gru_mem_jax.cli import terminal
from gru_mem_jax.evaluation.evaluating import Observer
from gru_mem_jax.records import cut

if TYPE_CHECKING:
    from gru_mem_jax.evaluation.folder import ResultsFolder

_PIPE_WIDTH = 200  # of the table, where no terminal has a width
_BAR_WIDTH = 56  # of a bar of progress, without what it is at


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
        data.MixedSource,
        data.SQuADSource,
        evaluation.DatasetSuite,
        evaluation.EvaluationConfig,
        evaluation.SourceSuite,
        sampling.EngineConfig,
        sampling.RemoteConfig,
        tiny.SyntheticSuite,
    )


class Shown(Observer):
    """Notes on stderr; a bar of questions on a terminal.

    Else a line for each run, and one a minute.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._turns = self._done = self._total = 0
        self._lines = terminal.EachMinute()

    def note(self, line: str) -> None:
        terminal.note(terminal.plain_line(line))

    def begin(self, done: int, total: int) -> None:
        self._turns, self._done, self._total = 0, done, total
        self._lines = terminal.EachMinute()
        if terminal.is_live(sys.stderr):
            counted = "questions, {task.fields[turns]} turns"
            self._bar = terminal.progress_bar(counted, _BAR_WIDTH)
            self._task = self._bar.add_task("", total=total, completed=done, turns=0)
            self._bar.start()

    def run(self, name: str) -> None:
        if self._bar is None:
            self.note(name)
        else:
            self._bar.update(self._task, description=terminal.plain_line(name))

    def turn(self) -> None:
        self._turns += 1
        if self._bar is not None:
            self._bar.update(self._task, turns=self._turns)
        self._lines.note(
            f"{self._done} of {self._total} questions answered, {self._turns} turns"
        )

    def answer(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def status(folder: "ResultsFolder") -> int:
    """The exit status: 1 if all questions failed; a line says if any did."""
    answers = folder.answers()
    failed = [answer for answer in answers if answer.failed is not None]
    if failed:
        last = " ".join(str(failed[-1].failed).split())
        terminal.note(
            terminal.plain_line(
                f"{len(failed)} of {len(answers)} questions failed and count as wrong; "
                f"the last: {cut(last, 200)}"
            )
        )
    return int(bool(failed) and len(failed) == len(answers))


def print_rows(rows: Sequence[dict[str, Any]], stream: TextIO, title: str = "") -> None:
    """Prints the table."""
    from gru_mem_jax.evaluation.table import rich_table

    console = terminal.console(stream, _PIPE_WIDTH)
    console.print(rich_table(rows, title, width=console.width))
