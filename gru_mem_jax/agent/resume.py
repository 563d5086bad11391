"""Whether a saved trajectory can be resumed by a run."""

import contextlib
from collections import defaultdict
from typing import Any

from gru_mem_jax.agent.config import config_from_dict, config_to_dict
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import first_difference, plain

# A resumed run may have others of these; everything else must be as it was.
_MAY_DIFFER = ("max_chunks", "deadline_seconds", "prefill_ahead")


def check_resumable(saved: Trajectory, new: Trajectory) -> None:
    """Compares question, settings and seeds of a saved run with those of a new one.

    Raises:
      InputError: they differ, with the first difference, or the saved turns are not in
        order.
    """
    if (difference := first_difference(_identity(new), _identity(saved))) is not None:
        raise InputError(f"cannot resume: {difference} as in the saved run")
    turns = list(saved.turns)
    if turns and turns[-1].kind == "answer":
        turns.pop()
    read: dict[int, list[int | None]] = defaultdict(list)
    for turn in turns:
        read[turn.pass_number if turn.step == "read" else 0].append(turn.chunk)
    others = [(turn.pass_number, turn.step, turn.chunk) for turn in turns]
    in_order = all(
        chunks == list(range(len(chunks))) for number, chunks in read.items() if number
    )
    if not in_order or None in read[0] or len(set(others)) < len(others):
        raise InputError("cannot resume: the saved turns are not in order")


def _identity(trajectory: Trajectory) -> dict[str, Any]:
    """What a run and the one that resumes it have in common."""
    settings = trajectory.settings
    # Settings that the saved run does not have yet are at their defaults. Settings that
    # are refused differ from the new run's, and the difference is reported.
    with contextlib.suppress(InputError):
        settings = config_to_dict(config_from_dict(settings))
    return {
        "question": trajectory.question,
        "trajectory_id": plain(trajectory.trajectory_id),
        "settings": {k: v for k, v in settings.items() if k not in _MAY_DIFFER},
    }
