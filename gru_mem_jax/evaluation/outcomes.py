"""From trajectories to the figures of the paper: gates, exits, chunks, answers."""

import dataclasses
from collections.abc import Iterable, Sequence

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.scoring import score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one trajectory did, against what the labels say.

    Attributes:
      task: `Example.task`.
      correct: the answer's score in 0..1.
      updates: U_t of each memory turn; a gate that the mode does not have (MemAgent)
        or that did not parse counts as what the loop did: open for MemAgent, closed
        for a malformed turn.
      evidence: evidence[t] of each chunk of the whole context, read or not.
      last_evidence: index of the last evidence chunk, or None without evidence.
      exit_chunk: index of the last chunk that was read, or None if none was.
      well_formed: every turn followed the format.
      memory_tokens: size of the memory after each memory turn.
      completion_tokens: sampled tokens, the answer's included.
    """

    task: str
    correct: float
    updates: tuple[bool, ...]
    evidence: tuple[bool, ...]
    last_evidence: int | None
    exit_chunk: int | None
    well_formed: bool
    memory_tokens: tuple[int, ...]
    completion_tokens: int


def outcome(
    example: Example,
    trajectory: Trajectory,
    evidence: Sequence[bool],
    last_evidence: int | None,
) -> Outcome:
    """Reads one trajectory against the labels of its context's chunks."""
    memory_turns = [turn for turn in trajectory.turns if turn.kind == "memory"]
    always_open = trajectory.mode == "memagent"
    return Outcome(
        task=example.task,
        correct=score(trajectory.answer, example.answers, example.scoring),
        updates=tuple(always_open or bool(turn.update) for turn in memory_turns),
        evidence=tuple(evidence),
        last_evidence=last_evidence,
        exit_chunk=memory_turns[-1].chunk if memory_turns else None,
        well_formed=all(turn.well_formed for turn in trajectory.turns),
        memory_tokens=tuple(turn.memory_tokens for turn in memory_turns),
        completion_tokens=trajectory.completion_tokens,
    )


def _ratio(flags: Iterable[bool | float]) -> float | None:
    values = [float(flag) for flag in flags]
    return sum(values) / len(values) if values else None


def summarize(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Means over trajectories and turns; None where nothing is counted.

    Returns:
      exact: share of right answers. update_on_evidence, update_off_evidence: share of
      memory turns whose update gate equals evidence[t], over turns with and without
      evidence. exact_exit, early_exit, late_exit: share of trajectories whose last
      chunk read is, is before, is after the last evidence (reading to the end is
      exact where the end holds evidence). chunks_read: mean share of the context's
      chunks. well_formed: share of trajectories with a valid format throughout.
      completion_tokens: mean per trajectory.
    """
    gates = [
        (update, label)
        for item in outcomes
        for update, label in zip(item.updates, item.evidence, strict=False)
    ]
    exits = [
        item.exit_chunk - item.last_evidence
        for item in outcomes
        if item.exit_chunk is not None and item.last_evidence is not None
    ]
    return {
        "exact": _ratio(item.correct for item in outcomes),
        "update_on_evidence": _ratio(update for update, label in gates if label),
        "update_off_evidence": _ratio(
            not update for update, label in gates if not label
        ),
        "exact_exit": _ratio(gap == 0 for gap in exits),
        "early_exit": _ratio(gap < 0 for gap in exits),
        "late_exit": _ratio(gap > 0 for gap in exits),
        "chunks_read": _ratio(
            len(item.updates) / len(item.evidence) for item in outcomes if item.evidence
        ),
        "well_formed": _ratio(item.well_formed for item in outcomes),
        "completion_tokens": _ratio(item.completion_tokens for item in outcomes),
    }
