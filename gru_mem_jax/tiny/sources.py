"""Synthetic questions to train on, and held-out ones to evaluate on."""

import dataclasses
from collections.abc import Iterator

from gru_mem_jax.data.bad_records import ON_BAD_RECORD, OnBadRecord
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.records import check_choice, check_int, plain_numbers
from gru_mem_jax.tiny import synthetic
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """Synthetic questions, all different.

    Attributes:
      config: of the questions.
      on_bad_record: "skip", questions that break a budget are skipped; or "error".
    """

    config: SyntheticConfig = dataclasses.field(default_factory=SyntheticConfig)
    on_bad_record: OnBadRecord = "skip"

    def __post_init__(self) -> None:
        check_choice("on_bad_record", self.on_bad_record, ON_BAD_RECORD)

    def example(self, position: int) -> Example:
        """The example at a position."""
        return generate(self.config, position)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticSuite:
    """Held-out synthetic questions.

    Attributes:
      tasks: of `synthetic.TASKS`; each is a question set.
      contexts: (placement of the evidence, number of chunks) pairs.
      num_questions: in each set.
      chunk_tokens: words and marks of a chunk.
      min_items, max_items: values of multi_value, keys of multi_query.
      varied: share of the texts whose white space, case and marks vary.
      seed: of the questions.
    """

    tasks: tuple[str, ...] = synthetic.TASKS
    contexts: tuple[tuple[str, int], ...] = (("uniform", 8), ("first_20", 32))
    num_questions: int = 32
    chunk_tokens: int = 64
    min_items: int = 2
    max_items: int = 4
    varied: float = 0.0
    seed: int = 1000

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_int("num_questions", self.num_questions, 1)
        for context in self.contexts:
            if len(context) != 2:
                raise InputError(
                    "contexts holds (placement, num_chunks) pairs such as "
                    f"('uniform', 8), got {context!r}"
                )
        for placement, chunks in self.contexts:  # refuses impossible settings
            for task in self.tasks:
                self._generator(task, placement, chunks)

    def _generator(
        self, task: str, placement: str, chunks: int
    ) -> synthetic.SyntheticConfig:
        return synthetic.SyntheticConfig(
            tasks=(task,),
            num_chunks=chunks,
            chunk_tokens=self.chunk_tokens,
            min_items=self.min_items,
            max_items=self.max_items,
            placement=placement,
            varied=self.varied,
            split="test",
            seed=self.seed,
        )

    def question_sets(self) -> Iterator[QuestionSet]:
        """The sets, context by context; the mix is over all but the chain."""
        for placement, chunks in self.contexts:
            for task in self.tasks:
                config = self._generator(task, placement, chunks)
                yield QuestionSet(
                    name=task,
                    source=SyntheticSource(config=config, on_bad_record="error"),
                    count=self.num_questions,
                    placement=placement,
                    num_chunks=chunks,
                    in_mix=task != "chain",
                )
