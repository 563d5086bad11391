"""Where questions come from: what every source has, and one over a list."""

import dataclasses
from typing import Protocol

from gru_mem_jax.data.bad_records import ON_BAD_RECORD, OnBadRecord, Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.jsonl import index_at
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, plain_numbers


class ExampleSource(Protocol):
    """Where questions come from: position 0, 1, 2, ... without end.

    One that has a method `records` too (`data.records.FiniteSource`) is judged before
    the first step. The others are judged as they go: an example that breaks a budget,
    or at whose position an InputError is raised, is skipped, or ends the run if the
    source has an attribute `on_bad_record` = "error".
    """

    def example(self, position: int) -> Example:
        """The example at a position; equal for equal positions, on any machine."""


def on_bad_record(source: ExampleSource) -> OnBadRecord:
    """What a source says of bad records; if nothing, those without end skip them."""
    finite = callable(getattr(source, "records", None))
    return getattr(source, "on_bad_record", "error" if finite else "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListSource:
    """Given examples, in an order of its own in every epoch.

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
        """The examples; none is bad by itself."""
        good = tuple((f"example {i}", item) for i, item in enumerate(self.examples))
        return Records(name="ListSource", good=good)
