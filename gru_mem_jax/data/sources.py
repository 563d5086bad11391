"""Sources of questions: their protocol, and a source over a list."""

import dataclasses
from typing import Protocol

from gru_mem_jax.data.bad_records import (
    ON_BAD_RECORD,
    BadRecordsError,
    OnBadRecord,
    Records,
)
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.files import index_at
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import check_choice, plain_numbers

MOST_IN_A_ROW = 1000  # consecutive bad examples; a source with more is faulty


class ExampleSource(Protocol):
    """A source of questions: position 0, 1, 2, ... without end.

    A source with a method `records` (`data.FiniteSource`) is checked before the first
    step. The others are checked during the run: an example that breaks a budget, or at
    whose position an InputError is raised, is skipped, or ends the run if the source
    has an attribute `on_bad_record` = "error".
    """

    def example(self, position: int) -> Example:
        """The example at a position; equal for equal positions, on any machine."""


def source_name(source: ExampleSource) -> str:
    """The name of a source in messages: its file, or its class."""
    return str(getattr(source, "path", None) or type(source).__name__)


def example_at(
    source: ExampleSource, position: int
) -> tuple[Example | None, str | None]:
    """The example at a position; or None, and why the source refuses it.

    Raises:
      InputError: it returns something else than an Example.
      RunError: it raises another error.
    """
    try:
        example = source.example(position)
    except BadRecordsError:
        raise  # of the whole file
    except InputError as error:
        return None, str(error) or "the source refuses it"
    except Exception as error:
        raise RunError(
            f"source {source_name(source)} failed at position {position}: {error!r}"
        ) from error
    if not isinstance(example, Example):
        raise InputError(
            f"source {source_name(source)} must return an Example at position "
            f"{position}, got {type(example).__name__}"
        )
    return example, None


def is_finite(source: object) -> bool:
    """Whether a source has an end, and so a method `records`."""
    return callable(getattr(source, "records", None))


def records_of(source: ExampleSource) -> Records | None:
    """All records of a finite source; None of one without end."""
    return source.records() if is_finite(source) else None


def on_bad_record(source: ExampleSource) -> OnBadRecord:
    """A source's `on_bad_record`; by default endless sources skip."""
    default = "error" if is_finite(source) else "skip"
    return getattr(source, "on_bad_record", default)


def questions_together(source: ExampleSource, position: int) -> int:
    """How many questions from a position on are on its document, by its source."""
    told = getattr(source, "questions_together", None)
    return told(position) if told else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListSource:
    """Given examples, reshuffled in every epoch.

    Attributes:
      examples: at least one; ids are unique.
      seed: of the orders.
      on_bad_record: "error", bad examples end a run before its first step; "skip".
    """

    examples: tuple[Example, ...]
    seed: int = 0
    on_bad_record: OnBadRecord = "error"

    def __post_init__(self):
        plain_numbers(self)
        if not self.examples:
            raise InputError("a source of examples must hold at least one")
        check_choice("on_bad_record", self.on_bad_record, ON_BAD_RECORD)
        if len({example.id for example in self.examples}) < len(self.examples):
            raise InputError("two examples have one id; ids are unique in a source")

    def example(self, position: int) -> Example:
        """The example at a position."""
        return self.examples[index_at(position, self.seed, len(self.examples))]

    def records(self) -> Records:
        """The examples; none is bad in form."""
        good = tuple((f"example {i}", item) for i, item in enumerate(self.examples))
        return Records(name="ListSource", good=good)
