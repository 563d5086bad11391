"""The records of a finite source, good and bad, and how bad ones are told."""

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
# Bad records in an error's one line; its `records` has all of them.
_IN_A_LINE = 3
_LONGEST_REASON = 200


class BadRecord(NamedTuple):
    """A record that cannot be used.

    Attributes:
      where: in its source: "line 13", "record 5".
      id: the record's own; "" if it has none that can be read.
      reason: what is wrong with it; may begin with `where`.
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
    """What a finite source holds, each record once, in its own order.

    Attributes:
      name: of the file, or what stands for one in messages.
      good: (where, example) of each record that is an example.
      bad: the others.
      composed: an example's document depends on its position; the `document` of the
        examples here is empty.
    """

    name: str
    good: tuple[tuple[str, Example], ...]
    bad: tuple[BadRecord, ...] = ()
    composed: bool = False

    def __len__(self) -> int:
        return len(self.good) + len(self.bad)


class FiniteSource(Protocol):
    """An `ExampleSource` whose records can be judged before the first step.

    Attributes:
      on_bad_record: "error", a bad record is an error; "skip", it is left out. Any
        source may have it; one without end that has none skips.
    """

    on_bad_record: OnBadRecord

    def example(self, position: int) -> Example:
        """The example at a position; equal for equal positions, on any machine."""

    def records(self) -> Records:
        """All records, the bad ones too, whatever `on_bad_record` is."""


class BadRecordsError(InputError):
    """Records that cannot be used, in one line.

    Args:
      records: of the source.
      source: to name its setting.
      listed: name of a file that lists all of them; None: none does.

    Attributes:
      records, listed: as given.
    """

    def __init__(self, records: Records, source: object, listed: str | None = None):
        self.records, self.listed = records, listed
        bad, total = records.bad, len(records)
        told = "; ".join(each.message(records.name) for each in bad[:_IN_A_LINE])
        if (more := len(bad) - _IN_A_LINE) > 0:
            told += f"; and {more} more"
            told += f", all listed in {listed}" if listed else ""
        verb, what = ("is", "it") if len(bad) == 1 else ("are", "them")
        told = f"{len(bad)} of {total} records {verb} bad: {told}; correct {what}"
        if records.good:
            told += f", or set {type(source).__name__}.on_bad_record = 'skip'"
        else:
            told += " or the settings"
        super().__init__(told)


def reasons(bad: Sequence[BadRecord]) -> str:
    """How often which reason: "3 x the question has # tokens, ...; 1 x ...".

    Numbers and quoted text do not count, so that equal faults are one reason.
    """
    kinds = collections.Counter(
        re.sub(
            r"'(?:[^'\\]|\\.)*'|\d+", "#", each.reason.removeprefix(each.where)
        ).lstrip(":., ")
        for each in bad
    )
    told = [f"{count} x {kind:.120}" for kind, count in kinds.most_common(5)]
    if len(kinds) > len(told):
        told.append(f"{len(kinds) - len(told)} further reasons")
    return "; ".join(told)
