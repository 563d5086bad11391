"""Whether a saved trajectory is the one that a run would go on with."""

from typing import Any

from gru_mem_jax.agent.config import config_from_dict, config_to_dict
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import to_record

# A resumed run may have other limits; everything else must be as it was.
_LIMITS = ("max_chunks", "deadline_seconds")


def check_resumable(saved: Trajectory, new: Trajectory) -> None:
    """Compares question, settings and seeds of a saved run with those of a new one.

    Raises:
      InputError: naming the first difference, or turns that are out of order.
    """
    ours, theirs = to_record(new), to_record(saved)
    theirs["settings"] = _with_defaults(theirs["settings"])
    for record in (ours, theirs):
        for name in _LIMITS:
            record["settings"].pop(name, None)
    for name in ("question", "trajectory_id", "settings"):
        if difference := _difference(name, ours[name], theirs[name]):
            raise InputError(f"cannot resume: {difference}")
    chunks = [turn.chunk for turn in saved.turns]
    if chunks[-1:] == [None]:
        chunks.pop()  # the answer turn
    if chunks != list(range(len(chunks))):
        raise InputError("cannot resume: the saved turns are not in order")


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they were saved, those that are newer at their defaults."""
    try:
        return config_to_dict(config_from_dict(settings))
    except InputError:
        return settings  # what is wrong with them is told as a difference


def _difference(name: str, mine: Any, theirs: Any) -> str | None:
    """The first place where two trees of JSON values differ, in words."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**mine, **theirs}:
            path = f"{name}.{key}"
            if found := _difference(path, mine.get(key), theirs.get(key)):
                return found
    elif mine != theirs:
        return f"{name} is {mine!r:.60} now and was {theirs!r:.60} in the saved run"
    return None
