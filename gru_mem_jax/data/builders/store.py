"""Builds a set into a folder: texts, questions, and what they were made of.

    OUT/
      dataset.json          what is in it, see `data.dataset_files.DatasetManifest`
      SHA256SUMS            of every file, for `sha256sum -c`
      texts/1.0.0/          of tensorflow-datasets, split "pool"
      questions/1.0.0/      one split for each length: documents_50, tokens_131072, ...

A build is made beside OUT, in .OUT.building, and renamed when it is whole. Its files
are of limited size: those that are whole stay when a build ends early, and the same
build continues after them. Equal recipes give equal bytes.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gru_mem_jax import durable_files, storage
from gru_mem_jax.data import dataset_files
from gru_mem_jax.data.builders.journal import Journal, Part
from gru_mem_jax.data.builders.recipe import Length, Recipe
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import first_difference

SHARD_BYTES = 1 << 26
_TOLD_EVERY = 1000  # texts between two calls of on_progress


class Progress(NamedTuple):
    """How far a build is.

    Attributes:
      part: "texts", or a length.
      done: texts or questions of it.
    """

    part: str
    done: int


def build(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    shard_bytes: int = SHARD_BYTES,
) -> pathlib.Path:
    """Builds a set, or goes on with a build that was interrupted.

    Memory: that of the recipe, and a record.

    Args:
      recipe: of the set.
      out: folder of the set. If it holds the set already, nothing is done.
      on_progress: called now and then while something is built.
      shard_bytes: of records in a file; a build continues after the last whole file.

    Returns:
      The folder.

    Raises:
      InputError: the recipe's sources; `out` holds something else, or a set of other
        settings; another process builds there.
      RunError: a file cannot be written; the same build continues.
    """
    from gru_mem_jax.runs.lock import FileLock

    if storage.in_bucket(out):
        raise InputError(
            f"{out}: a data set is built on a disk; give a folder there, and copy it "
            "(gcloud storage cp -r)"
        )
    target = pathlib.Path(os.path.realpath(out))  # a link stays one
    wanted = dataset_files.identity(recipe)
    work = target.with_name(f".{durable_files.short_name(target)}.building")
    if _is_there(target, wanted):
        shutil.rmtree(work, ignore_errors=True)
        return target
    with durable_files.writing(work):
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / "lock")
    try:
        if not _is_there(target, wanted):  # by a build that has ended since
            _Build(recipe, wanted, target, work, on_progress, shard_bytes).run()
    finally:
        lock.release()
        if not any(work.iterdir()):
            work.rmdir()
    return target


def _is_there(target: pathlib.Path, wanted: dict[str, Any]) -> bool:
    """Whether a folder holds the set.

    Raises:
      InputError: it holds something else, a set of other settings, or a damaged one.
    """
    if not target.exists() and not target.is_symlink():  # a link to itself
        return False
    if not target.is_dir():
        raise InputError(f"{target}: is not a folder; give another one")
    if not any(target.iterdir()):
        if target.samefile(os.curdir):
            raise InputError(
                f"{target}: is the working folder, which cannot be replaced; give a "
                "folder in it"
            )
        return False
    if not (target / dataset_files.MANIFEST).exists():
        raise InputError(
            f"{target}: is not empty, and holds no data set; nothing is overwritten"
        )
    manifest = dataset_files.read_manifest(target)
    dataset_files.check_sizes(target, manifest)
    if found := first_difference(manifest.identity, wanted):
        raise InputError(
            f"{target}: holds a data set of other settings: {found}; give another "
            "folder, or remove this one"
        )
    return True


class _Build:
    """One build, while its lock is held."""

    def __init__(
        self,
        recipe: Recipe,
        wanted: dict[str, Any],
        target: pathlib.Path,
        work: pathlib.Path,
        on_progress: Callable[[Progress], None],
        shard_bytes: int,
    ):
        self._recipe, self._wanted, self._target = recipe, wanted, target
        self._work, self._folder = work, work / "dataset"
        self._on_progress, self._shard_bytes = on_progress, shard_bytes
        self._journal = Journal.open(work, self._folder, wanted)

    def run(self) -> None:
        from gru_mem_jax.data.builders.tables import POOL, Questions, Texts, split_name

        texts = Texts(recipe=self._recipe, data_dir=self._folder)
        questions = Questions(recipe=self._recipe, data_dir=self._folder)
        # A failing recipe leaves no more behind than what it had made.
        try:
            for length in self._recipe.lengths:  # before hours of work on texts
                next(iter(self._recipe.questions(length)), None)
            self._write(texts, POOL, "texts", texts.rows())
            for length in self._recipe.lengths:
                rows = self._questions(questions, length)
                self._write(questions, split_name(length), str(length), rows)
        except BaseException:
            if not self._journal.parts:
                self._journal.remove()
                shutil.rmtree(self._folder, ignore_errors=True)
            raise
        with durable_files.writing(self._folder):
            self._finish(texts, questions)

    def _questions(self, table: Any, length: Length) -> Iterator[Any]:
        """The rows of a length.

        Raises:
          RunError: they are not those of the other lengths, or use texts that are not
            there: the recipe is wrong.
        """
        from gru_mem_jax.data.builders.tables import check_names, check_pieces

        num_texts = self._journal.records("texts")
        ids = hashlib.sha256()
        seen: set[str] = set()
        for row in table.rows(length):
            own = row["id"]
            where = f"{self._recipe.name}, {length}, question {own!r:.60}"
            try:
                check_names(row["glue"], row["scoring"])
                check_pieces(row["pieces"], num_texts)
            except InputError as error:
                raise RunError(f"{where}: {error}") from error
            if own in seen:
                raise RunError(f"{where}: the recipe gives this id twice")
            seen.add(own)
            ids.update(own.encode() + b"\0")
            yield row
        if not seen:
            raise InputError(f"{self._recipe.name}: gives no question of {length}")
        self._journal.check_ids(ids.hexdigest(), f"{self._recipe.name}, {length}")

    def _write(self, table: Any, split: str, what: str, rows: Iterator[Any]) -> None:
        """Writes what is not there yet of a split."""
        if self._journal.is_whole(what):
            return
        serialize = table.serializer()
        done = self._journal.records(what)
        folder = pathlib.Path(table.data_dir)
        with durable_files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        shard = None
        every = 1 if what != "texts" else _TOLD_EVERY
        try:
            for row in itertools.islice(rows, done, None):
                if shard is None:
                    number = len(self._journal.of(what))
                    shard = _Shard(table.path_of(split, number))
                shard.write(serialize(row))
                done += 1
                if done % every == 0:
                    self._on_progress(Progress(what, done))
                if shard.bytes >= self._shard_bytes:
                    self._keep(what, shard)
                    shard = None
            if shard is not None:
                self._keep(what, shard)
                shard = None
        finally:
            if shard is not None:
                shard.drop()
        self._journal.mark_whole(what)
        self._on_progress(Progress(what, done))

    def _keep(self, what: str, shard: "_Shard") -> None:
        path = shard.finish()
        self._journal.add(
            Part(
                of=what,
                name=path.relative_to(self._folder).as_posix(),
                records=shard.records,
                record_bytes=shard.bytes,
                bytes=path.stat().st_size,
                sha256=durable_files.sha256(path),
            )
        )

    def _finish(self, texts: Any, questions: Any) -> None:
        """Describes the parts, and gives the folder its name."""
        from gru_mem_jax.data.builders.tables import POOL, split_name

        journal, folder = self._journal, self._folder
        texts.describe({POOL: journal.of("texts")})
        lengths = self._recipe.lengths
        questions.describe({split_name(e): journal.of(str(e)) for e in lengths})
        digests = {part.name: part.sha256 for part in journal.parts}
        sizes = {part.name: part.bytes for part in journal.parts}
        for path in sorted(folder.glob("*/*/*.json")):
            name = path.relative_to(folder).as_posix()
            durable_files.write_atomically(path, path.read_bytes())
            digests[name] = durable_files.sha256(path)
            sizes[name] = path.stat().st_size
        counts = [journal.records(str(length)) for length in lengths]
        text = dataset_files.manifest_text(
            self._wanted, journal.records("texts"), counts, sizes
        )
        durable_files.write_atomically(folder / dataset_files.MANIFEST, text)
        digests[dataset_files.MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
        durable_files.write_list(folder, digests)
        for each in {path.parent for path in folder.rglob("*")}:
            durable_files.sync_folder(each)
        os.rename(folder, self._target)  # over an empty folder this is allowed
        durable_files.sync_folder(self._target.parent)
        journal.remove()


class _Shard:
    """A file of records, which has its name when it is whole."""

    def __init__(self, path: pathlib.Path):
        from array_record.python import array_record_module

        self._path, self._aside = path, path.with_name(f"{path.name}.saving")
        self.records = self.bytes = 0
        try:
            # Records are compressed one by one, to be read one by one.
            self._writer = array_record_module.ArrayRecordWriter(
                os.fspath(self._aside), "group_size:1"
            )
        except Exception as error:
            raise durable_files.storage_error(path, error) from error

    def write(self, record: bytes) -> None:
        self.records += 1
        self.bytes += len(record)
        try:
            self._writer.write(record)
        except Exception as error:
            raise self._failed(error) from error

    def finish(self) -> pathlib.Path:
        try:
            self._writer.close()
            with open(self._aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._aside, self._path)
        except Exception as error:
            raise self._failed(error) from error
        durable_files.sync_folder(self._path.parent)
        return self._path

    def drop(self) -> None:
        with contextlib.suppress(Exception):  # a full disk is told already
            self._writer.close()
        self._aside.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> RunError:
        return durable_files.storage_error(self._path, error, needed=self.bytes)
