"""The two tables of a set, as tensorflow-datasets describes them.

`Texts` has one split, the pool; `Questions` one split for each length. Both are
ordinary builders, and a folder that they describe is read by
`tfds.builder_from_directory(...).as_data_source()`, without TensorFlow.

`store.build` writes what they generate itself. TFDS's own writer (4.9) keeps up to 1 GB
of records in memory, and puts the rest, where the order is to be kept, into one file
that it then reads whole to sort it; it writes into a folder of a random name, which it
drops on an error, so that an interrupted build begins again; and the order of a
record's fields, and so its bytes, differs from process to process.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gru_mem_jax.data.builders.journal import Part
from gru_mem_jax.data.builders.recipe import GLUES, Length, Recipe, StoredQuestion
from gru_mem_jax.data.files import parse_json, read_file
from gru_mem_jax.data.scoring import SCORERS
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import cut, first_difference

POOL = "pool"
FORMAT = "array_record"
VERSION = "1.0.0"
_NAMES = ("id", "question", "glue", "task", "scoring")


def split_name(length: Length) -> str:
    """The name of a length's split: documents_50."""
    return f"{length.unit}_{length.count}"


class _Table(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What both builders have in common.

    Args:
      recipe: of the set.
      data_dir: the table is in its subfolder NAME/VERSION.
    """

    VERSION = tfds.core.Version(VERSION)
    features: tfds.features.FeaturesDict

    def __init__(self, *, recipe: Recipe, data_dir: str | os.PathLike[str]):
        self.recipe = recipe
        super().__init__(data_dir=os.fspath(data_dir), file_format=FORMAT)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__ or "",
            features=self.features,
            disable_shuffling=True,
        )

    @classmethod
    def check_features(cls, folder: pathlib.Path) -> None:
        """Refuses a folder of other features, before TFDS reads it.

        Its reader imports the modules that features.json names.

        Raises:
          InputError: they are not those of this table.
        """
        from google.protobuf import json_format

        path = os.fspath(folder / "features.json")
        expected = json_format.MessageToDict(cls.features.to_proto())
        if difference := first_difference(parse_json(read_file(path), path), expected):
            raise InputError(f"{path}: is not that of {cls.name}: {difference}")

    def serializer(self) -> Callable[[dict[str, Any]], bytes]:
        """Makes a record of a row."""
        serializer = tfds.core.ExampleSerializer(self.features.get_serialized_info())

        def serialize(row: dict[str, Any]) -> bytes:
            example = serializer.get_tf_example(self.features.encode_example(row))
            found: bytes = example.SerializeToString(deterministic=True)
            return found

        return serialize

    def path_of(self, split: str, number: int) -> pathlib.Path:
        """The file of a part of a split."""
        template = self._template(split)
        return pathlib.Path(
            template.sharded_filepath(shard_index=number, num_shards=None)
        )

    def describe(self, splits: Mapping[str, Sequence[Part]]) -> None:
        """Writes what TFDS reads the folder by.

        Args:
          splits: the files of each.
        """
        infos = [
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[part.records for part in parts],
                num_bytes=sum(part.record_bytes for part in parts),
                filename_template=self._template(name),
            )
            for name, parts in splits.items()
        ]
        self.info.set_splits(tfds.core.SplitDict(infos))
        self.info.write_to_directory(self.data_dir)

    def _template(self, split: str) -> tfds.core.ShardedFileTemplate:
        return tfds.core.ShardedFileTemplate(
            dataset_name=self.name,
            data_dir=self.data_dir,
            split=split,
            filetype_suffix=FORMAT,
            # How many there will be is not known when the first is written.
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        )


class Texts(_Table, skip_registration=True):
    """The texts that documents consist of, each once."""

    name = "texts"
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {POOL: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return enumerate(self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """The texts."""
        return ({"text": text} for text in self.recipe.pool())


class Questions(_Table, skip_registration=True):
    """Questions; their documents are lists of texts."""

    name = "questions"
    features = tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in (*_NAMES, "metadata")}
        | {
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "pieces": tfds.features.Tensor(
                shape=(None,), dtype=np.int32, encoding="bytes"
            ),
            "evidence": tfds.features.Tensor(shape=(None, 2), dtype=np.int64),
            "evidence_order": tfds.features.Tensor(shape=(None,), dtype=np.int32),
        }
    )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {
            split_name(length): self._generate_examples(length)
            for length in self.recipe.lengths
        }

    def _generate_examples(self, length: Length) -> Iterator[tuple[int, Any]]:
        return enumerate(self.rows(length))

    def rows(self, length: Length) -> Iterator[dict[str, Any]]:
        """The questions of a length."""
        return map(to_row, self.recipe.questions(length))


def to_row(question: StoredQuestion) -> dict[str, Any]:
    """A question as a row of the table."""
    row: dict[str, Any] = {name: getattr(question, name) for name in _NAMES}
    return row | {
        "answers": list(question.answers),
        "pieces": np.asarray(question.pieces, np.int32),
        "evidence": np.asarray(question.evidence, np.int64).reshape(-1, 2),
        "evidence_order": np.asarray(question.evidence_order, np.int32),
        "metadata": json.dumps(question.metadata, ensure_ascii=False, sort_keys=True),
    }


def from_row(row: dict[str, Any]) -> StoredQuestion:
    """The inverse of `to_row`, of a row as TFDS reads it (text is bytes).

    Raises:
      InputError: it holds what no question can have.
    """
    texts: dict[str, Any] = {name: _text(row[name], name) for name in _NAMES}
    check_names(texts["glue"], texts["scoring"])
    metadata = json.loads(_text(row["metadata"], "metadata"))
    if not isinstance(metadata, dict):
        raise InputError(f"metadata is no object: {cut(repr(metadata), 80)}")
    return StoredQuestion(
        **texts,
        answers=tuple(_text(answer, "an answer") for answer in row["answers"]),
        pieces=row["pieces"],
        evidence=tuple((int(start), int(end)) for start, end in row["evidence"]),
        evidence_order=tuple(map(int, row["evidence_order"])),
        metadata=metadata,
    )


def check_names(glue: str, scoring: str) -> None:
    """Raises InputError for a glue or scoring that does not exist."""
    if glue not in GLUES:
        raise InputError(f"glue must be one of {', '.join(GLUES)}; got {glue!r:.80}")
    if scoring not in SCORERS:
        known = ", ".join(SCORERS)
        raise InputError(f"scoring must be one of {known}; got {scoring!r:.80}")


def check_pieces(pieces: Sequence[int], num_texts: int) -> None:
    """Raises InputError for an index outside of a pool of `num_texts`."""
    array = np.asarray(pieces)
    if array.size and (array.min() < 0 or array.max() >= num_texts):
        raise InputError(
            f"its document has texts {array.min()} to {array.max()}, but the pool "
            f"holds {num_texts}"
        )


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InputError(f"{what} is not UTF-8") from None
