"""What a suite consists of, before its data sets are opened."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gru_mem_jax.data.builders.recipe import Length
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.records import did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A task of a suite: one data set, a question set for each of its lengths.

    Attributes:
      name: in tables, and of --tasks.
      folder: of its data set, below --datasets.
      builder: name of the recipe that `gru-mem data build` has.
      sources: names of the official files that it is built from; none: generated.
      settings: of the recipe, beside sources, lengths, questions, seed and chunks.
      lengths: of its documents, by the label that tables show.
      placement, gap, in_mix, left_out_modes: as of the `QuestionSet`.
    """

    name: str
    folder: str
    builder: str
    sources: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lengths: Mapping[str, Length]
    placement: str | None = None
    gap: int | None = None
    in_mix: bool = True
    left_out_modes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeSuite:
    """A suite whose sets are known.

    Attributes:
      name: of the suite.
      sets: in the order of a table.
    """

    name: str
    sets: tuple[QuestionSet, ...]

    def question_sets(self) -> Iterator[QuestionSet]:
        """The sets."""
        yield from self.sets


def chosen(
    names: Sequence[str] | None, known: Sequence[str], suite: str
) -> tuple[str, ...]:
    """The parts that --tasks names, in the suite's order; None: all.

    Raises:
      InputError: the suite has no such part.
    """
    if names is None:
        return tuple(known)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
            raise InputError(f"--tasks: suite {suite} has no part {name!r}{hint}")
    return tuple(name for name in known if name in names)
