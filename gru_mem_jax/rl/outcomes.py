"""What groups of trajectories did, as arrays: where strings end and numbers begin.

P questions, G rollouts of each, K columns of memory turns; the answer turn has no
gates. Column k is chunk k; where chunks are read more than once see `rl.passes`.
"""

import dataclasses
import inspect
import itertools
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import shown
from gru_mem_jax.rl import passes

Array = jax.Array | np.ndarray
Labels = tuple[Sequence[bool], int | None]
Group = Sequence[Trajectory]
RewardFn = Callable[[Example, Trajectory], float | None]

_LARGEST = float(np.finfo(np.float32).max)
# `Outcomes.stop` is an index into these; a reason not among them is "other".
STOP_REASONS = (
    "exit_gate",
    "end_of_context",
    "empty_context",
    "max_chunks",
    "deadline",
    "other",
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What P groups of G trajectories did, against the labels of their contexts.

    A column is one pass, step and chunk of its question (`passes.column`): memory turn
    k reads chunk k where each is read once.

    Attributes:
      correct: float32 [P, G], the answer's score; 0 where there is none.
      scored: bool [P, G], whether there is a score: a reward function may give None.
      mode: int32 [P, G], index into agent.config.MODES.
      stop: int32 [P, G], index into STOP_REASONS.
      exit_gate: bool [P, G], whether the exit gate could end the run.
      exit_offset: int32 [P, G], how far behind the last evidence reading ended
        (`passes.exit_offset`).
      last_evidence: int32 [P, G], last chunk with evidence; -1 if none has any.
      num_chunks: int32 [P, G], chunks of the whole context.
      passes: int32 [P, G], over the context.
      merges: int32 [P, G], turns that mode parallel has merged with.
      well_formed: bool [P, G], whether every turn is, the answer turn too.
      turn_mask: bool [P, G, K], memory turns that were reached.
      turn: int32 [P, G, K], the turn's number in its run; 0 where none was reached.
      update: bool [P, G, K], whether the memory was replaced (always, by MemAgent).
      evidence: bool [P, G, K], whether the column's chunk holds evidence, read or not.
      excused: bool [P, G, K], whether a closed gate is right on evidence too
        (`passes.excused`).
      turn_well_formed: bool [P, G, K].
      memory_tokens: int32 [P, G, K], size of the memory after the turn.
      memory_cut: bool [P, G, K], whether the candidate memory went over its budget.
      completion_tokens: int32 [P, G, K + 1], sampled tokens; the answer turn's last.
      cut: bool [P, G, K + 1], whether the completion ended at the token limit.
    """

    correct: Array
    scored: Array
    mode: Array
    stop: Array
    exit_gate: Array
    exit_offset: Array
    last_evidence: Array
    num_chunks: Array
    passes: Array
    merges: Array
    well_formed: Array
    turn_mask: Array
    turn: Array
    update: Array
    evidence: Array
    excused: Array
    turn_well_formed: Array
    memory_tokens: Array
    memory_cut: Array
    completion_tokens: Array
    cut: Array


def outcomes(
    groups: Sequence[Group],
    examples: Sequence[Example],
    labels: Sequence[Labels],
    reward_fn: RewardFn | None = None,
    *,
    num_turns: int | None = None,
) -> Outcomes:
    """Reads trajectories against the labels of their contexts.

    Args:
      groups: G trajectories for each of P questions.
      examples: the P questions.
      labels: for each, (evidence, last evidence) of the chunks of its whole context,
        as `agent.chunking.evidence_labels` gives them.
      reward_fn: scores the answer of a trajectory: `RewardConfig.answer_reward`, or
        any function of (example, trajectory); None: as each example says. One that
        returns None leaves the trajectory without a score: nothing is learned from it,
        and no mean counts it.
      num_turns: K; None: `columns_needed`. A fixed K keeps what is compiled for these
        shapes from being compiled again.

    Returns:
      Outcomes of numpy arrays.

    Raises:
      InputError: numbers of groups, examples, labels or rollouts differ, a trajectory
        has no answer turn, or has read more chunks than there are labels, or has turns
        beyond `num_turns`.
      RunError: the user's reward function fails, or returns neither a finite number nor
        None.
    """
    _check_groups(groups, examples, labels)
    turns = columns_needed(groups, labels) if num_turns is None else num_turns
    shape = (len(groups), len(groups[0]) if groups else 0)
    arrays = {
        "correct": np.zeros(shape, np.float32),
        "scored": np.zeros(shape, bool),
        **{name: np.zeros(shape, np.int32) for name in _NUMBERS},
        **{name: np.zeros(shape, bool) for name in ("exit_gate", "well_formed")},
        **{name: np.zeros((*shape, turns), bool) for name in _TURN_FLAGS},
        **{name: np.zeros((*shape, turns), np.int32) for name in _TURN_NUMBERS},
        "completion_tokens": np.zeros((*shape, turns + 1), np.int32),
        "cut": np.zeros((*shape, turns + 1), bool),
    }
    for p, (group, example, (evidence, last)) in enumerate(
        zip(groups, examples, labels)
    ):
        arrays["num_chunks"][p] = len(evidence)
        arrays["last_evidence"][p] = -1 if last is None else last
        most = _columns(group, len(evidence))
        repeated = itertools.islice(itertools.cycle(evidence), min(most, turns))
        held = tuple(repeated)
        arrays["evidence"][p, :, : len(held)] = held
        for g, trajectory in enumerate(group):
            where = f"rollout {g} of example {example.id!r}"
            _check_trajectory(trajectory, len(evidence), turns, where)
            value = _score(reward_fn or example_score, example, trajectory, where)
            arrays["scored"][p, g] = value is not None
            arrays["correct"][p, g] = value or 0
            _fill(arrays, (p, g), trajectory, evidence)
    return Outcomes(**arrays)


def columns_needed(groups: Sequence[Group], labels: Sequence[Labels]) -> int:
    """K that has room for every turn, and for a column of each chunk."""
    pairs = zip(groups, labels)
    return max((_columns(group, len(own)) for group, (own, _) in pairs), default=0)


def _columns(group: Group, num_chunks: int) -> int:
    turns = (turn for trajectory in group for turn in trajectory.memory_turns)
    last = max((passes.column(turn, num_chunks) for turn in turns), default=-1)
    return max(num_chunks, last + 1)


def earlier(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of files that earlier versions wrote, with what they lack.

    All their trajectories were scored, and read each chunk at most once.

    Args:
      arrays: by name of the field.
    """
    if "exit_gate" in arrays or "correct" not in arrays:
        return dict(arrays)
    held: dict[str, Any] = dict(arrays)
    read, group = held["turn_mask"], held["correct"].shape
    held.setdefault("scored", np.ones(group, bool))
    held["exit_gate"] = held["mode"] == MODES.index("with_exit_gate")
    held["exit_offset"] = held.pop("exit_chunk") - held["last_evidence"]
    held["passes"] = read.any(-1).astype(np.int32)
    held["merges"] = np.zeros(group, np.int32)
    held["turn"] = np.arange(read.shape[-1], dtype=np.int32) * read
    held["excused"] = np.zeros(read.shape, bool)
    return held


def concatenate(parts: Sequence[Outcomes]) -> Outcomes:
    """Outcomes of all groups of several, their K widened to the largest.

    Args:
      parts: at least one, all of G rollouts a group.
    """
    most = max(part.turn_mask.shape[-1] for part in parts)

    def widened(part: Outcomes, name: str) -> np.ndarray:
        array, own = np.asarray(getattr(part, name)), part.turn_mask.shape[-1]
        if array.ndim < 3:
            return array
        # The answer turn, where an array has one, stays the last.
        padding = np.zeros((*array.shape[:2], most - own), array.dtype)
        return np.concatenate([array[..., :own], padding, array[..., own:]], axis=-1)

    names = [field.name for field in dataclasses.fields(Outcomes)]
    return Outcomes(
        **{n: np.concatenate([widened(part, n) for part in parts]) for n in names}
    )


_NUMBERS = (
    *("mode", "stop", "exit_offset", "last_evidence"),
    *("num_chunks", "passes", "merges"),
)
_TURN_FLAGS = (
    *("turn_mask", "update", "evidence", "excused"),
    *("turn_well_formed", "memory_cut"),
)
_TURN_NUMBERS = ("turn", "memory_tokens")


def _fill(
    arrays: dict[str, np.ndarray],
    at: tuple[int, int],
    trajectory: Trajectory,
    evidence: Sequence[bool],
) -> None:
    *memory, answer = trajectory.turns
    reason = trajectory.stop_reason
    known = reason if reason in STOP_REASONS else "other"
    arrays["mode"][at] = MODES.index(trajectory.mode)
    arrays["stop"][at] = STOP_REASONS.index(known)
    arrays["exit_gate"][at] = passes.obeys_exit(trajectory)
    arrays["exit_offset"][at] = passes.exit_offset(trajectory, evidence)
    arrays["passes"][at] = trajectory.num_passes
    arrays["merges"][at] = sum(turn.step == "merge" for turn in memory)
    arrays["well_formed"][at] = trajectory.well_formed
    always_open = trajectory.mode == "memagent"
    read = [passes.column(turn, len(evidence)) for turn in memory]
    arrays["turn_mask"][at][read] = True
    arrays["turn"][at][read] = range(len(memory))
    arrays["excused"][at][read] = passes.excused(trajectory)
    arrays["update"][at][read] = [always_open or bool(t.update) for t in memory]
    arrays["turn_well_formed"][at][read] = [turn.well_formed for turn in memory]
    arrays["memory_tokens"][at][read] = [turn.memory_tokens for turn in memory]
    arrays["memory_cut"][at][read] = [turn.memory_cut for turn in memory]
    for turns, place in ((memory, read), ([answer], [-1])):
        arrays["completion_tokens"][at][place] = [t.completion_tokens for t in turns]
        arrays["cut"][at][place] = [t.finish_reason == "length" for t in turns]


def _check_groups(
    groups: Sequence[Group],
    examples: Sequence[Example],
    labels: Sequence[Labels],
) -> None:
    if not len(groups) == len(examples) == len(labels):
        raise InputError(
            f"{len(groups)} groups, {len(examples)} examples and {len(labels)} labels: "
            f"there must be as many of each"
        )
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1:
        raise InputError(f"groups must have equally many rollouts, got {sizes}")


def _check_trajectory(
    trajectory: Trajectory, num_chunks: int, room: int, where: str
) -> None:
    kinds = [turn.kind for turn in trajectory.turns]
    if kinds[-1:] != ["answer"] or "answer" in kinds[:-1]:
        raise InputError(f"{where} must end with its answer turn; it was interrupted")
    turns = trajectory.memory_turns
    read = max((turn.chunk or 0 for turn in turns), default=-1) + 1
    if read > num_chunks:
        raise InputError(
            f"{where} has {len(turns)} memory turns and has read chunk {read - 1}, but "
            f"there are labels of {num_chunks} chunks"
        )
    last = max((passes.column(turn, num_chunks) for turn in turns), default=-1)
    if last >= room:
        raise InputError(
            f"{where} has {len(turns)} memory turns that need {last + 1} columns, more "
            f"than the {room} of num_turns"
        )


def example_score(example: Example, trajectory: Trajectory) -> float:
    """The answer's score in 0..1 by the example's own scoring."""
    return score(trajectory.answer, example.answers, example.scoring)


def _score(
    reward_fn: RewardFn, example: Example, trajectory: Trajectory, where: str
) -> float | None:
    name = getattr(reward_fn, "__name__", repr(reward_fn))
    try:
        value = reward_fn(example, trajectory)
    except Exception as error:
        raise RunError(
            f"reward function {name} failed on {where}: {_what_and_where(error)}"
        ) from error
    if value is None:
        return None
    if inspect.iscoroutine(value):
        value.close()
        raise RunError(
            f"reward function {name} gave a coroutine for {where}: it must be a plain "
            "function, not an async one"
        )
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise RunError(
            f"reward function {name} gave {shown(value)} for {where}: expected a "
            "finite number, or None to leave it out"
        )
    return number


def _what_and_where(error: Exception) -> str:
    """Its name and text, with the user's line: the outermost that is not installed."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    place = f" ({own[0].filename}, line {own[0].lineno})" if own else ""
    # Gin adds which configurable was called; it is named already.
    text = str(error).split("\n  In call to configurable")[0]
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}{place}"
