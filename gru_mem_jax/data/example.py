"""The record of a question, which all data sources make."""

import dataclasses
from typing import Literal

from gru_mem_jax.errors import InputError

Scoring = Literal["exact", "f1", "all", "part", "boxed", "equivalent"]


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
        "f1", the best F1 of the words with any (both SQuAD's); "part", the share of
        gold answers that occur in it (RULER's); "all", whether all do; "boxed", any
        occurs in it or it in any (MemAgent's evaluation); "equivalent", any is it
        (MemAgent's reward). See `data.scoring`.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    document: str
    evidence: tuple[tuple[int, int], ...] = ()
    task: str = ""
    scoring: Scoring = "exact"

    def __post_init__(self) -> None:
        for start, end in self.evidence:
            if not 0 <= start < end <= len(self.document):
                raise InputError(
                    f"example {self.id!r}: evidence span ({start}, {end}) is not "
                    f"inside the document of {len(self.document)} characters"
                )
