"""What rollouts and updates come to, as named numbers: one meaning for each name.

Rows of training and of evaluation, reports and model cards all have their numbers from
here; `runs.columns` says how each is written and read. Everything is counted on the
host. What there is nothing to take the mean of is None, never 0.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from gru_mem_jax.agent.config import MODES, PAPER_MODES
from gru_mem_jax.rl.learner import Report
from gru_mem_jax.rl.objective import TokenSum
from gru_mem_jax.rl.outcomes import Array, Outcomes
from gru_mem_jax.rl.packing import PackedRows
from gru_mem_jax.rl.rewards import right_gates
from gru_mem_jax.rl.rollout import RolloutBatch
from gru_mem_jax.rl.row_counts import count_rows

Summary = dict[str, float | int | None]
_INDICES_OF_PAPER = [MODES.index(mode) for mode in PAPER_MODES]


def summarize(outcomes: Outcomes) -> Summary:
    """What trajectories did: answers, gates, format, lengths.

    Gates and format are those of the modes that have them, and absent where all
    trajectories are MemAgent's. The gates of a malformed turn count as wrong, whatever
    the loop then did.

    Args:
      outcomes: of any number of groups and rollouts.

    Returns:
      Name to number.
    """
    done = outcomes
    summary: Summary = {"exact": _mean(done.correct, done.scored)}
    gated = np.asarray(done.mode) != MODES.index("memagent")
    if gated.any():
        summary |= _gates(done, gated)
    again = ~np.isin(done.mode, _INDICES_OF_PAPER)
    if again.any():
        summary |= _passes(done, again)
    return summary | _lengths(done)


def _passes(done: Outcomes, again: np.ndarray) -> Summary:
    summary: Summary = {"passes": _mean(done.passes, again)}
    merges, turns = np.asarray(done.merges), np.asarray(done.turn_mask).sum(-1)
    parallel = np.asarray(done.mode) == MODES.index("parallel")
    if parallel.any():
        summary["scans"] = _mean(turns - merges, parallel)
        summary["merges"] = _mean(merges, parallel)
    return summary


def _gates(done: Outcomes, gated: np.ndarray) -> Summary:
    read = np.asarray(done.turn_mask) & gated[..., None]
    evidence = np.asarray(done.evidence)
    right = right_gates(
        np.asarray(done.update), evidence, done.turn_well_formed, done.excused
    )
    on = _mean(right, read & evidence)
    off = _mean(right, read & ~evidence)
    summary: Summary = {
        "update_on_evidence": on,
        "update_off_evidence": off,
        "balanced_update": None if on is None or off is None else (on + off) / 2,
    }
    # An exit gate that is not obeyed is measured where chunks are read in order, once.
    exits = gated & (np.isin(done.mode, _INDICES_OF_PAPER) | done.exit_gate)
    if exits.any():
        summary |= _exits(done, exits)
    return summary | {
        "well_formed": _mean(done.well_formed, gated),
        "well_formed_turns": _mean(done.turn_well_formed, read),
    }


def _exits(done: Outcomes, counted: np.ndarray) -> Summary:
    labelled = counted & (np.asarray(done.last_evidence) >= 0)
    late = np.asarray(done.exit_offset)
    return {
        "exact_exit": _mean(late == 0, labelled),
        "early_exit": _mean(late < 0, labelled),
        "late_exit": _mean(late > 0, labelled),
        "exit_deviation": _mean(np.abs(late), labelled),
        "exit_offset": _mean(late, labelled),
    }


def _lengths(done: Outcomes) -> Summary:
    read = np.asarray(done.turn_mask)
    sampled = np.concatenate([read, np.ones((*read.shape[:2], 1), bool)], axis=-1)
    lengths, chunks = np.asarray(done.completion_tokens), np.asarray(done.num_chunks)
    # Every chunk that is read is read in the first pass.
    first = read & (np.arange(read.shape[-1]) < chunks[..., None])
    return {
        "chunks_read": _mean(first.sum(-1) / np.maximum(chunks, 1), chunks > 0),
        "completion_tokens": _mean(lengths, sampled),
        "longest_completion": _largest(lengths, sampled),
        "trajectory_tokens": _mean(lengths.sum(-1)),
        "memory_tokens": _mean(done.memory_tokens, read),
        "longest_memory": _largest(done.memory_tokens, read),
        "cut_turns": _mean(done.cut, sampled),
        "cut_memories": _mean(done.memory_cut, read),
    }


def summarize_rollouts(
    batch: RolloutBatch,
    terms: Mapping[str, Array],
    trajectory_rewards: Array,
    keep: Array,
    signal: Array,
) -> Summary:
    """What a step's rollouts did and were worth, whichever groups are learned from.

    Args:
      batch: all groups that were sampled.
      terms: of `rewards`, before their weights.
      trajectory_rewards: float32 [P, G].
      keep: bool [P], groups that are learned from.
      signal: bool [P], groups that teach something.

    Returns:
      Name to number: rewards, `summarize`, groups and tokens.
    """
    done = batch.outcomes
    scored = np.asarray(done.scored)
    summary: Summary = {"reward/trajectory": _mean(trajectory_rewards, scored)}
    counted = {"update": done.turn_mask, "outcome": scored}
    for name, term in terms.items():
        summary[f"reward/{name}"] = _mean(term, counted.get(name, True))
    if not scored.all():
        summary["reward/unscored"] = int((~scored).sum())
    return summary | summarize(done) | _groups(batch, keep, signal)


def _groups(batch: RolloutBatch, keep: Array, signal: Array) -> Summary:
    summary: Summary = {
        "groups/sampled": len(batch.questions),
        "groups/flat": int(np.sum(~np.asarray(signal))),
        "groups/learned": int(np.sum(np.asarray(keep))),
        "groups/refills": batch.refills,
    }
    # Every reason is a column of its own where it occurs; 0 would need all of them.
    summary |= {f"unparsed/{_slug(k)}": n for k, n in batch.problems.items()}
    return summary | {
        "unparsed_turns": sum(batch.problems.values()),
        "tokens/sampled": sum(len(turn.completion_ids) for turn in batch.turns),
        "tokens/prompts": sum(len(turn.prompt_ids) for turn in batch.turns),
        "tokens/shared": batch.shared_tokens,
    }


def summarize_rows(batches: Sequence[PackedRows], separate: int) -> Summary:
    """What the learner's rows hold.

    Args:
      batches: micro-batches of a step.
      separate: tokens of all conversations in them, each by itself.
    """
    counts = count_rows(batches)
    return {
        "rows/count": counts.rows,
        "rows/tokens": counts.tokens,
        "rows/saved": separate - counts.tokens,
        "rows/padding": counts.padding,
        "rows/pairs": counts.pairs,
    }


def summarize_updates(reports: Sequence[Report]) -> Summary:
    """What the optimiser steps of a batch did; nothing if there were none."""
    if not reports:
        return {}
    summary: Summary = {}
    for name in reports[0].sums:
        total = sum((r.sums[name] for r in reports[1:]), start=reports[0].sums[name])
        summary[name] = total.value()
    bounds = [summary[name] for name in ("clip_high", "clip_low") if name in summary]
    if bounds:
        known = [share for share in bounds if share is not None]
        summary["clipped"] = sum(known) if known else None
    norms = [float(report.grad_norm) for report in reports if bool(report.taken)]
    return summary | {
        "grad_norm": float(np.mean(norms)) if norms else None,
        "learning_rate": float(reports[-1].learning_rate),
        "optimizer_steps": sum(bool(report.taken) for report in reports),
        "skipped_steps": sum(not bool(report.taken) for report in reports),
    }


def summarize_gaps(gaps: Sequence[tuple[TokenSum, Array]]) -> Summary:
    """How far the learner's logprobs are from the sampler's, before the update.

    Args:
      gaps: (sum over sampled tokens, largest) of each micro-batch.
    """
    if not gaps:
        return {"logprob_gap": None, "largest_logprob_gap": None}
    total = sum((gap for gap, _ in gaps[1:]), start=gaps[0][0])
    return {
        "logprob_gap": total.value(),
        "largest_logprob_gap": max(float(largest) for _, largest in gaps),
    }


def _counted(values: Array, where: Array | bool) -> np.ndarray:
    array = np.asarray(values)
    counted: np.ndarray = array[np.broadcast_to(np.asarray(where, bool), array.shape)]
    return counted


def _mean(values: Array, where: Array | bool = True) -> float | None:
    chosen = _counted(values, where).astype(np.float64)
    return float(chosen.sum() / chosen.size) if chosen.size else None


def _largest(values: Array, where: Array) -> int | None:
    chosen = _counted(values, where)
    return int(chosen.max()) if chosen.size else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60]
