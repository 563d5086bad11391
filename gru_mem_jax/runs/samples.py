"""The trajectories that a training run keeps: RUN/trajectories/step_NNNNNNNN.jsonl."""

import dataclasses
import json
import os
import re
from collections.abc import Sequence

from gru_mem_jax import durable_files, storage
from gru_mem_jax.agent.trajectory import (
    Trajectory,
    trajectory_from_dict,
    trajectory_to_dict,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_number, from_record, to_record

_NAME = re.compile(r"step_(\d{8,18})\.jsonl")
_LONGEST_LINE = 1 << 26
_TRACE = ("prompt_ids", "completion_ids", "logprobs", "sampling_logprobs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """One rollout of a step, with its labels, rewards and advantages.

    Attributes:
      step: of training.
      question: its position in the source.
      rollout: its place in the group, from 0.
      task: of the example.
      answers: gold answers.
      evidence: evidence[t] of every chunk of the context, read or not.
      last_evidence: index of the last True of `evidence`; None: none.
      reward: of the trajectory, weighted.
      rewards: its terms before their weights, by name.
      turn_rewards: of each memory turn, weighted.
      advantages: of each memory turn, and the answer turn's.
      trajectory: without token ids.
      scored: whether the reward function scored it; if not, it is not learned from.
    """

    step: int
    question: int
    rollout: int
    task: str
    answers: tuple[str, ...]
    evidence: tuple[bool, ...]
    last_evidence: int | None
    reward: float
    rewards: dict[str, float]
    turn_rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    trajectory: Trajectory
    scored: bool = True

    def __post_init__(self):
        for name, value in self.rewards.items():
            check_number(f"sample.rewards.{name}", value, -1e9, 1e9)


def sample_steps(folder: str | os.PathLike[str]) -> list[int]:
    """Steps that have samples, in order.

    Args:
      folder: RUN/trajectories; need not exist.
    """
    folder = storage.locate(folder)
    names = storage.names(folder) if storage.is_folder(folder) else []
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)


def read_samples(
    folder: str | os.PathLike[str], step: int, limit: int | None = None
) -> list[TrainingSample]:
    """The samples of a step, the first `limit`.

    Raises:
      InputError: they cannot be read; names the file, the line and the field.
    """
    path = storage.locate(folder) / f"step_{step:08d}.jsonl"
    samples = []
    try:
        if not storage.is_file(path):  # e.g. a pipe: the folder is untrusted
            raise InputError(f"{path}: expected a file")
        with storage.reader(path) as file:
            while limit is None or len(samples) < limit:
                line = file.readline(_LONGEST_LINE)
                if not line:
                    break
                samples.append(_sample(line, f"{path}:{len(samples) + 1}"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return samples


def write_samples(
    folder: str | os.PathLike[str], step: int, samples: Sequence[TrainingSample]
) -> None:
    """Writes the samples of a step, one a line, without token ids.

    Raises:
      RunError: they cannot be written.
    """
    lines = []
    for sample in samples:
        turns = tuple(
            dataclasses.replace(turn, **dict.fromkeys(_TRACE))
            for turn in sample.trajectory.turns
        )
        trajectory = dataclasses.replace(sample.trajectory, turns=turns)
        record = to_record(sample) | {"trajectory": trajectory_to_dict(trajectory)}
        lines.append(json.dumps(record))
    path = storage.locate(folder) / f"step_{step:08d}.jsonl"
    with durable_files.writing(path):
        durable_files.write_atomically(path, "\n".join(lines) + "\n")


def _sample(line: bytes, where: str) -> TrainingSample:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: expected a line of JSON") from None
    try:
        if isinstance(record, dict) and "trajectory" in record:
            # Its JSON form has sums beside its fields.
            trajectory = trajectory_from_dict(record["trajectory"])
            record = record | {"trajectory": to_record(trajectory)}
        return from_record(TrainingSample, record, "sample")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
