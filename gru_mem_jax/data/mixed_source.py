"""Several sources as one, in shares that are given."""

import bisect
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

from gru_mem_jax.data.bad_records import ON_BAD_RECORD, BadRecord, OnBadRecord, Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import (
    is_finite,
    on_bad_record,
    questions_together,
    source_name,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_number, plain_numbers, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedSource:
    """The questions of several finite sources, each in the order of its own.

    The next questions are always those of the source that lags furthest behind its
    share, so that after n questions each has its share of n but for one document. The
    questions that a source gives on one document (`DatasetSource`) stay together. A
    position is computed from the settings alone, so that a resumed run reads the same.

    Attributes:
      sources: at least one, each with a method `records` (`data.FiniteSource`).
      weights: share of the questions that each gives, in any unit, above 0; None: equal
        ones.
      on_bad_record: given to the sources; None: theirs, "error" if it is one's.
    """

    sources: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    on_bad_record: OnBadRecord | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        sources = self.sources
        if not isinstance(sources, tuple | list) or not sources:
            raise InputError(
                "MixedSource.sources must be at least one source, such as "
                f"(@data.DatasetSource(),); got {shown(sources)}"
            )
        for source in sources:
            if not callable(getattr(source, "example", None)) or not is_finite(source):
                raise InputError(
                    "MixedSource.sources must have an end (methods example and "
                    f"records), such as data.DatasetSource; got {shown(source)}"
                )
        weights = (1.0,) * len(sources) if self.weights is None else self.weights
        if not isinstance(weights, tuple | list) or len(weights) != len(sources):
            raise InputError(
                f"MixedSource.weights must be a number for each of {len(sources)} "
                f"sources, got {shown(weights)}"
            )
        for weight in weights:
            check_number("MixedSource.weights: a weight", weight, 1e-6, 1e6)
        rule = self.on_bad_record
        if rule is None:
            rules = [on_bad_record(source) for source in sources]
            rule = "error" if "error" in rules else "skip"
        else:
            check_choice("on_bad_record", rule, ON_BAD_RECORD)
            sources = [_with_rule(source, rule) for source in sources]
        object.__setattr__(self, "sources", tuple(sources))
        object.__setattr__(self, "weights", tuple(map(float, weights)))
        object.__setattr__(self, "on_bad_record", rule)

    def example(self, position: int) -> Example:
        """The example at a position; its id begins with the number of its source.

        Raises:
          InputError: as the source's.
        """
        number, own = self._runs.at(position)
        return _numbered(self.sources[number].example(own), number)

    def questions_together(self, position: int) -> int:
        """How many questions from a position on are on its document."""
        number, own = self._runs.at(position)
        return questions_together(self.sources[number], own)

    def records(self) -> Records:
        """All records of all sources.

        Raises:
          InputError: as a source's.
        """
        every = [source.records() for source in self.sources]
        composed = any(records.composed for records in every)
        good: list[tuple[str, Example]] = []
        bad: list[BadRecord] = []
        for number, records in enumerate(every):
            place = f"source {number} ({records.name})"
            for where, example in records.good:
                if composed:  # of some the document is known when it is reached
                    example = dataclasses.replace(
                        example, document="", evidence=(), evidence_order=()
                    )
                good.append((f"{place}: {where}", _numbered(example, number)))
            bad += [
                each._replace(where=f"{place}: {each.where}") for each in records.bad
            ]
        names = dict.fromkeys(records.name for records in every)
        return Records(
            name=" + ".join(names), good=tuple(good), bad=tuple(bad), composed=composed
        )

    def fingerprint(self) -> str:
        """sha256 over those of the sources."""
        digest = hashlib.sha256()
        for source in self.sources:
            own = getattr(source, "fingerprint", None)
            digest.update(f"{own() if own else source!r}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _runs(self) -> "_Runs":
        for source in self.sources:
            if not len(source.records().good):
                raise InputError(f"{source_name(source)}: gives no good example")
        return _Runs(self.sources, self.weights or ())


class _Runs:
    """Whose the positions are, in runs of questions that stay together.

    Args:
      sources, weights: see `MixedSource`.
    """

    def __init__(self, sources: Sequence[Any], weights: Sequence[float]):
        total = sum(weights)
        self._sources = sources
        self._shares = [weight / total for weight in weights]
        self._given = [0] * len(sources)
        self._known = 0
        self._starts: list[int] = []  # of each run: its first position,
        self._of: list[tuple[int, int]] = []  # its source, and the position in it

    def at(self, position: int) -> tuple[int, int]:
        """The number of a position's source, and the position in it."""
        while self._known <= position:
            lags = [
                share * (self._known + 1) - given
                for share, given in zip(self._shares, self._given)
            ]
            number = lags.index(max(lags))
            own = self._given[number]
            count = questions_together(self._sources[number], own)
            self._starts.append(self._known)
            self._of.append((number, own))
            self._given[number] += count
            self._known += count
        run = bisect.bisect_right(self._starts, position) - 1
        number, own = self._of[run]
        return number, own + position - self._starts[run]


def _numbered(example: Example, number: int) -> Example:
    """With an id that no other source has."""
    return dataclasses.replace(example, id=f"{number}/{example.id}")


def _with_rule(source: Any, rule: OnBadRecord) -> Any:
    if dataclasses.is_dataclass(source) and hasattr(source, "on_bad_record"):
        return dataclasses.replace(source, on_bad_record=rule)
    return source
