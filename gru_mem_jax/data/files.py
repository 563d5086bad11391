"""Examples from files: what such sources have in common."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import random
import stat
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple

from gru_mem_jax import buckets, storage
from gru_mem_jax.agent.text import check_text, refuse_binary
from gru_mem_jax.data.bad_records import (
    ON_BAD_RECORD,
    BadRecord,
    BadRecordsError,
    OnBadRecord,
    Records,
)
from gru_mem_jax.data.scoring import unmatchable
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import (
    check_choice,
    check_int,
    check_number,
    plain_numbers,
    shown,
)

MOST_BYTES = 1 << 31
Part = Literal["all", "train", "held_out"]
PARTS: tuple[Part, ...] = ("all", "train", "held_out")


def read_file(path: str) -> bytes:
    """The bytes of a regular file, or of an object in a bucket, of at most 2 GiB.

    Raises:
      InputError: it cannot be read, is a folder or a pipe, is larger, or is not text.
    """
    with _reading(path):
        where = _located(path)
        if (size := storage.size(where)) > MOST_BYTES:
            raise InputError(f"{path}: has {size} bytes, more than 2 GiB")
        data = storage.read_bytes(where)
    _check_head(data[:64], path)
    return data


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """While entered, a regular file or an object in a bucket, to read from its start.

    Raises:
      InputError: as `read_file`, but for its size.
    """
    with _reading(path):
        where = _located(path)
        with storage.reader(where) as file:
            head = file.read(64)
        _check_head(head, path)
        file = storage.reader(where)
    try:
        with file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """While entered, what the file system refuses is an InputError."""
    try:
        yield
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {reason}") from error


def _located(path: str) -> Any:
    where = storage.locate(path)
    if storage.in_bucket(where):
        buckets.check(where)
    elif not stat.S_ISREG(where.stat().st_mode):
        raise InputError(f"{path}: expected a regular file")
    return where


def _check_head(head: bytes, path: str) -> None:
    refuse_binary(head, path)
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path}: is a pointer of Git LFS, not the file; run git lfs pull"
        )


def read_json(path: str) -> tuple[Any, str]:
    """A JSON file's value, and the sha256 of its bytes.

    Raises:
      InputError: it cannot be read, or is not JSON; says where.
    """
    data = read_file(path)
    return parse_json(data, path), hashlib.sha256(data).hexdigest()


def parse_json(data: bytes, where: str) -> Any:
    """The value of UTF-8 JSON.

    Raises:
      InputError: it is not JSON.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{where}: is not JSON ({reason})") from None


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """A field of a JSON object; text is checked to be text.

    Raises:
      InputError: it is missing, of another type, or holds a lone surrogate.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where} must be an object, got {type(record).__name__}")
    if name not in record:
        raise InputError(f"{where} has no field {name!r}")
    return checked(record[name], kind, f"{where}.{name}")


def checked(value: Any, kind: type, where: str) -> Any:
    """A JSON value of one type.

    Raises:
      InputError: it is another, or text with a lone surrogate.
    """
    if type(value) is not kind:
        raise InputError(f"{where} must be {_NAMES[kind]}, got {value!r:.80}")
    if kind is str:
        check_text(value, where)
    return value


def check_answers(answers: Sequence[str], scoring: str) -> None:
    """Checks that some answer can be right.

    Raises:
      InputError: none can, see `scoring.unmatchable`.
    """
    if problem := unmatchable(answers, scoring):
        raise InputError(problem)


def check_new(own: str, where: str, seen: dict[str, str]) -> None:
    """Notes that the record at `where` has the id `own`.

    Raises:
      InputError: another one has it.
    """
    if (other := seen.setdefault(own, where)) != where:
        raise InputError(f"has the id {own!r:.60} of {other}; ids are unique")


_NAMES = {
    str: "text",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    bool: "true or false",
}


@functools.lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """The order of `count` examples in an epoch: the same on any machine."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def index_at(position: int, seed: int, count: int) -> int:
    """The index of the example at a position: each of `count` once in every epoch."""
    epoch, index = divmod(position, count)
    return epoch_order(seed, epoch, count)[index]


class FileData(NamedTuple):
    """The contents of a file.

    Attributes:
      records: parsed.
      sha256: of its bytes.
    """

    records: Records
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSource:
    """The common part of sources that read a file.

    Attributes:
      path: of the file.
      seed: of the orders.
      on_bad_record: "error", the first use of a file with bad records is an error that
        names them; "skip", they are skipped: only the good ones are ordered.
      part: "train" and "held_out" split a file in two parts that share no record;
        "all". A hash of its id assigns a record to its part.
      held_out_share: expected share of the records in "held_out".
    """

    path: str | os.PathLike[str]
    seed: int = 0
    on_bad_record: OnBadRecord = "error"
    part: Part = "all"
    held_out_share: float = 0.1

    def __post_init__(self):
        plain_numbers(self)
        path = self.path
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise InputError(f"path must be the name of a file, got {shown(path)}")
        object.__setattr__(self, "path", os.fsdecode(path))
        check_int("seed", self.seed, 0)
        check_choice("on_bad_record", self.on_bad_record, ON_BAD_RECORD)
        check_choice("part", self.part, PARTS)
        check_number("held_out_share", self.held_out_share, 0, 1)

    def records(self) -> Records:
        """All records of the source's part of the file, and all bad ones of the file.

        Raises:
          InputError: the file cannot be read or parsed.
        """
        return self._data.records

    def fingerprint(self) -> str:
        """sha256 of the file: equal files give equal examples."""
        return self._data.sha256

    def _part_of(
        self, items: Sequence[tuple[str, Any]], bad: Sequence[BadRecord]
    ) -> list[tuple[str, Any]]:
        """Those (where, item with an id) that are of the source's part.

        Raises:
          InputError: the part is empty, and the file has no bad record.
        """
        if self.part == "all":
            return list(items)
        mine = [
            item
            for item in items
            if _is_held_out(item[1].id, self.held_out_share)
            == (self.part == "held_out")
        ]
        if not mine and not bad:
            raise InputError(
                f"{self.path}: none of its {len(items)} records is of part "
                f"{self.part!r} with held_out_share {self.held_out_share:g}"
            )
        return mine

    def _refuses(self, records: Records) -> bool:
        """Whether bad records are an error."""
        return bool(records.bad) and (self.on_bad_record == "error" or not records.good)

    @property
    def _usable(self) -> Any:
        """The contents, if they may be used."""
        if self._refuses(self._data.records):
            raise BadRecordsError(self._data.records, self)
        return self._data


def _is_held_out(own: str, share: float) -> bool:
    """Whether a hash of a record's id assigns it to the held-out part."""
    digest = hashlib.blake2b(own.encode(), digest_size=6).digest()
    return int.from_bytes(digest) < share * 2**48


@contextlib.contextmanager
def gathering(bad: list[BadRecord], where: str) -> Iterator[dict[str, str]]:
    """While entered, an InputError makes the record that is read a bad one.

    Args:
      bad: receives the bad record.
      where: its place.

    Yields:
      A dict for the record's "id", once it is known.
    """
    known: dict[str, str] = {}
    try:
        yield known
    except InputError as error:
        own = known.get("id", "")
        bad.append(BadRecord(where, "" if own == where else own, str(error)))
