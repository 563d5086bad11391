"""The questions of an evaluation: drawn from their sources, judged, held out."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

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
    questions_together,
    records_of,
    source_name,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.rl.outcomes import Labels

Item = TypeVar("Item")


class Made(Sequence[Item], Generic[Item]):
    """A sequence whose items are made when they are asked for.

    Args:
      count: of items.
      make: an item from its index.
      keep: whether an item is kept once it is made.
    """

    def __init__(self, count: int, make: Callable[[int], Item], *, keep: bool):
        self._count, self._make = count, make
        self._kept: dict[int, Item] | None = {} if keep else None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(self._count)[index])
        index = range(self._count)[index]
        if self._kept is None:
            return self._make(index)
        if index not in self._kept:
            self._kept[index] = self._make(index)
        return self._kept[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnSet:
    """The questions of a set, as an agent can read them.

    Attributes:
      of: what they were drawn for.
      examples: none of them bad, each once. Those whose documents are composed are
        made whenever they are asked for, and none is held.
      labels: of each example's chunks, under the agent's tokenizer and chunk size; made
        when they are first asked for.
      skipped: bad examples that were passed over.
      runs: of composed examples, equal where their source says that they are on one
        document (`data.sources.questions_together`).
    """

    of: QuestionSet
    examples: Sequence[Example]
    labels: Sequence[Labels]
    skipped: tuple[BadRecord, ...] = ()
    runs: tuple[int, ...] = ()

    @property
    def holds_documents(self) -> bool:
        """Whether the examples, and so their documents, are in memory."""
        return isinstance(self.examples, tuple)

    def document_key(self, index: int) -> Hashable:
        """Equal for examples on one document; composes none."""
        if self.holds_documents:
            return self.examples[index].document
        return id(self), self.runs[index] if self.runs else index

    def lines(self) -> list[str]:
        """A line for each example that was passed over."""
        name = source_name(self.of.source)
        return [f"skipped: {bad.message(name)}" for bad in self.skipped]

    def facts(self) -> dict[str, Any]:
        """What decides which questions these are, as JSON values.

        Reads no document that is composed: there the source, its records and the
        positions decide.
        """
        facts = {
            "set": self.of.name,
            "labels": self.of.labels,
            "in_mix": self.of.in_mix,
            "start": self.of.start,
            "questions": len(self.examples),
        }
        if self.holds_documents:
            known: Iterable[Example] = self.examples
        else:
            fingerprint = getattr(self.of.source, "fingerprint", None)
            facts["data"] = fingerprint() if fingerprint else repr(self.of.source)
            records = records_of(self.of.source)
            known = [each for _, each in records.good] if records else []
        digest = hashlib.sha256()
        for each in known:
            own = (each.id, each.question, each.answers, each.scoring, each.evidence)
            digest.update(json.dumps(own).encode())
            digest.update(each.document.encode("utf-8", "surrogatepass"))
        return facts | {"sha256": digest.hexdigest()}


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
    composed = records is not None and records.composed
    if records is not None and _all_good(records, judge):
        positions = [*range(of.start, len(records.good))][: of.count]
        bad: list[BadRecord] = []
        good: list[tuple[str, Example]] = []
    else:
        positions, good, bad = _chosen(of, judge, records)
    if len(positions) < (wanted := of.count or 1):
        raise InputError(
            f"question set {of.name!r}: {source_name(source)} has {len(positions)} "
            f"good questions from position {of.start} on, fewer than {wanted}"
        )
    examples: Sequence[Example] = tuple(example for _, example in good)
    runs: tuple[int, ...] = ()
    if composed:
        runs = tuple(p + questions_together(source, p) for p in positions)
        examples = Made(
            len(positions), lambda i: _composed(source, positions[i]), keep=False
        )
    return DrawnSet(
        of=of,
        examples=examples,
        labels=Made(
            len(positions),
            lambda i: labels(examples[i], builder.encoder, config.chunk_size),
            keep=True,
        ),
        skipped=tuple(bad),
        runs=runs,
    )


def _all_good(records: Records, judge: Judge) -> bool:
    """Whether none need be read to know that it is good, but for its document."""
    return records.composed and all(
        judge.problem(example, composed=True) is None for _, example in records.good
    )


def _composed(source: ExampleSource, position: int) -> Example:
    example, problem = example_at(source, position)
    if example is None:
        raise InputError(f"{source_name(source)}: position {position}: {problem}")
    return example


def _chosen(
    of: QuestionSet, judge: Judge, records: Records | None
) -> tuple[list[int], list[tuple[str, Example]], list[BadRecord]]:
    """The positions of good examples, the examples if they are held, and the bad."""
    source = of.source
    places = {} if records is None else {e.id: where for where, e in records.good}
    positions: list[int] = []
    good: list[tuple[str, Example]] = []
    bad: list[BadRecord] = []
    in_a_row = 0
    for position in _positions(of, records):
        if len(positions) == of.count:
            break
        example, problem = example_at(source, position)
        own = "" if example is None else example.id
        where = places.get(own, f"position {position}")
        if example is not None:
            problem = judge.problem(example)
        if example is not None and problem is None:
            positions.append(position)
            if records is not None and records.composed:  # hold no document
                example = dataclasses.replace(
                    example, document="", evidence=(), evidence_order=()
                )
            good.append((where, example))
            in_a_row = 0
            continue
        bad.append(BadRecord(where, own, problem or ""))
        in_a_row += 1
        stops = on_bad_record(source) == "error" or in_a_row == MOST_IN_A_ROW
        if records is None and stops:
            raise InputError(f"question set {of.name!r}: {_told(bad, source)}")
    if bad and (on_bad_record(source) == "error" or not positions):
        found = Records(name=source_name(source), good=tuple(good), bad=tuple(bad))
        raise BadRecordsError(found, source)
    return positions, good, bad


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
