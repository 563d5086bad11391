"""Saves the state of a training run in checkpoints, and restores it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gru_mem_jax import durable_files
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.checkpoint_files import weight_files
from gru_mem_jax.policy.files import PolicyDir, is_tokenizer_file
from gru_mem_jax.records import first_difference
from gru_mem_jax.rl.compile import Learner
from gru_mem_jax.rl.learner import TrainState
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.step import Restored


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run after a step.

    Attributes:
      step: number of completed steps.
      state: of the learner.
      position: of the next question in the source; in supervised training of the first
        example of the current pool.
      taken: batches of that pool that were learned.
      behaviour: params that sample the next step, if they are not the state's.
      pending: columns of this step's row, if it waits for its evaluation.
      met_bad: bad examples that were skipped so far.
    """

    step: int
    state: TrainState
    position: int
    taken: int = 0
    behaviour: Any = None
    pending: dict[str, Any] | None = None
    met_bad: int = 0


class RunStore:
    """Checkpoints of one run.

    Args:
      checkpoints: of its folder.
      learner: knows the arrays' shapes and shardings.
      identity: JSON values that must equal those of a restored checkpoint: policy
        configuration, digest of the first weights, ...
      files: small files to keep, by name; tokenizer files must be equal too.
      data: "sha256" and "records" of the source's data; None: a source without a file.
      accept_data: resume although the data changed.
      overlap: whether behaviour params are kept.
      supervised: whether the run learns an oracle's turns, to be said of its policy.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        learner: Learner,
        identity: Mapping[str, Any],
        files: Mapping[str, bytes],
        *,
        data: Mapping[str, Any] | None = None,
        accept_data: bool = False,
        overlap: bool,
        supervised: bool = False,
    ):
        self._checkpoints, self._learner = checkpoints, learner
        self._identity, self._files = dict(identity), dict(files)
        self._data, self._accept_data = data and dict(data), accept_data
        self._overlap, self._supervised = overlap, supervised
        self._held: set[int] = set()  # what a restart would find, or soon will

    def has(self, step: int) -> bool:
        """Whether a step was saved or restored; it may still be being written."""
        return step in self._held

    def save(
        self, progress: RunState, *, metric: float | None = None, wait: bool = False
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
            "taken": progress.taken,
            "pending": progress.pending,
            "met_bad": progress.met_bad,
            "data": self._data,
            "supervised": self._supervised,
            "identity": self._identity,
            "trees": sorted(trees),
            "tokenizer_files": sorted(filter(is_tokenizer_file, self._files)),
        }
        self._checkpoints.save(
            progress.step, trees, metadata, files=self._files, metric=metric, wait=wait
        )
        self._held.add(progress.step)

    def restore(self) -> tuple[RunState | None, tuple[str, ...]]:
        """The newest good checkpoint, and a warning for each newer bad one.

        Raises:
          InputError: it is of another policy, reference, tokenizer or data; the first
            difference is named.
          RunError: all are bad.
        """
        known = self._checkpoints.restore_latest({})
        if known is None:
            return None, ()
        identity = dict(known.metadata.get("identity") or {})
        # Earlier versions kept it there.
        sha256 = identity.pop("data_sha256", None)
        self._check(known, identity)
        before = known.metadata.get("data") or (sha256 and {"sha256": sha256})
        position = known.metadata["position"]
        notes = self._check_data(known.step, before, position)
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
        progress = RunState(
            step=known.step,
            state=state,
            position=position,
            taken=known.metadata.get("taken", 0),
            behaviour=restored.get("behaviour"),
            pending=known.metadata["pending"],
            met_bad=known.metadata.get("met_bad", 0),
        )
        self._held.add(known.step)
        return progress, (*known.warnings, *notes)

    def _check_data(
        self, step: int, before: Mapping[str, Any] | None, position: int
    ) -> tuple[str, ...]:
        """Notes on changed data, if it is accepted."""
        now = self._data
        if (before and before["sha256"]) == (now and now["sha256"]):
            return ()
        change = (
            f"the data has changed since step {step}: {_describe_data(before)} then, "
            f"{_describe_data(now)} now"
        )
        if self._accept_data:
            return (f"{change}; positions from {position} on are of the new order",)
        raise InputError(
            f"{self._checkpoints.directory / str(step)}: {change}. Its path may "
            "change, its bytes may not: added, removed or moved records change which "
            "questions come next. Give the data that the run began with, start a new "
            "run in another --run_dir, or give --resume_with_changes to resume at "
            f"position {position} of the new order"
        )

    def _check(self, known: Restored, identity: Mapping[str, Any]) -> None:
        where = f"{self._checkpoints.directory / str(known.step)}"
        difference = first_difference(identity, self._identity)
        if difference is not None:
            raise InputError(
                f"{where}: was saved by another run: {difference}; give the policy "
                "that this run began with, or another --run_dir"
            )
        names = filter(is_tokenizer_file, sorted({*known.files, *self._files}))
        if "tokenizer_files" not in known.metadata:
            names = filter(_FIRST_TOKENIZER_FILES.__contains__, names)
        for name in names:
            have, want = known.files.get(name), self._files.get(name)
            if have != want:
                raise InputError(
                    f"{where}: was trained with another tokenizer: {name} differs"
                    f"{_difference(have, want)}; give the policy that this run began "
                    "with"
                )


def _describe_data(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return "a source without a file"
    count = data.get("records")
    many = "data" if count is None else f"{count} records"
    return f"{many} with sha256 {data['sha256'][:12]}..."


def _difference(have: bytes | None, want: bytes | None) -> str:
    """The first difference of a small file: ": eos_token_id is 1, expected 2"."""
    if have is None or want is None:
        return f": {'absent' if have is None else 'present'} in the checkpoint"
    try:
        found = first_difference(json.loads(have), json.loads(want))
    except (ValueError, RecursionError):
        return ""
    return f": {found}" if found else ""


# The tokenizer files of checkpoints that do not list theirs.
_FIRST_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)
_COUNTERS = ("step", "skipped", "skipped_in_a_row")


def weights_digest(directory: PolicyDir) -> str:
    """One sha256 over the weights of a policy directory, to recognise them.

    Over the files that the weights are read from; other files may change.
    """
    total = hashlib.sha256()
    for name in weight_files(directory):
        digest = durable_files.sha256(directory.root / name)
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()
