"""The questions of an evaluation: drawn from their sources, judged, held out."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.data.bad_records import BadRecord, BadRecordsError, Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.judge import Judge
from gru_mem_jax.data.labels import labels
from gru_mem_jax.data.sources import (
    MOST_IN_A_ROW,
    ExampleSource,
    example_at,
    on_bad_record,
    records_of,
    source_name,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.rl.outcomes import Labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnSet:
    """The questions of a set, as an agent can read them.

    Attributes:
      of: what they were drawn for.
      examples: none of them bad, each once.
      labels: of each example's chunks, under the agent's tokenizer and chunk size.
      skipped: bad examples that were passed over.
    """

    of: QuestionSet
    examples: tuple[Example, ...]
    labels: tuple[Labels, ...]
    skipped: tuple[BadRecord, ...] = ()

    def lines(self) -> list[str]:
        """A line for each example that was passed over."""
        name = source_name(self.of.source)
        return [f"skipped: {bad.message(name)}" for bad in self.skipped]


def draw_sets(
    sets: Iterable[QuestionSet], builder: PromptBuilder, config: AgentConfig
) -> tuple[DrawnSet, ...]:
    """Draws the questions of some sets, and judges them as training does.

    Args:
      sets: at least one.
      builder: of the prompts, with the policy's tokenizer.
      config: budgets and chunk size of the agent.

    Raises:
      InputError: an example is bad, and that is an error to its source (BadRecordsError
        for a finite one, with all of them); a source has too few.
      RunError: a source failed otherwise.
    """
    judge = Judge(builder, config)
    drawn = tuple(_draw(each, judge, builder, config) for each in sets)
    if not drawn:
        raise InputError("a suite must have at least one set of questions")
    return drawn


def _draw(
    of: QuestionSet, judge: Judge, builder: PromptBuilder, config: AgentConfig
) -> DrawnSet:
    source, records = of.source, records_of(of.source)
    if of.count is None and records is None:
        raise InputError(
            f"question set {of.name!r}: {source_name(source)} has no end; say how many "
            "questions"
        )
    places = {} if records is None else {e.id: where for where, e in records.good}
    good: list[tuple[str, Example]] = []
    bad: list[BadRecord] = []
    in_a_row = 0
    for position in _positions(of, records):
        if len(good) == of.count:
            break
        example, problem = example_at(source, position)
        own = "" if example is None else example.id
        where = places.get(own, f"position {position}")
        if example is not None:
            problem = judge.problem(example)
        if example is not None and problem is None:
            good.append((where, example))
            in_a_row = 0
            continue
        bad.append(BadRecord(where, own, problem or ""))
        in_a_row += 1
        stops = on_bad_record(source) == "error" or in_a_row == MOST_IN_A_ROW
        if records is None and stops:
            raise InputError(f"question set {of.name!r}: {_told(bad, source)}")
    if bad and (on_bad_record(source) == "error" or not good):
        found = Records(name=source_name(source), good=tuple(good), bad=tuple(bad))
        raise BadRecordsError(found, source)
    if len(good) < (wanted := of.count or 1):
        raise InputError(
            f"question set {of.name!r}: {source_name(source)} has {len(good)} good "
            f"questions from position {of.start} on, fewer than {wanted}"
        )
    examples = tuple(example for _, example in good)
    return DrawnSet(
        of=of,
        examples=examples,
        labels=tuple(labels(e, builder.encoder, config.chunk_size) for e in examples),
        skipped=tuple(bad),
    )


def _positions(of: QuestionSet, records: Records | None) -> Iterator[int]:
    """Those of a set's candidates: of a finite source each record once."""
    position = of.start
    while records is None or position < len(records.good):
        yield position
        position += 1


def _told(bad: Sequence[BadRecord], source: ExampleSource) -> str:
    last = bad[-1].message(source_name(source))
    if on_bad_record(source) == "error":
        return f"{last}; correct the source, or set its on_bad_record to 'skip'"
    return f"{len(bad)} examples in a row are bad, the last {last}"


def check_held_out(source: ExampleSource, sets: Sequence[DrawnSet]) -> None:
    """Refuses question sets of which some question is trained on, see `check_apart`."""
    for drawn in sets:
        what = f"question set {drawn.of.name!r} of {source_name(drawn.of.source)}"
        check_apart(source, drawn.examples, what)


def check_apart(source: ExampleSource, examples: Sequence[Example], what: str) -> None:
    """Refuses examples that are trained on too, as far as a source can be searched.

    Two records are one if they have the same id and question, or the same question and
    document; where documents are composed for a position, the same question and
    answers.

    Args:
      source: of the training; one without end has nothing to compare with.
      examples: what must be held out.
      what: they are, for the message.

    Raises:
      InputError: names both sources, and a record that they share.
    """
    if (records := records_of(source)) is None:
        return
    places: dict[tuple[object, ...], str] = {}
    for where, example in records.good:
        for key in _keys(example, records.composed):
            places.setdefault(key, where)
    shared = {
        example.id: places[key]
        for example in examples
        for key in _keys(example, records.composed)
        if key in places
    }
    if shared:
        own, where = next(iter(shared.items()))
        raise InputError(
            f"{what} is not held out: {len(shared)} of its {len(examples)} questions "
            f"are in the training data too, {records.name}, such as {own!r:.60} "
            f"({where}); train on part 'train' and evaluate on part 'held_out' of a "
            "file, or on another file"
        )


def _keys(example: Example, composed: bool) -> list[tuple[object, ...]]:
    """What a record is known by, were it in another file."""
    text = example.answers if composed else example.document
    return [("id", example.id, example.question), ("text", example.question, text)]
