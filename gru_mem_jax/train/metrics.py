"""The columns of a training run's rows; docs/metrics.md says how to read them.

Everything here is counted on the host from a step's rollouts, whichever groups were
kept, and from the learner's sums. A mean over nothing is None, never 0.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.rl.learner import Report
from gru_mem_jax.rl.objective import TokenSum
from gru_mem_jax.rl.outcomes import Array, Outcomes
from gru_mem_jax.rl.rollout import RolloutBatch

Columns = dict[str, float | int | None]


def rollout_metrics(
    batch: RolloutBatch,
    terms: Mapping[str, Array],
    trajectory_rewards: Array,
    keep: Array,
    signal: Array,
) -> Columns:
    """What a step's rollouts did.

    Args:
      batch: all groups that were sampled.
      terms: of `rewards`, before their weights.
      trajectory_rewards: float32 [P, G].
      keep: bool [P], groups that are learned from.
      signal: bool [P], groups that teach something.

    Returns:
      Name to number; None where there is nothing to take the mean of.
    """
    done = batch.outcomes
    gated = np.asarray(done.mode) != MODES.index("memagent")
    scored = np.asarray(done.scored)
    columns: Columns = {"reward/trajectory": _mean(trajectory_rewards, scored)}
    counted = {"update": done.turn_mask, "outcome": scored}
    for name, term in terms.items():
        columns[f"reward/{name}"] = _mean(term, counted.get(name, True))
    if not scored.all():
        columns["reward/unscored"] = int((~scored).sum())
    columns["exact"] = _mean(done.correct, scored)
    if gated.any():
        columns |= _gate_metrics(done)
    return columns | _length_metrics(done) | _group_metrics(batch, keep, signal)


def _gate_metrics(done: Outcomes) -> Columns:
    """Gates of gated trajectories; a malformed turn's count as wrong."""
    read = np.asarray(done.turn_mask)
    right = (done.update == done.evidence) & done.turn_well_formed
    labelled = np.asarray(done.last_evidence) >= 0
    late = np.asarray(done.exit_chunk) - done.last_evidence
    return {
        "update_on_evidence": _mean(right, read & done.evidence),
        "update_off_evidence": _mean(right, read & ~np.asarray(done.evidence)),
        "exact_exit": _mean(late == 0, labelled),
        "early_exit": _mean(late < 0, labelled),
        "late_exit": _mean(late > 0, labelled),
        "exit_deviation": _mean(np.abs(late), labelled),
        "exit_offset": _mean(late, labelled),
        "well_formed": _mean(done.well_formed),
        "well_formed_turns": _mean(done.turn_well_formed, read),
    }


def _length_metrics(done: Outcomes) -> Columns:
    read = np.asarray(done.turn_mask)
    sampled = np.concatenate([read, np.ones((*read.shape[:2], 1), bool)], axis=-1)
    lengths, chunks = np.asarray(done.completion_tokens), np.asarray(done.num_chunks)
    share = read.sum(-1) / np.maximum(chunks, 1)
    return {
        "chunks_read": _mean(share, chunks > 0),
        "completion_tokens": _mean(lengths, sampled),
        "longest_completion": int(lengths.max(initial=0)),
        "memory_tokens": _mean(done.memory_tokens, read),
        "longest_memory": int(np.max(done.memory_tokens, initial=0, where=read)),
        "cut_turns": _mean(done.cut, sampled),
        "cut_memories": _mean(done.memory_cut, read),
    }


def _group_metrics(batch: RolloutBatch, keep: Array, signal: Array) -> Columns:
    columns: Columns = {
        "groups/sampled": len(batch.questions),
        "groups/flat": int(np.sum(~np.asarray(signal))),
        "groups/learned": int(np.sum(keep)),
        "groups/refills": batch.refills,
    }
    # Every reason is a column of its own where it occurs; 0 would need all of them.
    columns |= {f"unparsed/{_slug(k)}": n for k, n in batch.problems.items()}
    columns["unparsed_turns"] = sum(batch.problems.values())
    return columns | {
        "tokens/sampled": sum(len(turn.completion_ids) for turn in batch.turns),
        "tokens/prompts": sum(len(turn.prompt_ids) for turn in batch.turns),
        "tokens/shared": batch.shared_tokens,
    }


def update_metrics(reports: Sequence[Report]) -> Columns:
    """What the optimiser steps of a batch did; nothing if there were none."""
    if not reports:
        return {}
    columns: Columns = {}
    for name in reports[0].sums:
        total = sum((r.sums[name] for r in reports[1:]), start=reports[0].sums[name])
        columns[name] = total.value()
    if "clip_high" in columns:
        columns["clipped"] = _sum(columns["clip_high"], columns["clip_low"])
    norms = [float(report.grad_norm) for report in reports if bool(report.taken)]
    return columns | {
        "grad_norm": float(np.mean(norms)) if norms else None,
        "learning_rate": float(reports[-1].learning_rate),
        "optimizer_steps": sum(bool(report.taken) for report in reports),
        "skipped_steps": sum(not bool(report.taken) for report in reports),
    }


def gap_metrics(gaps: Sequence[tuple[TokenSum, Array]]) -> Columns:
    """How far the learner's logprobs are from the sampler's, before the update."""
    if not gaps:
        return {"logprob_gap": None, "largest_logprob_gap": None}
    total = sum((gap for gap, _ in gaps[1:]), start=gaps[0][0])
    return {
        "logprob_gap": total.value(),
        "largest_logprob_gap": max(float(largest) for _, largest in gaps),
    }


def time_metrics(stages: Mapping[str, float], sampled: int, learned: int) -> Columns:
    """Seconds of each stage, its share of the step, and tokens per second.

    Args:
      stages: seconds by name, with "rollout", "update" and "step", the whole.
      sampled: tokens that were sampled.
      learned: tokens in the rows of the update, prompts too.
    """
    columns: Columns = {f"{name}_seconds": s for name, s in stages.items()}
    whole = stages["step"]
    for name, seconds in stages.items():
        if name != "step":
            columns[f"{name}_seconds_per_s"] = _ratio(seconds, whole)
    columns["rollout_tokens_per_s"] = _ratio(sampled, stages.get("rollout", 0.0))
    columns["update_tokens_per_s"] = _ratio(learned, stages.get("update", 0.0))
    return columns


def is_time(name: str) -> bool:
    """Whether a column is a time or a rate: all others repeat exactly."""
    return name.endswith(("_seconds", "_per_s"))


def _mean(values: Array, where: Array | bool = True) -> float | None:
    values = np.asarray(values, np.float64)
    where = np.broadcast_to(np.asarray(where, bool), values.shape)
    count = int(where.sum())
    return float(values[where].sum() / count) if count else None


def _ratio(a: float, b: float) -> float | None:
    return a / b if b > 0 else None


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60]
