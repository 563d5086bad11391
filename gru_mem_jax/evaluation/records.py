"""What an evaluation leaves in its folder, line by line.

A folder of results has

    evaluation.json     settings, and the policies by name: `Manifest`
    questions.jsonl     an `AskedQuestion` a line
    answers.jsonl       a `ScoredAnswer` a line, in the order of their ends
    trajectories.jsonl  {"key": [...], "trajectory": {...}} a line: `ScoredAnswer.key`;
                        a memory that is as the turn before left it is not repeated
    results.json        the table: rows, intervals, comparisons
    lock                while a process writes

A line of answers.jsonl is written after its trajectory: what it says was scored is not
asked again.
"""

import dataclasses
from typing import Any, Literal

from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_int, check_number, shown

KEPT = 300  # trajectories that are kept, by default

_MOST_COUNTED = 1 << 40  # chunks or tokens: more are no document's
RunKind = Literal["text", "evidence", "attack", "skipped"]
# (set, labels as text, index), and (policy, mode, set, labels as text, index).
QuestionKey = tuple[str, str, int]
ScoredKey = tuple[str, str, str, str, int]


def labels_text(labels: dict[str, str | int]) -> str:
    """Labels of a set as one text, such as "length=7K,placement=uniform"."""
    return ",".join(f"{name}={label}" for name, label in labels.items())


def _check_labels(name: str, labels: dict[str, Any]) -> None:
    from gru_mem_jax.evaluation.suite import LABELS  # which imports much

    for label, value in labels.items():
        check_choice(name, label, LABELS)
        if type(value) not in (str, int):
            raise InputError(
                f"{name}: {label} must be text or an integer, got {shown(value)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was measured.

    Attributes:
      format: version of the folder's form.
      title: of the report.
      policies: name of each policy to where it is (a directory, or URL and model).
      modes: of the agent, and baselines.
      settings: agent, engine and suite, as JSON values; a continued evaluation must
        have the same.
    """

    format: int = 1
    title: str
    policies: dict[str, str]
    modes: tuple[str, ...]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkText:
    """A chunk of a document, for display.

    Attributes:
      span: (start, end) in characters of the document.
      runs: (kind, text) pairs, in order: plain text, evidence, text that an attack put
        there, and "skipped", whose text is the number of characters left out.
    """

    span: tuple[int, int]
    runs: tuple[tuple[RunKind, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A question of a set, with what is known about it.

    Attributes:
      set: name of its set.
      labels: of the set, by column: length, placement, num_chunks, gap, attack.
      index: in its set.
      id, question, answers, task, scoring, metadata: as of the `data.Example`.
      evidence: (start, end) in characters of the document.
      evidence_order: as of the `data.Example`.
      num_chunks: of the whole document.
      evidence_chunks: indices of the chunks that are labelled as evidence.
      chunks: for display; empty where the document was not kept.
    """

    set: str
    labels: dict[str, str | int]
    index: int
    id: str
    question: str
    answers: tuple[str, ...]
    task: str = ""
    scoring: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    evidence: tuple[tuple[int, int], ...] = ()
    evidence_order: tuple[int, ...] = ()
    num_chunks: int
    evidence_chunks: tuple[int, ...] = ()
    chunks: tuple[ChunkText, ...] = ()

    def __post_init__(self) -> None:
        _check_labels("question.labels", self.labels)
        check_int("question.num_chunks", self.num_chunks, 0, _MOST_COUNTED)
        for chunk in self.evidence_chunks:
            check_int("question.evidence_chunks", chunk, 0, _MOST_COUNTED)

    @property
    def key(self) -> QuestionKey:
        """(set, labels as text, index): unique in a folder."""
        return self.set, labels_text(self.labels), self.index


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """How one question went, in one mode, with one policy.

    Attributes:
      policy: name, as in the manifest.
      mode: of the agent, or a baseline.
      set, labels, index, id: of the question.
      score: of the answer in 0..1; 0 if it failed.
      scores: by name of a scoring, what else was scored: exact, f1.
      failed: why there is no answer; None: there is one.
      answer: None if there is none.
      seconds: wall-clock from its first request to its end, in company.
      seconds_share: its part of the wall-clock, which at each moment is divided evenly
        among the questions that run: the parts of a set add up to the set's.
      seconds_alone: wall-clock of the question alone; None: not measured.
      steps_alone: decode steps of the generator for the question alone, each of which
        writes a token of every turn that runs; None: not counted.
      stop_reason: as of the trajectory.
      chunks_read: how many, each counted once.
      turns, passes: how many memory turns and passes over the text that took; None: an
        earlier version has written it, and every chunk had one turn.
      exit: against the last evidence; None where the mode has no exit gate or nothing
        is labelled.
      updates_on, updates_off: (right, all) of the chunks read that have evidence, and
        of the others; None where the mode has no update gate or nothing is labelled.
      updated, said_end: indices of the chunks at which the memory was replaced, and at
        which the exit gate said end in the first pass, obeyed or not; None where the
        mode has no gates.
      well_formed: share of its turns.
      captured: (how many, of how many) spans of evidence entered the memory with their
        chunk; None: not labelled.
      retained: (how many, of how many) of those captured are in the last memory.
      prompt_tokens, completion_tokens: of all turns.
      shared_prompt_tokens: of the prompt tokens, those not computed again.
      memory_tokens: of the memory as it stands after each memory turn.
    """

    policy: str
    mode: str
    set: str
    labels: dict[str, str | int]
    index: int
    id: str
    score: float
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: str | None = None
    answer: str | None = None
    seconds: float
    seconds_share: float = 0.0
    seconds_alone: float | None = None
    steps_alone: int | None = None
    stop_reason: str | None = None
    chunks_read: int = 0
    turns: int | None = None
    passes: int | None = None
    exit: Literal["exact", "early", "late"] | None = None
    updates_on: tuple[int, int] | None = None
    updates_off: tuple[int, int] | None = None
    updated: tuple[int, ...] | None = None
    said_end: tuple[int, ...] | None = None
    well_formed: float | None = None
    captured: tuple[int, int] | None = None
    retained: tuple[int, int] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    shared_prompt_tokens: int = 0
    memory_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_labels("answer.labels", self.labels)
        check_number("answer.score", self.score, 0, 1)
        for name in ("seconds", "seconds_share", "seconds_alone"):
            if getattr(self, name) is not None:
                check_number(f"answer.{name}", getattr(self, name), 0, 1e12)
        for name, score in self.scores.items():
            check_number(f"answer.scores.{name}", score, 0, 1)
        check_int("answer.chunks_read", self.chunks_read, 0, _MOST_COUNTED)
        for name in ("turns", "passes", "steps_alone"):
            if getattr(self, name) is not None:
                check_int(f"answer.{name}", getattr(self, name), 0, _MOST_COUNTED)
        for size in self.memory_tokens:
            check_int("answer.memory_tokens", size, 0, _MOST_COUNTED)

    @property
    def key(self) -> ScoredKey:
        """(policy, mode, set, labels as text, index): unique in a folder."""
        return self.policy, self.mode, self.set, labels_text(self.labels), self.index
