"""Turns and trajectories, the records of a run, and their JSON form."""

import dataclasses
from typing import Any, Literal

from gru_mem_jax.agent.requests import FinishReason
from gru_mem_jax.errors import RunError
from gru_mem_jax.records import from_record, shown, to_record

TurnKind = Literal["memory", "answer"]
TurnStep = Literal["read", "scan", "merge"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One conversation: the prompt's size, the completion, and what it changed.

    Attributes:
      kind: "memory" or "answer" (the last turn).
      chunk: index of the chunk that was read; None in an answer turn.
      chunk_span: (start, end) of the chunk in characters of the document.
      chunk_digest: of the chunk's text; a resumed run checks it.
      pass_number: which pass over the text it belongs to, from 1.
      step: "read" in order, each turn against the memory that the last one left. Of
        mode parallel: "scan", side by side with others, or "merge", again, because
        others have changed the memory since the scan.
      accepted: of a scan: whether its candidate became the memory, as it is. Known
        when the scans beside it have ended.
      update: whether the memory was replaced, of a scan whether it would be; None in an
        answer turn.
      exit: the exit gate, obeyed or not; None in an answer turn.
      update_probability, exit_probability: P(yes) and P(end) of a constrained turn, at
        temperature 1; None of others.
      well_formed: whether the completion has the form that was asked for.
      problem: why not, else None; equal for equal faults.
      memory_before, memory: the memory that the turn saw and left; of a scan, what it
        would leave.
      memory_tokens: of `memory`, as prompts show it; 0 if it is empty.
      memory_cut: whether the candidate memory went over its budget.
      text: what the chat template had written of the reply (nothing, or `<think>` and
        the like) and the completion, decoded, without its stop token.
      finish_reason: "stop" or "length".
      prompt_tokens, completion_tokens: how many.
      shared_prompt_tokens: prompt tokens whose prefill was reused.
      seconds: from the request to its completion, waiting included.
      prompt_ids, completion_ids, logprobs, sampling_logprobs: what was run and
        sampled, if the run is traced; logprobs are those at temperature 1.
      supports: of a constrained turn that is traced: which of the grammar's sets of ids
        each id was drawn from; -1: it was forced (`grammar.automaton`).
    """

    kind: TurnKind
    chunk: int | None = None
    chunk_span: tuple[int, int] | None = None
    chunk_digest: str | None = None
    pass_number: int = 1
    step: TurnStep = "read"
    accepted: bool = False
    update: bool | None = None
    exit: bool | None = None
    update_probability: float | None = None
    exit_probability: float | None = None
    well_formed: bool
    problem: str | None = None
    memory_before: str = ""
    memory: str
    memory_tokens: int
    memory_cut: bool = False
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    shared_prompt_tokens: int = 0
    seconds: float
    prompt_ids: tuple[int, ...] | None = None
    completion_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    sampling_logprobs: tuple[float, ...] | None = None
    supports: tuple[int, ...] | None = None

    @property
    def sets_memory(self) -> bool:
        """Whether its candidate became the memory."""
        return self.accepted if self.step == "scan" else bool(self.update)


_TRACE = (
    "prompt_ids",
    "completion_ids",
    "logprobs",
    "sampling_logprobs",
    "supports",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    r"""The turns so far of one question on one context.

    Attributes:
      answer: content of the last \boxed{} of the answer turn, as plain text
        (`tex.plain_text`); None if it has no box, or before it. The turn's `text` has
        the whole reply.
      mode: one of `agent.config.MODES`.
      question: text.
      turns: in the order in which they were asked for, whatever ended first; the answer
        turn, if there is one, is the last.
      stop_reason: why reading stopped ("exit_gate", "end_of_context",
        "empty_context", "max_chunks", "deadline", "failed", or what `stop` was given);
        None while reading.
      interrupted: whether the run ended before its answer; it can be resumed.
      failure: why the generator gave up a request, if it did: the run is interrupted.
      seconds: wall-clock, all runs of a resumed trajectory together.
      trajectory_id: what its random seeds depend on, beside the seed.
      settings: the agent's configuration, as `config_to_dict` gives it.
      metadata: JSON values of the caller's.
    """

    answer: str | None = None
    mode: str
    question: str
    turns: tuple[Turn, ...] = ()
    stop_reason: str | None = None
    interrupted: bool = False
    failure: str | None = None
    seconds: float = 0.0
    trajectory_id: int = 0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def memory_turns(self) -> tuple[Turn, ...]:
        """The turns that read a chunk."""
        return tuple(turn for turn in self.turns if turn.kind == "memory")

    @property
    def num_chunks(self) -> int:
        """How many chunks were read, each counted once."""
        return len({turn.chunk for turn in self.memory_turns})

    @property
    def num_passes(self) -> int:
        """How many passes over the text were begun; 0 if nothing was read."""
        return max((turn.pass_number for turn in self.memory_turns), default=0)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all turns."""
        return sum(turn.prompt_tokens for turn in self.turns)

    @property
    def shared_prompt_tokens(self) -> int:
        """Those of the prompt tokens whose prefill was reused."""
        return sum(turn.shared_prompt_tokens for turn in self.turns)

    @property
    def completion_tokens(self) -> int:
        """Sampled tokens of all turns."""
        return sum(turn.completion_tokens for turn in self.turns)

    @property
    def well_formed(self) -> bool:
        """Whether every turn is (r_format of arXiv 2602.10560, Eq. 11)."""
        return all(turn.well_formed for turn in self.turns)

    @property
    def borders(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each chunk read, in order, for `evidence_labels`."""
        return tuple(
            sorted({turn.chunk_span for turn in self.turns if turn.chunk_span})
        )


class UnansweredError(RunError):
    """The generator gave up a request, and so the run has no answer.

    Attributes:
      trajectory: its turns so far, to resume from (`Recurrence`'s `resume`).
    """

    def __init__(self, trajectory: Trajectory):
        super().__init__(
            f"no answer to {shown(trajectory.question)}: {trajectory.failure}"
        )
        self.trajectory = trajectory


_SUMS = (
    "num_chunks",
    "prompt_tokens",
    "shared_prompt_tokens",
    "completion_tokens",
    "well_formed",
)


def turn_to_dict(turn: Turn) -> dict[str, Any]:
    """A turn as JSON values; the trace fields only if it was traced."""
    record = to_record(turn)
    return {k: v for k, v in record.items() if k not in _TRACE or v is not None}


def trajectory_to_dict(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as JSON values, its sums included."""
    record = to_record(dataclasses.replace(trajectory, turns=()))
    record |= {name: getattr(trajectory, name) for name in _SUMS}
    del record["turns"]  # put last: a reader of the file sees the answer first
    return record | {"turns": [turn_to_dict(turn) for turn in trajectory.turns]}


def trajectory_from_dict(record: object) -> Trajectory:
    """The trajectory that `trajectory_to_dict` made the record of.

    Raises:
      InputError: it is not such a record; names the field.
    """
    if isinstance(record, dict):
        record = {k: v for k, v in record.items() if k not in _SUMS}
    return from_record(Trajectory, record, "trajectory")
