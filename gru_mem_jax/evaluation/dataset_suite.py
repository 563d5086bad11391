"""The questions of a built data set, at each of its lengths, as a suite."""

import dataclasses
import pathlib
from collections.abc import Iterator

from gru_mem_jax.data import dataset_files
from gru_mem_jax.data.dataset_source import DatasetSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.evaluation.suites import lengths as lengths_lib
from gru_mem_jax.records import check_int, plain_numbers, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSuite:
    """The questions of a folder of `gru-mem data build`, a set for each length.

    Attributes:
      path: the folder; its name is the sets'.
      lengths: such as ("50 documents", "400 documents"); a number alone is in the
        folder's unit. Empty: all that the folder holds.
      num_questions: of each length, the first; None: all.
    """

    path: str
    lengths: tuple[str, ...] = ()
    num_questions: int | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        if isinstance(self.lengths, str):
            raise InputError(
                f"lengths must be a tuple such as ('50 documents',), got "
                f"{shown(self.lengths)}"
            )
        if self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)

    def question_sets(self) -> Iterator[QuestionSet]:
        """The sets, in the order of `lengths`, or of the folder.

        Raises:
          InputError: the folder is none of a data set. A source of a length that it
            does not have raises where it is read.
        """
        folder = pathlib.Path(self.path)
        known = dataset_files.read_manifest(folder).lengths
        unit = known[0].unit
        chosen = [lengths_lib.parse_length(text, unit) for text in self.lengths]
        for length in chosen or known:
            yield QuestionSet(
                name=folder.resolve().name,
                source=DatasetSource(path=self.path, length=str(length), shuffle=False),
                count=self.num_questions,
                length=lengths_lib.label(length),
            )
