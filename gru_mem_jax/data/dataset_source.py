"""Built data sets as sources: of one length, or of lengths that grow.

The order is grain's, so that a position, the index of a `grain.MapDataset`, and the
state of its iterator are one number: what a checkpoint holds.
"""

import bisect
import dataclasses
import functools
import itertools
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from gru_mem_jax.data.bad_records import BadRecord, Records
from gru_mem_jax.data.builders.recipe import ARTICLE, DOCUMENT, StoredQuestion
from gru_mem_jax.data.dataset import Dataset, open_dataset
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.files import (
    FileSource,
    check_answers,
    check_new,
    epoch_order,
    gathering,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_bool, check_int, check_number, shown

if TYPE_CHECKING:
    import grain


class _Data(NamedTuple):
    """The questions of the source's part.

    Attributes:
      records: without documents.
      indices: of the good ones in the data set.
      ends: where the questions on one document stay together, the place behind the
        last one of each, in order; None: the questions are shuffled one by one.
    """

    records: Records
    indices: tuple[int, ...]
    ends: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BuiltSource(FileSource):
    """What sources of a folder of `gru-mem data build` have in common."""

    shuffle: bool = True
    keep_together: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bool("shuffle", self.shuffle)
        check_bool("keep_together", self.keep_together)

    def example(self, position: int) -> Example:
        """The example at a position, whose document is read now.

        Raises:
          InputError: the folder is damaged, or no such one.
        """
        return self._example(position, self._order[position])

    def questions_together(self, position: int) -> int:
        """How many questions from a position on are on its document."""
        if (ends := self._usable.ends) is None:
            return 1
        place = self._order[position]
        return ends[bisect.bisect_right(ends, place)] - place

    def examples(self) -> "grain.MapDataset[Example]":
        """The examples without end, for grain.

        Its element at an index is the example at that position; the `next_index` of
        its iterator's state is the next position; and `examples()[i::n]` are those of
        process i of n.
        """
        return self._order.map_with_index(self._example)

    def fingerprint(self) -> str:
        """sha256 over the files: equal data sets give equal examples."""
        return self._dataset(self._first_length).fingerprint

    @property
    def _first_length(self) -> str | None:
        """A length; all have the same questions."""
        raise NotImplementedError

    def _length_at(self, position: int) -> str | None:
        """The length of the document at a position."""
        raise NotImplementedError

    def _example(self, position: int, place: int) -> Example:
        dataset = self._dataset(self._length_at(position))
        return dataset[self._usable.indices[place]]

    @functools.cached_property
    def _order(self) -> "grain.MapDataset[int]":
        """Places in `_Data.indices`, each once in every epoch."""
        import grain

        data = self._usable
        if self.shuffle and data.ends is not None:
            every = grain.MapDataset.range(len(data.indices)).repeat()
            return every.map_with_index(lambda position, _: self._place(position))
        places = grain.MapDataset.range(len(data.indices))
        if self.shuffle:
            places = places.seed(self.seed % 2**32).shuffle()
        return places.repeat()

    def _place(self, position: int) -> int:
        """The place at a position, where whole documents are shuffled."""
        epoch, at = divmod(position, len(self._usable.indices))
        orders: dict[int, list[int]] = self._orders
        if (order := orders.get(epoch)) is None:
            documents = list(itertools.pairwise((0, *self._usable.ends)))
            shuffled = epoch_order(self.seed, epoch, len(documents))
            order = [place for d in shuffled for place in range(*documents[d])]
            if len(orders) > 1:  # an epoch and the next
                orders.pop(min(orders), None)
            orders[epoch] = order
        return order[at]

    @functools.cached_property
    def _orders(self) -> dict[int, list[int]]:
        return {}

    def _dataset(self, length: str | None) -> Dataset:
        opened: dict[str | None, Dataset] = self._opened
        if length not in opened:
            opened[length] = open_dataset(self.path, length)
        return opened[length]

    @functools.cached_property
    def _opened(self) -> dict[str | None, Dataset]:
        return {}

    @functools.cached_property
    def _data(self) -> Any:
        dataset = self._dataset(self._first_length)
        shared = dataset.manifest.questions_per_document > 1
        items: list[tuple[str, _Outline]] = []
        bad: list[BadRecord] = []
        seen: dict[str, str] = {}
        for index in range(len(dataset)):
            where = f"question {index}"
            with gathering(bad, where) as known:
                question = dataset.question(index)
                known["id"] = question.id
                check_new(question.id, where, seen)
                check_answers(question.answers, question.scoring)
                names = _names(question, shared)
                items.append((where, _Outline(_outline(question), index, *names)))
        mine = self._part_of(items, bad)
        good = tuple((where, item.example) for where, item in mine)
        records = Records(name=self.path, good=good, bad=tuple(bad), composed=True)
        ends = None
        if shared and (self.keep_together or not self.shuffle):
            names = [*(item.document for _, item in mine), None]
            pairs = enumerate(itertools.pairwise(names), 1)
            ends = tuple(end for end, (name, after) in pairs if name != after)
        return _Data(records, tuple(item.place for _, item in mine), ends)


class _Outline(NamedTuple):
    """A question of the data set.

    Attributes:
      example: without document.
      place: index in the data set.
      document: name of its document, where several questions are on one.
      id: whose hash chooses its part: questions on a document, and on an article where
        documents are of one, are held out together.
    """

    example: Example
    place: int
    document: str
    id: str


def _names(question: StoredQuestion, shared: bool) -> tuple[str, str]:
    """`_Outline.document` and `_Outline.id`."""
    if not shared:
        return question.id, question.id
    name = str(question.metadata.get(DOCUMENT, question.id))
    return name, str(question.metadata.get(ARTICLE, name))


def _outline(question: StoredQuestion) -> Example:
    """A question without document and evidence."""
    return Example(
        id=question.id,
        question=question.question,
        answers=question.answers,
        document="",
        task=question.task,
        scoring=question.scoring,
        metadata=question.metadata,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSource(_BuiltSource):
    """The questions of a built data set, with documents of one length.

    Attributes:
      path: of the folder that `gru-mem data build` has made.
      length: such as "50 documents"; None: the only one that the folder holds.
      shuffle: a new order in every epoch; else position i is question i, as
        evaluations want it.
      keep_together: whether, of a set with several questions on each document, those of
        one stay together where they are shuffled: supervised turns then share it. The
        groups of a step of reinforcement learning differ more without.
      seed, on_bad_record, part, held_out_share: see `FileSource`.
    """

    length: str | None = None

    @property
    def _first_length(self) -> str | None:
        return self.length

    def _length_at(self, position: int) -> str | None:
        return self.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumSource(_BuiltSource):
    """The questions of a built data set, with documents that grow.

    The questions come in the order of a `DatasetSource`; the position decides the
    length alone.

    Attributes:
      path: of the folder that `gru-mem data build` has made.
      stages: (length, position from which on it is taken), the first from 0:
        (("50 documents", 0), ("200 documents", 2048)).
      mix: expected share of later stages' questions that have a length of an earlier
        stage, each of these as likely.
      shuffle, keep_together, seed, on_bad_record, part, held_out_share: see
        `DatasetSource`.
    """

    stages: tuple[tuple[str, int], ...]
    mix: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mix", self.mix, 0, 1)
        stages = self.stages
        if not isinstance(stages, tuple | list) or not stages:
            raise InputError(
                "stages must be pairs (length, first position), such as "
                f"(('50 documents', 0),), got {shown(stages)}"
            )
        for stage in stages:
            if not isinstance(stage, tuple | list) or len(stage) != 2:
                raise InputError(f"stages: expected pairs, got {shown(stage)}")
            if not isinstance(stage[0], str):
                raise InputError(f"stages: a length is text, got {shown(stage[0])}")
            check_int("a first position of stages", stage[1], 0)
        object.__setattr__(self, "stages", tuple(map(tuple, stages)))
        starts = [start for _, start in stages]
        if starts[0] != 0 or starts != sorted(set(starts)):
            raise InputError(
                f"first positions of stages must rise from 0, got {shown(starts)}"
            )

    @property
    def _first_length(self) -> str | None:
        for length, _ in self.stages:
            self._dataset(length)  # before the first step, not when it is reached
        return self.stages[0][0]

    def _length_at(self, position: int) -> str:
        reached = [length for length, start in self.stages if start <= position]
        if len(reached) > 1 and self.mix:
            rng = random.Random(f"{self.seed}/length/{position}")
            if rng.random() < self.mix:
                return rng.choice(reached[:-1])
        return reached[-1]
