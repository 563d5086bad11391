"""Examples from files: what all such sources share, and a user's JSONL."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import random
import stat
from collections.abc import Iterator
from typing import Any

from gru_mem_jax.agent.text import check_text
from gru_mem_jax.agent.validation import check_int, from_record, plain_numbers, shown
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError

MOST_BYTES = 1 << 31


def read_file(path: str) -> bytes:
    """A regular file's bytes, of at most 2 GiB.

    Raises:
      InputError: it cannot be read, is a folder or a pipe, or is larger.
    """
    try:
        info = pathlib.Path(path).stat()
        if not stat.S_ISREG(info.st_mode):
            raise InputError(f"{path}: expected a regular file")
        if info.st_size > MOST_BYTES:
            raise InputError(f"{path}: has {info.st_size} bytes, more than 2 GiB")
        return pathlib.Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {reason}") from error


def read_json(path: str) -> tuple[Any, str]:
    """A JSON file's value, and the sha256 of its bytes.

    Raises:
      InputError: it cannot be read or is no JSON; says where.
    """
    data = read_file(path)
    return parse_json(data, path), hashlib.sha256(data).hexdigest()


def parse_json(data: bytes, where: str) -> Any:
    """The value of UTF-8 JSON.

    Raises:
      InputError: it is none.
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


_NAMES = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


@functools.lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """The order of `count` examples in an epoch: the same on any machine."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def index_at(position: int, seed: int, count: int) -> int:
    """Which of `count` examples stands at a position: each once in every epoch."""
    epoch, index = divmod(position, count)
    return epoch_order(seed, epoch, count)[index]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonlSource:
    """Examples of a user's file, in an order of its own in every epoch.

    One JSON object a line, with the fields of `Example`; blank lines do not count. `id`
    may be missing. The file is read when the first example is asked for, once.

    Attributes:
      path: of the file.
      seed: of the orders.
    """

    path: str | os.PathLike[str]
    seed: int = 0

    def __post_init__(self):
        check_source(self)

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the file cannot be read, or a line is no example: names file,
            line and field.
        """
        examples = self._read[0]
        return examples[index_at(position, self.seed, len(examples))]

    def fingerprint(self) -> str:
        """sha256 of the file: equal files give equal examples."""
        return self._read[1]

    @functools.cached_property
    def _read(self) -> tuple[tuple[Example, ...], str]:
        data = read_file(self.path)
        examples = tuple(_examples(data, self.path))
        if not examples:
            raise InputError(f"{self.path}: holds no example")
        return examples, hashlib.sha256(data).hexdigest()


def check_source(source: Any) -> None:
    """Checks `path` and `seed` of a source that reads a file, when it is made.

    A path of any kind becomes a str.
    """
    plain_numbers(source)
    path = source.path
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"path must be the name of a file, got {shown(path)}")
    object.__setattr__(source, "path", os.fsdecode(path))
    check_int("seed", source.seed, 0)


def _examples(data: bytes, path: str) -> Iterator[Example]:
    seen: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        example = _example(parse_json(line, where), number, where)
        if (other := seen.setdefault(example.id, number)) != number:
            raise InputError(
                f"{where}: has the id {example.id!r} of line {other}; ids are unique"
            )
        yield example


def _example(record: Any, number: int, where: str) -> Example:
    if isinstance(record, dict):
        record = {"id": f"line {number}"} | record
        for name in ("id", "question", "document"):
            if not field(record, name, str, f"{where}: example").strip():
                raise InputError(f"{where}: example.{name} is empty")
        for answer in field(record, "answers", list, f"{where}: example"):
            checked(answer, str, f"{where}: an entry of example.answers")
    try:
        example = from_record(Example, record, "example")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not any(answer.strip() for answer in example.answers):
        raise InputError(f"{where}: example.answers holds no answer")
    return dataclasses.replace(example, evidence=tuple(sorted(example.evidence)))
