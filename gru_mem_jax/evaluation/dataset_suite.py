"""The questions of a built data set, at each of its lengths, as a suite."""

import dataclasses
import pathlib
from collections.abc import Iterator

from gru_mem_jax.data import dataset_files
from gru_mem_jax.data.bad_records import OnBadRecord
from gru_mem_jax.data.dataset_source import DatasetSource
from gru_mem_jax.data.files import Part
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
      part, held_out_share: the questions that a `DatasetSource` with the same two has.
      on_bad_record: "error" or "skip", as a source has it.
    """

    path: str
    lengths: tuple[str, ...] = ()
    num_questions: int | None = None
    part: Part = "all"
    held_out_share: float = 0.1
    on_bad_record: OnBadRecord = "error"

    def __post_init__(self) -> None:
        plain_numbers(self)
        if isinstance(self.lengths, str):
            raise InputError(
                f"lengths must be a tuple such as ('50 documents',), got "
                f"{shown(self.lengths)}"
            )
        if self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)
        self._source(None)  # which checks the others

    def _source(self, length: str | None) -> DatasetSource:
        return DatasetSource(
            path=self.path,
            length=length,
            shuffle=False,
            part=self.part,
            held_out_share=self.held_out_share,
            on_bad_record=self.on_bad_record,
        )

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
                source=self._source(str(length)),
                count=self.num_questions,
                length=lengths_lib.label(length),
            )
