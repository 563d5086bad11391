"""The questions of a run: what its sources give, without what cannot be used."""

import random
from collections.abc import Callable
from typing import NamedTuple

from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.judge import Judge
from gru_mem_jax.data.sources import (
    MOST_IN_A_ROW,
    ExampleSource,
    example_at,
    on_bad_record,
    records_of,
    source_name,
)
from gru_mem_jax.data.turns import SupervisedTurn, TurnOracle
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.questions import (
    DrawnSet,
    check_apart,
    check_held_out,
    draw_sets,
)
from gru_mem_jax.train.config import SFTConfig, TrainConfig
from gru_mem_jax.train.data_check import DataCheck
from gru_mem_jax.train.plan import Plan

_TOLD = 20


def held_out_sets(
    config: TrainConfig | SFTConfig, planned: Plan
) -> tuple[DrawnSet, ...]:
    """The questions that a run is evaluated on, drawn before its first step.

    Raises:
      InputError: one is bad and that is an error to its source, or is trained on.
    """
    if config.suite is None or not config.loop.eval_every:
        return ()
    builder = PromptBuilder(planned.encoder, planned.agent.prompt)
    sets = draw_sets(config.suite.question_sets(), builder, planned.agent)
    for source in _trained_on(config):
        check_held_out(source, sets)
    return sets


def held_out_turns(
    config: TrainConfig | SFTConfig, planned: Plan, judge: Judge
) -> tuple[SupervisedTurn, ...]:
    """The turns that a supervised run is watched on, made before its first step.

    They are those of the first good examples of `SFTConfig.held_out`, each once.

    Args:
      config: of the run.
      planned: of the run.
      judge: of its examples.

    Raises:
      InputError: an example is bad and that is an error to its source, or is trained
        on; none gives a turn.
    """
    if not isinstance(config, SFTConfig) or not config.loop.eval_every:
        return ()
    if (source := config.held_out) is None:
        return ()
    records = records_of(source)
    end = float("inf") if records is None else len(records.good)
    stage = QuestionStage(source, judge)
    oracle = config.turns.oracle(planned.encoder, planned.agent)
    examples: list[Example] = []
    turns: list[SupervisedTurn] = []
    position = 0
    while len(turns) < config.held_out_turns and position < end:
        found = stage.next_turns(oracle, config.loop.seed, position)
        position = found.position + 1
        if position <= end:
            examples.append(found.example)
            turns += found.turns
    for trained in _trained_on(config):
        check_apart(trained, examples, f"SFTConfig.held_out ({source_name(source)})")
    return tuple(turns[: config.held_out_turns])


def _trained_on(config: TrainConfig | SFTConfig) -> list[ExampleSource]:
    sources = [config.source, getattr(config, "short_source", None)]
    return [source for source in sources if source is not None]


class Questions(NamedTuple):
    """Some examples of a source.

    Attributes:
      examples: by position.
      skipped: bad ones that were met between them.
    """

    examples: dict[int, Example]
    skipped: int


class ExampleTurns(NamedTuple):
    """The turns of an example.

    Attributes:
      position: of the example.
      example: of the source.
      turns: at least one.
      skipped: bad examples that were met before.
    """

    position: int
    example: Example
    turns: list[SupervisedTurn]
    skipped: int


class QuestionStage:
    """Takes good examples from a source, the same at equal positions.

    A bad example costs its position: the next one takes its place.

    Args:
      source: of examples.
      judge: of what is drawn.
      check: what is known of a finite source; its bad records are passed over without
        being counted again.
      note: called with a line for each of the first examples that are skipped.
    """

    def __init__(
        self,
        source: ExampleSource,
        judge: Judge,
        check: DataCheck | None = None,
        note: Callable[[str], None] = lambda line: None,
    ):
        self._source, self._judge, self._note = source, judge, note
        self._skips = on_bad_record(source) == "skip"
        self._passed_over = None if check is None else check.passed_over
        # Documents that are made for a position cannot be judged before.
        self._composed = check is not None and check.records.composed
        self._told = 0
        self.known_bad = 0 if check is None else len(check.records.bad)

    def take(
        self, position: int, count: int, on_look: Callable[[], None] = lambda: None
    ) -> Questions:
        """The next good examples from a position on.

        Args:
          position: of the first candidate.
          count: how many.
          on_look: called before each candidate; what it raises ends the search.

        Raises:
          InputError: an example is bad, and that is an error to the source; or far too
            many are, one after the other.
          RunError: the source failed otherwise.
        """
        examples: dict[int, Example] = {}
        skipped = in_a_row = 0
        while len(examples) < count:
            on_look()
            example, problem = self._look_at(position)
            if problem is None:
                examples[position] = example
                in_a_row = 0
            elif problem:
                skipped += 1
                in_a_row += 1
                self._tell(position, example, problem)
                if in_a_row >= MOST_IN_A_ROW:
                    raise InputError(
                        f"{source_name(self._source)}: {in_a_row} examples in a row "
                        f"are bad, the last at position {position}: {problem}"
                    )
            position += 1
        return Questions(examples, skipped)

    def next_turns(self, oracle: TurnOracle, seed: int, position: int) -> ExampleTurns:
        """The turns of the next good example of which any can be made.

        An example that the oracle refuses is as bad as one that the judge does.

        Args:
          oracle: makes them.
          seed: of what the oracle draws, with the example's position.
          position: of the first candidate.

        Raises:
          InputError: as `take`; or no turn can be made of far too many examples, one
            after the other.
          RunError: as `take`.
        """
        skipped, why = 0, ""
        for _ in range(MOST_IN_A_ROW):
            ((at, example),) = (taken := self.take(position, 1)).examples.items()
            skipped += taken.skipped
            try:
                turns = oracle.turns(example, random.Random(f"turns/{seed}/{at}"))
            except InputError as error:
                why = f": {error}"  # it names the example
                self._tell(at, None, str(error))
                skipped += 1
                turns = []
            if turns:
                return ExampleTurns(at, example, turns, skipped)
            position = at + 1
        raise InputError(
            f"{source_name(self._source)}: {MOST_IN_A_ROW} examples in a row gave no "
            f"turn to learn, the last at position {at}{why}"
        )

    def _look_at(self, position: int) -> tuple[Example | None, str | None]:
        """The example, and what is wrong with it; "": what is known before."""
        example, problem = example_at(self._source, position)
        if example is None:
            return None, problem
        if self._passed_over is None:
            return example, self._judge.problem(example)
        if example.id in self._passed_over:
            return example, ""
        judged = not self._composed or self._judge.reads_any_text
        return example, self._judge.problem(example, composed=judged)

    def _tell(self, position: int, example: Example | None, problem: str) -> None:
        own = "" if example is None else f" (id {example.id!r:.60})"
        where = f"{source_name(self._source)}: the example at position {position}{own}"
        if not self._skips:
            raise InputError(
                f"{where} is bad: {problem}; correct the source, or set its "
                "on_bad_record to 'skip'"
            )
        self._told += 1
        if self._told <= _TOLD:
            self._note(f"skipped: {where}: {problem}")
        elif self._told == _TOLD + 1:
            self._note("further skipped examples are counted in data/skipped alone")
