"""Run folders as a training run leaves them, made without training."""

import json
import math

from gru_mem_jax.agent.trajectory import Trajectory, Turn, trajectory_to_dict
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import MetricsWriter


def make_run(path, rows=(), samples=None):
    """A run folder.

    Args:
      path: of the folder.
      rows: of metrics.jsonl.
      samples: step to lines (dicts, or text as it is) of a samples file.
    """
    with RunFolder.open(
        path, command=["gru-mem", "train"], config_text="a = 1\n", environment={}
    ) as run:
        with MetricsWriter(run.metrics) as metrics:
            for row in rows:
                metrics.write(
                    row["step"], {k: v for k, v in row.items() if k != "step"}
                )
        for step, lines in (samples or {}).items():
            texts = [x if isinstance(x, str) else json.dumps(x) for x in lines]
            file = run.trajectories / f"step_{step:08d}.jsonl"
            file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def training_rows(steps, every=5, late=0.5):
    """Rows of a run that learns: step 0 has an evaluation alone."""
    rows = []
    for step in range(steps + 1):
        done = 1 - math.exp(-3 * step / steps)
        wave = 0.03 * math.sin(7 * step)
        row = {"step": step}
        if step:
            row |= {
                "reward/trajectory": 0.8 + done + wave,
                "reward/outcome": 0.4 + 0.5 * done + wave,
                "reward/exit": -0.4 * (1 - done),
                "reward/format": 0.9 + 0.1 * done,
                "reward/update": 0.2 + 0.7 * done + wave,
                "exact": 0.4 + 0.5 * done + wave,
                "update_on_evidence": 0.9 + 0.09 * done,
                "update_off_evidence": 0.3 + 0.65 * done + wave,
                "exact_exit": 0.3 + 0.55 * done + wave,
                "early_exit": 0.2 - 0.15 * done,
                "late_exit": late - 0.4 * done - wave,
                "exit_deviation": 2 - 1.5 * done,
                "exit_offset": 1 - 0.9 * done,
                "chunks_read": 0.9 - 0.2 * done,
                "well_formed": 0.9 + 0.1 * done,
                "well_formed_turns": 0.95 + 0.05 * done,
                "completion_tokens": 40 + 9 * done,
                "longest_completion": 96,
                "memory_tokens": 20 + 5 * done,
                "longest_memory": 40,
                "loss": 0.05 + wave,
                "entropy": 0.6 - 0.4 * done + wave,
                "kl": 0.02 * done,
                "grad_norm": 0.5 + wave,
                "clip_high": 0.01,
                "clip_low": 0.005,
                "rollout_tokens_per_s": 5000.0,
                "update_tokens_per_s": 9000.0,
            }
        if step % every == 0:
            row |= {
                "eval/exact": 0.5 + 0.4 * done,
                "eval/exact/single_key": 0.6 + 0.4 * done,
                "eval/exact/multi_key": 0.4 + 0.4 * done,
                "eval/update_on_evidence": 0.9,
                "eval/update_off_evidence": 0.5 + 0.4 * done,
                "eval/exact_exit": 0.4 + 0.4 * done,
                "eval/chunks_read": 0.9 - 0.2 * done,
            }
        rows.append(row)
    return rows


def sample(step=1, question="Which code belongs to heron?", memory="heron: amber"):
    """A sample of three memory turns: evidence in the second, one malformed."""
    turns = [
        turn(0, "continue", update=False, memory=""),
        turn(1, "end", update=True, memory=memory),
        turn(
            2, "x", update=False, memory=memory, before=memory, problem="think missing"
        ),
        Turn(
            kind="answer",
            well_formed=True,
            memory_before=memory,
            memory=memory,
            memory_tokens=4,
            text=f"It is \\boxed{{{memory}}}",
            finish_reason="stop",
            prompt_tokens=20,
            completion_tokens=9,
            seconds=0.1,
        ),
    ]
    trajectory = Trajectory(
        answer=memory,
        mode="with_exit_gate",
        question=question,
        turns=tuple(turns),
        stop_reason="end_of_context",
    )
    return {
        "step": step,
        "question": 7,
        "rollout": 0,
        "task": "single_key",
        "answers": ["amber anchor bolt"],
        "evidence": [False, True, False],
        "last_evidence": 1,
        "reward": 0.5,
        "rewards": {"exit": -0.5, "format": 0.0, "outcome": 1.0, "overlong": 0.0},
        "turn_rewards": [1.0, 1.0, -1.0],
        "advantages": [0.1, 0.1, -0.2, 0.0],
        "trajectory": trajectory_to_dict(trajectory),
    }


def turn(chunk, text, *, update, memory, before="", problem=None):
    """A memory turn of ten sampled tokens."""
    return Turn(
        kind="memory",
        chunk=chunk,
        chunk_span=(100 * chunk, 100 * chunk + 100),
        update=update,
        exit=text == "end",
        well_formed=problem is None,
        problem=problem,
        memory_before=before,
        memory=memory,
        memory_tokens=len(memory.split()),
        text=text,
        finish_reason="stop",
        prompt_tokens=70,
        completion_tokens=10,
        seconds=0.1,
    )
