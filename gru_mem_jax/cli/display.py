"""The progress of `ask`: a live view on a terminal, plain lines elsewhere.

It goes to stderr. Text of documents, questions and memory is cleaned of anything that a
terminal would obey.
"""

import dataclasses
import os
import sys
from typing import Protocol

from gru_mem_jax.agent.config import MODES_IN_PASSES
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.cli import terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The facts before the first turn.

    Attributes:
      question: as asked.
      source: the context's name.
      policy: the policy's name.
      mode: the agent's mode.
      memory_budget: tokens.
      characters: of the whole context; None: unknown.
    """

    question: str
    source: str
    policy: str
    mode: str
    memory_budget: int
    characters: int | None = None

    @property
    def in_passes(self) -> bool:
        """Whether the text may be read in several passes."""
        return self.mode in MODES_IN_PASSES


class View(Protocol):
    """Shows a run; used as a context manager around it."""

    def __enter__(self) -> "View": ...

    def __exit__(self, *exc) -> None: ...

    def begin(self, header: Header, trajectory: Trajectory) -> None:
        """The run begins, or is resumed after the turns of `trajectory`."""

    def status(self, text: str) -> None:
        """The current activity."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def compiling(self, name: str) -> None:
        """A program is being compiled, and has been for a while."""

    def compiled(self, name: str, seconds: float, from_disk: bool) -> None:
        """It was compiled; from_disk: it was loaded from the compilation cache."""

    def turn(self, turn: Turn, trajectory: Trajectory) -> None:
        """A turn has ended."""

    def end(self, trajectory: Trajectory) -> None:
        """The run has ended, or was stopped."""


def make_view() -> View:
    """The view that suits stderr."""
    if terminal.is_live(sys.stderr):
        from gru_mem_jax.cli.live import LiveView

        return LiveView()
    return PlainView()


def summary(trajectory: Trajectory) -> str:
    """The closing line."""
    memory_turns = trajectory.memory_turns
    reason = "interrupted" if trajectory.interrupted else trajectory.stop_reason
    reused = trajectory.shared_prompt_tokens
    chunks, turns = trajectory.num_chunks, len(memory_turns)
    text = f"{reason}: {chunks} chunks read, "
    if turns > chunks:
        passes = trajectory.num_passes
        in_passes = f" and {passes} passes" if passes > 1 else ""
        text = f"{reason}: {chunks} chunks read in {turns} turns{in_passes}, "
    text += (
        f"{sum(turn.sets_memory for turn in memory_turns)} memory updates, "
        f"{trajectory.prompt_tokens} tokens in"
        f"{f' ({reused} of them reused)' if reused else ''}, "
        f"{trajectory.completion_tokens} out, {trajectory.seconds:.1f} s"
    )
    if trajectory.seconds > 0:
        text += f" ({len(trajectory.turns) / trajectory.seconds:.2f} turns/s)"
    malformed = sum(not turn.well_formed for turn in memory_turns)
    if malformed:
        text += f", {malformed} malformed turns"
    return text


def compiled_line(name: str, seconds: float, from_disk: bool) -> str:
    """A line on a program that took long."""
    verb = "loaded the compiled" if from_disk else "compiled"
    return f"{verb} {name} in {seconds:.1f} s"


def place(turn: Turn) -> str:
    """Of a memory turn its pass, and what it was for, where there are several."""
    step = f"{turn.step}, " if turn.step != "read" else ""
    return f"pass {turn.pass_number}, {step}"


def turn_line(turn: Turn, progress: str = "", where: str = "") -> str:
    """One turn as one plain line.

    Args:
      turn: the turn.
      progress: what stands behind the number of its chunk.
      where: what stands before it: its `place`.
    """
    tokens = (
        f"{turn.prompt_tokens} tokens in, {turn.completion_tokens} out, "
        f"{turn.seconds:.2f} s"
    )
    if turn.kind == "answer":
        return f"answer: {tokens}"
    gates = (
        f"update={'yes' if turn.update else 'no'} exit={'yes' if turn.exit else 'no'}"
        if turn.well_formed
        else f"malformed ({terminal.shorten(turn.problem or '', 60)})"
    )
    if said := probabilities(turn):
        gates += f" {said}"
    line = f"{where}chunk {turn.chunk + 1}{progress}: {gates}, "
    line += f"memory {turn.memory_tokens} tokens, {tokens}"
    if turn.update and turn.memory:
        line += f" | {terminal.shorten(news(turn.memory_before, turn.memory), 80)}"
    return line


def probabilities(turn: Turn) -> str:
    """Those of a constrained turn's gates; empty for other turns."""
    named = {"yes": turn.update_probability, "end": turn.exit_probability}
    return " ".join(f"P({k})={v:.2f}" for k, v in named.items() if v is not None)


def news(before: str, after: str) -> str:
    """A memory from its first changed word on."""
    old, new = before.split(), after.split()
    same = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), None)
    if same is None:
        same = len(old) if len(new) > len(old) else 0
    return ("… " if same else "") + " ".join(new[same:])


class ReadingProgress:
    """The share of a context that has been read, in whatever order, at least once."""

    def __init__(self, characters: int | None = None):
        """Before the first turn.

        Args:
          characters: of the whole context, or an upper bound; None if unknown.
        """
        self._characters = characters
        self._seen: set[int] = set()
        self._seen_characters = 0
        self.fraction: float | None = 0.0 if characters else None

    def add(self, turn: Turn) -> None:
        """Counts a turn."""
        if turn.chunk is None or turn.chunk_span is None or turn.chunk in self._seen:
            return
        self._seen.add(turn.chunk)
        self._seen_characters += turn.chunk_span[1] - turn.chunk_span[0]
        if self._characters:
            self.fraction = min(1.0, self._seen_characters / self._characters)

    @property
    def read(self) -> int:
        """How many chunks were read."""
        return len(self._seen)

    @property
    def total(self) -> int | None:
        """An estimate of the number of chunks, from those read."""
        if not self.fraction or not self.read:
            return None
        return max(max(self._seen) + 1, round(self.read / self.fraction))


class PlainView:
    """One line per turn."""

    _compiling = False
    _passes = False  # whether a text is read in several

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *exc) -> None:
        pass

    def begin(self, header: Header, trajectory: Trajectory) -> None:
        self._progress = ReadingProgress(header.characters)
        self._passes = header.in_passes
        for turn in trajectory.turns:
            self._progress.add(turn)
        if trajectory.turns:
            self.status(f"resuming after {len(trajectory.turns)} turns")

    def status(self, text: str) -> None:
        self._write(text)

    def note(self, text: str) -> None:
        self._write(text)

    def compiling(self, name: str) -> None:
        if not self._compiling:
            self._compiling = True
            self._write(f"compiling for this policy and these sizes: {name}, ...")

    def compiled(self, name: str, seconds: float, from_disk: bool) -> None:
        self._write(compiled_line(name, seconds, from_disk))

    def turn(self, turn: Turn, trajectory: Trajectory) -> None:
        self._progress.add(turn)
        total = self._progress.total
        where = place(turn) if self._passes else ""
        self._write(turn_line(turn, f" of ~{total}" if total else "", where))

    def end(self, trajectory: Trajectory) -> None:
        self._write(summary(trajectory))

    def _write(self, text: str) -> None:
        """Writes a line; a closed stderr is ignored, unless it is stdout too.

        Raises:
          BrokenPipeError: stdout and stderr are one pipe, which has no reader any more.
        """
        stream = sys.stderr
        if stream is None:
            return
        try:
            print(text, file=stream, flush=True)
        except BrokenPipeError:
            if _same_file(1, 2):
                raise
            terminal.silence(stream)
        except (OSError, ValueError):
            pass


def _same_file(a: int, b: int) -> bool:
    try:
        return os.path.samestat(os.fstat(a), os.fstat(b))
    except OSError:
        return False
