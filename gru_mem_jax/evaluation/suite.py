"""Which questions an evaluation asks, from any source of examples, and how."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Protocol

from gru_mem_jax.agent.config import MODES, PAPER_MODES, AgentConfig
from gru_mem_jax.data.sources import ExampleSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.baselines import BASELINES
from gru_mem_jax.records import check_choice, check_int, plain_numbers, shown
from gru_mem_jax.sampling.config import EngineConfig

# What sets of one context have in common, in the order of a table's columns.
LABELS = ("length", "placement", "num_chunks", "gap", "attack")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Some questions of a source, which have a row of their own in a table.

    Attributes:
      name: of the set, such as its task.
      source: of the questions. Its `on_bad_record` says whether a bad one is an error
        or is passed over.
      start: position of the first question in the source.
      count: how many; None: all to the end of a finite source.
      placement: where the evidence lies, if the set is made so; a label for tables.
      num_chunks: of every context, if the set is made so; a label for tables.
      length: of every context, as it was asked for: "7K", "50 documents"; a label.
      gap: how many chunks the evidence that is needed first lies after the evidence
        that it points to; negative: before. A label.
      attack: the kind of text that was put into the document; a label.
      in_mix: whether the row "mix" is over this set too.
      left_out_modes: modes in which the set is not asked.
    """

    name: str
    source: ExampleSource
    start: int = 0
    count: int | None = None
    placement: str | None = None
    num_chunks: int | None = None
    length: str | None = None
    gap: int | None = None
    attack: str | None = None
    in_mix: bool = True
    left_out_modes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plain_numbers(self)
        name = self.name
        if not isinstance(name, str) or not name.isprintable() or not name.strip():
            raise InputError(f"a question set's name must be text, got {shown(name)}")
        if "/" in name:
            raise InputError(
                f"a question set's name is part of a column's and may hold no '/', "
                f"got {name!r}"
            )
        if not callable(getattr(self.source, "example", None)):
            raise InputError(
                f"question set {name!r}: source must have a method example(position), "
                f"got {shown(self.source)}"
            )
        check_int("start", self.start, 0)
        if self.count is not None:
            check_int("count", self.count, 1)

    @property
    def labels(self) -> dict[str, str | int]:
        """The labels that the set has, by the name of their column."""
        labels = {name: getattr(self, name) for name in LABELS}
        return {name: label for name, label in labels.items() if label is not None}


class Suite(Protocol):
    """Held-out questions, in sets."""

    def question_sets(self) -> Iterator[QuestionSet]:
        """The sets, in the order of a table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSuite:
    """Questions of given sources, a set of each.

    Attributes:
      sources: a set's name to its source.
      start: position of the first question in every source.
      num_questions: of every source, or a set's name to its own; None: all, of finite
        ones.
    """

    sources: Mapping[str, ExampleSource]
    start: int = 0
    num_questions: int | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not isinstance(self.sources, Mapping) or not self.sources:
            raise InputError(
                "sources must be a dict of names and at least one source, got "
                f"{shown(self.sources)}"
            )
        if isinstance(self.num_questions, Mapping):
            if self.num_questions.keys() != self.sources.keys():
                raise InputError(
                    f"num_questions must be of the sets {sorted(self.sources)}, got "
                    f"{shown(self.num_questions)}"
                )
        elif self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)
        list(self.question_sets())  # refuses what is no set

    def question_sets(self) -> Iterator[QuestionSet]:
        """A set for each source."""
        counts = self.num_questions
        for name, source in self.sources.items():
            count = counts[name] if isinstance(counts, Mapping) else counts
            yield QuestionSet(name=name, source=source, start=self.start, count=count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """All that decides what `gru-mem eval` measures.

    Attributes:
      suite: the questions.
      agent: how contexts are read.
      modes: of the agent, whose own is replaced by each of them, and baselines.
      engine: of the sampler; its max_length becomes what the budgets can need.
      cache_bytes: most bytes of memory for keys and values of chunks, which the other
        questions on a document reuse if prompts are chunk_first; 0 keeps none, None
        stands for an eighth of the machine's. Each mode begins with nothing kept.
    """

    suite: Suite
    agent: AgentConfig = dataclasses.field(default_factory=AgentConfig)
    modes: tuple[str, ...] = PAPER_MODES[::-1]
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        if not callable(getattr(self.suite, "question_sets", None)):
            raise InputError(
                f"suite must have a method question_sets(), got {shown(self.suite)}"
            )
        if self.cache_bytes is not None:
            check_int("cache_bytes", self.cache_bytes, 0)
        if isinstance(self.modes, str) or not self.modes:
            raise InputError(f"modes must be a tuple of modes, got {self.modes!r}")
        for mode in self.modes:
            check_choice("modes", mode, (*MODES, *BASELINES))
