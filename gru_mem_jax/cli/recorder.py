"""Writes a trajectory's JSON while it grows; fingerprints of policies."""

import dataclasses
import hashlib
import os
import pathlib
import stat
import time

from gru_mem_jax.agent.loop import INTERRUPTED
from gru_mem_jax.agent.trajectory import Trajectory, trajectory_to_dict
from gru_mem_jax.cli.json_output import Target
from gru_mem_jax.policy.files import TEMPLATE_FOLDER

_WHOLE = 1 << 22  # files up to this size are hashed whole, larger ones at both ends
_END = 1 << 20


class Recorder:
    """Writes a trajectory as it grows.

    Until the run has ended the file says `interrupted`: whatever kills the process, the
    file is whole, correct, and can be resumed from.
    """

    def __init__(self, target: Target, pause: float = 1.0):
        """Nothing is written yet.

        Args:
          target: of the JSON.
          pause: least seconds between two writes of an unfinished trajectory.
        """
        self._target = target
        self._pause = pause
        self._next = 0.0

    @property
    def path(self) -> pathlib.Path | None:
        """The file that can be resumed from, if there is one."""
        return self._target.path if self._target.is_incremental else None

    def save(self, trajectory: Trajectory) -> None:
        """Writes an unfinished trajectory, if the last write was long enough ago."""
        start = time.monotonic()
        if self.path is None or start < self._next:
            return
        self.finish(
            dataclasses.replace(trajectory, interrupted=True, stop_reason=INTERRUPTED)
        )
        now = time.monotonic()
        # At most a twentieth of the time is spent on writing.
        self._next = now + max(self._pause, 20 * (now - start))

    def finish(self, trajectory: Trajectory) -> None:
        """Writes the trajectory as it is."""
        self._target.write(trajectory_to_dict(trajectory))


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """Identifies a policy folder by names, sizes and contents, wherever it lies.

    Of large files only both ends are read: it guards against mistakes, not attacks.
    """
    digest = hashlib.sha256()
    folder = pathlib.Path(folder)
    paths = [*folder.iterdir(), *(folder / TEMPLATE_FOLDER).glob("*.jinja")]
    for path in sorted(paths, key=lambda p: p.name):
        if path.suffix not in (".json", ".safetensors", ".jinja", ".txt", ".model"):
            continue
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):
                continue
            digest.update(f"{path.name}:{info.st_size}:".encode())
            with path.open("rb") as f:
                if info.st_size <= _WHOLE:
                    digest.update(f.read())
                else:
                    digest.update(f.read(_END))
                    f.seek(-_END, os.SEEK_END)
                    digest.update(f.read())
        except OSError:
            continue
    return digest.hexdigest()[:16]
