"""A built data set as a sequence of examples, whose documents are read when needed."""

import contextlib
import functools
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, overload

from gru_mem_jax import durable_files, storage
from gru_mem_jax.data import dataset_files
from gru_mem_jax.data.builders.recipe import Length, StoredQuestion
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import GRUMemError, InputError
from gru_mem_jax.records import did_you_mean


def open_dataset(
    path: str | os.PathLike[str],
    length: "Length | str | None" = None,
    *,
    verify: bool = False,
) -> "Dataset":
    """Opens a folder that `gru-mem data build` has made.

    Args:
      path: the folder.
      length: of the documents, such as "50 documents"; may be None where the folder
        holds one.
      verify: compare every byte with its sha256; else sizes of files are compared.

    Raises:
      InputError: it is no such folder, is damaged, or has no such length.
    """
    if storage.in_bucket(path):
        raise InputError(f"{path}: a data set is read from a disk; copy it there")
    folder = pathlib.Path(path)
    manifest = dataset_files.read_manifest(folder)
    dataset_files.check_sizes(folder, manifest)
    if verify:
        dataset_files.verify(folder)
    return Dataset(folder, manifest, _chosen(folder, manifest, length))


def first_length(path: str | os.PathLike[str]) -> Length:
    """The length that a folder lists first; raises as `open_dataset`."""
    return dataset_files.read_manifest(pathlib.Path(path)).lengths[0]


def _chosen(
    folder: pathlib.Path,
    manifest: dataset_files.DatasetManifest,
    length: Length | str | None,
) -> dataset_files.QuestionCount:
    known = {str(each.length): each for each in manifest.sets}
    if length is None:
        if len(known) == 1:
            return manifest.sets[0]
        raise InputError(
            f"{folder}: has several lengths; name one of {', '.join(known)}"
        )
    # As text, and as the name of a split.
    name = str(length)
    unit, _, count = name.partition("_")
    found = known.get(name) or known.get(f"{count} {unit}")
    if found is None:
        hint = did_you_mean(name, known) or f" (known: {', '.join(known)})"
        raise InputError(f"{folder}: has no length {name!r:.80}{hint}")
    return found


class Dataset(Sequence[Example]):
    """The questions of one length. Made by `open_dataset`.

    In memory are the questions that are held, and nothing else. Any threads may read at
    once; a copy in another process (pickle) reads the same folder.

    Attributes:
      path: of the folder.
      manifest: what the folder holds.
      length: of the documents.
    """

    def __init__(
        self,
        path: pathlib.Path,
        manifest: dataset_files.DatasetManifest,
        of: dataset_files.QuestionCount,
    ):
        self.path, self.manifest, self.length = path, manifest, of.length
        self._count = of.questions
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return open_dataset, (self.path, self.length)

    def __repr__(self) -> str:
        return f"Dataset({os.fspath(self.path)!r}, {str(self.length)!r})"

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """An example with its document.

        Raises:
          InputError: the folder is damaged.
          IndexError: there is no such question.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        question = self.question(index)
        texts = self.texts(question.pieces)
        with self._reading(index):
            return question.example(texts.__getitem__)

    def question(self, index: int) -> StoredQuestion:
        """A question without its document; raises as `[index]`."""
        from gru_mem_jax.data.builders import tables

        index = range(len(self))[index]  # negative ones, IndexError
        with self._reading(index):
            question = tables.from_row(self._questions[index])
            tables.check_pieces(question.pieces, self.manifest.texts)
        return question

    def questions(self) -> Iterator[StoredQuestion]:
        """All questions, without their documents."""
        return map(self.question, range(len(self)))

    def pool(self) -> Iterator[str]:
        """All texts, in order."""
        for index in range(self.manifest.texts):
            with self._reading():
                text = self._texts[index]["text"].decode()
            yield text

    def texts(self, indices: Sequence[int]) -> dict[int, str]:
        """The texts of the pool at these indices, each read once."""
        wanted = sorted(set(map(int, indices)))
        with self._reading():
            rows = self._texts.__getitems__(wanted)
            return {i: row["text"].decode() for i, row in zip(wanted, rows)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the sha256 of all files: equal ones hold equal examples."""
        with self._reading():
            return durable_files.sha256(self.path / durable_files.MANIFEST)

    @functools.cached_property
    def _questions(self) -> Any:
        from gru_mem_jax.data.builders import tables

        split = tables.split_name(self.length)
        return self._source(tables.Questions, split, len(self))

    @functools.cached_property
    def _texts(self) -> Any:
        from gru_mem_jax.data.builders import tables

        return self._source(tables.Texts, tables.POOL, self.manifest.texts)

    def _source(self, table: Any, split: str, count: int) -> Any:
        import tensorflow_datasets as tfds

        folder = self.path / table.name / str(table.VERSION)
        table.check_features(folder)
        with self._lock:
            builder = tfds.builder_from_directory(folder)
            info = builder.info.splits[split]
            names = {pathlib.Path(name) for name in info.filepaths}
            listed = {self.path / name for name in self.manifest.files}
            if info.num_examples != count or not names <= listed:
                raise InputError(
                    f"{folder} and {dataset_files.MANIFEST} tell of other files or "
                    "numbers of records"
                )
            return builder.as_data_source(split)

    @contextlib.contextmanager
    def _reading(self, index: int | None = None) -> Iterator[None]:
        """While entered, whatever a damaged file causes is an InputError."""
        where = f"{self.path}, {self.length}"
        if index is not None:
            where += f", question {index}"
        try:
            yield
        except GRUMemError as error:
            raise InputError(f"{where}: {error}") from error
        except Exception as error:
            line = " ".join(str(error).split())
            raise InputError(
                f"{where}: cannot be read: {line:.200} ({type(error).__name__}); see "
                "what is damaged by gru-mem data show DIR --verify"
            ) from error
