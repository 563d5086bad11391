"""A step's rollouts as a file: to inspect, and to train from without sampling.

`step_00000012.npz` holds, as plain numpy arrays (without pickles):

    turn_index [C, 3]             (group, rollout, turn) of each of C turns
    prompt_ids, prompt_ends       all prompts, joined; where each ends [C]
    completion_ids, completion_ends
    sampler_logprobs              one for each completion id
    supports, supports_ends       of turns that were sampled with format constrained
    weights, weights_ends         of turns whose tokens do not count alike
    outcome_NAME                  [P, G, ...], the gates, lengths and scores: Outcomes
    reward_NAME                   [P, G] and [P, G, K], each term before its weight
    advantages [P, G, K + 1]      for readers; a replay recomputes them
    questions [P], record         numbers of the questions; JSON of the rest

Supports and weights are there where a turn has some, and make the file one of format 2:
who does not know of them would take every token for drawn from all ids.

A run of several processes has a file of each, `step_00000012.1.npz` of the second: with
the outcomes of all, and the turns of its own questions.
"""

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import InputError
from gru_mem_jax.rl.outcomes import Array, Outcomes, earlier
from gru_mem_jax.rl.packing import Conversation
from gru_mem_jax.rl.rollout import RolloutBatch

FORMATS = (1, 2)  # without supports and weights, and with them
_OPTIONAL = {"supports": np.int32, "weights": np.float64}
_RECORD = ("problems", "refills", "position", "shared_tokens")


def rollout_file(directory: str | os.PathLike[str], step: int, process: int = 0) -> Any:
    """The file of a step, as a process has written it."""
    own = f".{process}" if process else ""
    return storage.locate(directory) / f"step_{step:08d}{own}.npz"


def save_rollouts(
    directory: str | os.PathLike[str],
    step: int,
    batch: RolloutBatch,
    terms: Mapping[str, Array],
    advantages: Array,
    *,
    part: tuple[int, int] = (0, 1),
) -> Any:
    """Writes a step's rollouts; an existing file is replaced.

    Args:
      directory: created if it does not exist.
      step: of training.
      batch: the rollouts.
      terms: of `rewards`.
      advantages: float32 [P, G, K + 1].
      part: number of this process, and of all.

    Raises:
      RunError: it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {
        "turn_index": np.asarray([t.index for t in batch.turns], np.int32),
        "sampler_logprobs": _joined(batch, "sampler_logprobs", np.float64),
        "advantages": np.asarray(advantages),
        "questions": np.asarray(batch.questions, np.int64),
    }
    for name in ("prompt", "completion"):
        sizes = [len(getattr(turn, f"{name}_ids")) for turn in batch.turns]
        arrays[f"{name}_ids"] = _joined(batch, f"{name}_ids", np.int32)
        arrays[f"{name}_ends"] = np.cumsum(sizes, dtype=np.int64)
    held = {}
    for name, dtype in _OPTIONAL.items():
        sizes = [len(getattr(turn, name) or ()) for turn in batch.turns]
        if any(sizes):
            held[name] = _joined(batch, name, dtype)
            held[f"{name}_ends"] = np.cumsum(sizes, dtype=np.int64)
    arrays |= held
    for field in dataclasses.fields(Outcomes):
        value = getattr(batch.outcomes, field.name)
        arrays[f"outcome_{field.name}"] = np.asarray(value)
    arrays |= {f"reward_{name}": np.asarray(term) for name, term in terms.items()}
    record = {name: getattr(batch, name) for name in _RECORD}
    version = FORMATS[1] if held else FORMATS[0]
    record |= {"format": version, "step": step, "skipped": batch.skipped}
    record |= {"processes": part[1]}
    text = json.dumps(record)
    arrays["record"] = np.frombuffer(text.encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = rollout_file(directory, step, part[0])
    with durable_files.writing(path, needed=buffer.getbuffer().nbytes):
        storage.make_folder(path.parent)
        durable_files.write_atomically(path, buffer.getvalue())
    return path


def load_rollouts(
    directory: str | os.PathLike[str], step: int, part: tuple[int, int] = (0, 1)
) -> RolloutBatch:
    """Reads a step's rollouts back, whichever processes have written them.

    Args:
      directory: of `save_rollouts`.
      step: of training.
      part: number of this process, and of all: it has the turns of its part of the
        groups, and the outcomes of all.

    Raises:
      InputError: a file does not exist, or holds something else; names it.
    """
    first, processes = _load(directory, step, 0)
    others = [_load(directory, step, i)[0] for i in range(1, processes)]
    turns = [turn for batch in (first, *others) for turn in batch.turns]
    index, count = part
    own = (turn for turn in turns if turn.index[0] % count == index)
    turns = sorted(own, key=lambda turn: turn.index)
    return dataclasses.replace(first, turns=tuple(turns))


def _load(
    directory: str | os.PathLike[str], step: int, process: int
) -> tuple[RolloutBatch, int]:
    """What a process has written, and how many did."""
    path = rollout_file(directory, step, process)
    try:
        raw = io.BytesIO(storage.read_bytes(path))
        with np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(
            f"{path}: no rollouts of step {step} to replay; they are kept by --record"
        ) from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        record = json.loads(arrays["record"].tobytes())
        if record["format"] not in FORMATS:
            known = " or ".join(map(str, FORMATS))
            raise ValueError(f"has format {record['format']}, expected {known}")
        held = {
            name.removeprefix("outcome_"): array
            for name, array in arrays.items()
            if name.startswith("outcome_")
        }
        batch = RolloutBatch(
            questions=tuple(arrays["questions"].tolist()),
            outcomes=Outcomes(**earlier(held)),
            turns=tuple(_turns(arrays)),
            **{name: record[name] for name in _RECORD},
            skipped=record.get("skipped", 0),  # absent in earlier files
        )
        return batch, int(record.get("processes", 1))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: no rollouts of a step: {error}") from error


def _joined(batch: RolloutBatch, name: str, dtype) -> np.ndarray:
    values = [value for turn in batch.turns for value in getattr(turn, name) or ()]
    return np.asarray(values, dtype)


def _turns(arrays: Mapping[str, np.ndarray]) -> list[Conversation]:
    cut = {}
    for name, ends in (
        ("prompt_ids", "prompt_ends"),
        ("completion_ids", "completion_ends"),
        ("sampler_logprobs", "completion_ends"),
    ):
        cut[name] = np.split(arrays[name], arrays[ends][:-1])
    for name in _OPTIONAL:
        if name in arrays:
            cut[name] = np.split(arrays[name], arrays[f"{name}_ends"][:-1])
    return [
        Conversation(
            index=tuple(index),
            advantage=0.0,
            **{
                name: tuple(parts[i].tolist())
                for name, parts in cut.items()
                if name not in _OPTIONAL or len(parts[i])
            },
        )
        for i, index in enumerate(arrays["turn_index"].tolist())
    ]
