"""The record of a question, which all data sources make."""

import dataclasses
from typing import Any, Literal

from gru_mem_jax.errors import InputError

Scoring = Literal[
    "exact", "f1", "hotpotqa_f1", "all", "part", "any", "boxed", "equivalent"
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A question on a document, with its answers and evidence.

    Attributes:
      id: unique within its source.
      question: text.
      answers: gold answers; `scoring` defines how several count.
      document: the whole text.
      evidence: (start, end) in characters of `document`, in order of start.
      task: name of the task, e.g. "single_key".
      scoring: "exact", any gold answer equals the prediction after normalisation;
        "f1", the best F1 of the words with any (both SQuAD's); "hotpotqa_f1", with
        HotpotQA's rule for "yes" and "no"; "part", the share of gold answers that
        occur in it (RULER's); "all", whether all do; "any", whether any does (RULER's
        of qa_1 and qa_2); "boxed", any occurs in it or it in any (MemAgent's
        evaluation); "equivalent", any is it (MemAgent's reward). See `data.scoring`.
      evidence_order: for each span of `evidence` the step at which it is needed, from
        0: where the first names what to look for next, it has 0 and the next 1. Equal
        numbers are needed together; empty: not known.
      metadata: JSON values about how the example was made.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    document: str
    evidence: tuple[tuple[int, int], ...] = ()
    task: str = ""
    scoring: Scoring = "exact"
    evidence_order: tuple[int, ...] = ()
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.evidence_order and len(self.evidence_order) != len(self.evidence):
            raise InputError(
                f"example {self.id!r}: evidence_order must have a number for each of "
                f"the {len(self.evidence)} spans, got {len(self.evidence_order)}"
            )
        for start, end in self.evidence:
            if not 0 <= start < end <= len(self.document):
                raise InputError(
                    f"example {self.id!r}: evidence span ({start}, {end}) is not "
                    f"inside the document of {len(self.document)} characters"
                )
