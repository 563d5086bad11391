"""What a checkpoint of a training run holds, and how a run is taken up from it."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from gru_mem_jax import durable_files
from gru_mem_jax.checkpoint_trees import first_difference
from gru_mem_jax.checkpoints import Checkpoints
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import SHARD_NAME, PolicyDir, is_tokenizer_file
from gru_mem_jax.rl.learner import Learner, TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands after a step.

    Attributes:
      step: steps that are done.
      state: of the learner.
      position: of the next question in the source.
      behaviour: params that sample the next step, where they are not the state's.
      pending: columns of this step's row, where it waits for its evaluation.
    """

    step: int
    state: TrainState
    position: int
    behaviour: Any = None
    pending: dict[str, Any] | None = None


class TrainStore:
    """Checkpoints of one run.

    Args:
      checkpoints: of its folder.
      learner: knows the arrays' shapes and where they lie.
      identity: JSON values that a checkpoint to be taken up must have as well: policy
        configuration, digest of the first weights, ...
      files: small files to keep, by name; tokenizer files must be the same.
      overlap: whether behaviour params are kept.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        learner: Learner,
        identity: Mapping[str, Any],
        files: Mapping[str, bytes],
        *,
        overlap: bool,
    ):
        self._checkpoints, self._learner = checkpoints, learner
        self._identity, self._files = dict(identity), dict(files)
        self._overlap = overlap
        self._held: set[int] = set()  # what a restart would find, or soon will

    def has(self, step: int) -> bool:
        """Whether a step was saved or restored; it may still be on its way to disk."""
        return step in self._held

    def save(
        self, progress: Progress, *, score: float | None = None, wait: bool = False
    ) -> None:
        """Saves; as `Checkpoints.save`."""
        state = progress.state
        trees = {
            "params": state.params,
            "optimizer": state.opt_state,
            "counters": {name: getattr(state, name) for name in _COUNTERS},
        }
        if progress.behaviour is not None:
            trees["behaviour"] = progress.behaviour
        metadata = {
            "position": progress.position,
            "pending": progress.pending,
            "identity": self._identity,
            "trees": sorted(trees),
        }
        self._checkpoints.save(
            progress.step, trees, metadata, files=self._files, score=score, wait=wait
        )
        self._held.add(progress.step)

    def restore(self) -> tuple[Progress | None, tuple[str, ...]]:
        """The newest good checkpoint, and a warning for each newer bad one.

        Raises:
          InputError: it is of another policy, reference or tokenizer; the first
            difference is named.
          RunError: all are bad.
        """
        known = self._checkpoints.restore_latest({})
        if known is None:
            return None, ()
        self._check(known.step, known.metadata.get("identity"), known.files)
        abstract = self._learner.abstract_state()
        trees = {
            "params": abstract.params,
            "optimizer": abstract.opt_state,
            "counters": {name: getattr(abstract, name) for name in _COUNTERS},
        }
        if self._overlap and "behaviour" in known.metadata["trees"]:
            dtype = self._learner.config.dtype
            trees["behaviour"] = self._learner.abstract_params(dtype)
        restored = self._checkpoints.restore(trees, known.step)
        state = TrainState(
            params=restored["params"],
            opt_state=restored["optimizer"],
            **restored["counters"],
        )
        progress = Progress(
            step=known.step,
            state=state,
            position=known.metadata["position"],
            behaviour=restored.get("behaviour"),
            pending=known.metadata["pending"],
        )
        self._held.add(known.step)
        return progress, known.warnings

    def _check(self, step: int, identity: Any, files: Mapping[str, bytes]) -> None:
        where = f"{self._checkpoints.directory / str(step)}"
        difference = first_difference(identity, self._identity)
        if difference is not None:
            raise InputError(
                f"{where}: was saved by another run: {difference}; give the policy "
                "that this run began with, or another --run_dir"
            )
        for name in sorted({*files, *self._files}):
            same = files.get(name) == self._files.get(name)
            if is_tokenizer_file(name) and not same:
                raise InputError(
                    f"{where}: was trained with another tokenizer: {name} differs; "
                    "give the policy that this run began with"
                )


_COUNTERS = ("step", "skipped", "skipped_in_a_row")


def weights_digest(directory: PolicyDir) -> str:
    """One sha256 over the weights of a policy directory, to know them again."""
    total = hashlib.sha256()
    names = sorted(entry.name for entry in os.scandir(directory.root))
    for name in names:
        if SHARD_NAME.fullmatch(name) and (path := directory.path(name)) is not None:
            total.update(f"{name} {durable_files.sha256(path)}\n".encode())
    return total.hexdigest()
