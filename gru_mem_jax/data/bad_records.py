"""The records of a finite source, good and bad, and how bad ones are reported."""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import cut

OnBadRecord = Literal["error", "skip"]
ON_BAD_RECORD: tuple[OnBadRecord, ...] = ("error", "skip")
# Bad records in an error's message; its `records` has all of them.
_IN_A_LINE = 3
_LONGEST_REASON = 200


class BadRecord(NamedTuple):
    """A record that cannot be used.

    Attributes:
      where: its place in the source: "line 13", "record 5".
      id: of the record; "" if it has none that can be read.
      reason: why it cannot be used; may begin with `where`.
    """

    where: str
    id: str
    reason: str

    def message(self, name: str) -> str:
        """E.g. "FILE:13: the question has 151 tokens, ... (id 'q99')"."""
        reason = cut(self.reason, _LONGEST_REASON)
        own = f" (id {self.id!r:.60})" if self.id else ""
        if self.reason.startswith(self.where):
            return f"{name}: {reason}{own}"
        if self.where.startswith("line "):
            return f"{name}:{self.where.removeprefix('line ')}: {reason}{own}"
        return f"{name}: {self.where}: {reason}{own}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """The contents of a finite source, each record once, in its own order.

    Attributes:
      name: of the file, or of the source, for messages.
      good: (where, example) of each good record.
      bad: the others.
      composed: whether documents depend on the position; those of `good` are empty.
    """

    name: str
    good: tuple[tuple[str, Example], ...]
    bad: tuple[BadRecord, ...] = ()
    composed: bool = False

    def __len__(self) -> int:
        return len(self.good) + len(self.bad)


class FiniteSource(Protocol):
    """An `ExampleSource` whose records can be checked before the first step.

    Attributes:
      on_bad_record: "error", a bad record is an error; "skip", it is skipped. Any
        source may have it; the default of endless sources is "skip".
    """

    @property
    def on_bad_record(self) -> OnBadRecord:
        """What a bad record is."""

    def example(self, position: int) -> Example:
        """The example at a position; equal for equal positions, on any machine."""

    def records(self) -> Records:
        """All records, also the bad ones, whatever `on_bad_record` is."""


class BadRecordsError(InputError):
    """Bad records, in one line.

    Args:
      records: of the source.
      source: for the name of its class.
      listed: name of a file that lists all bad records; None: there is none.

    Attributes:
      records, listed: as given.
    """

    def __init__(self, records: Records, source: object, listed: str | None = None):
        self.records, self.listed = records, listed
        bad, total = records.bad, len(records)
        text = "; ".join(each.message(records.name) for each in bad[:_IN_A_LINE])
        if (more := len(bad) - _IN_A_LINE) > 0:
            text += f"; and {more} more"
            text += f", all listed in {listed}" if listed else ""
        verb, what = ("is", "it") if len(bad) == 1 else ("are", "them")
        text = f"{len(bad)} of {total} records {verb} bad: {text}; correct {what}"
        if records.good:
            text += f", or set {type(source).__name__}.on_bad_record = 'skip'"
        else:
            text += " or the settings"
        super().__init__(text)


def reasons(bad: Sequence[BadRecord]) -> str:
    """Counts of the reasons: "3 x the question has # tokens, ...; 1 x ...".

    Numbers and quoted text are replaced by #, so that equal faults are one reason.
    """
    kinds = collections.Counter(
        re.sub(
            r"'(?:[^'\\]|\\.)*'|\d+", "#", each.reason.removeprefix(each.where)
        ).lstrip(":., ")
        for each in bad
    )
    parts = [f"{count} x {kind:.120}" for kind, count in kinds.most_common(5)]
    if len(kinds) > len(parts):
        parts.append(f"{len(kinds) - len(parts)} further reasons")
    return "; ".join(parts)
