"""Examples from a JSONL file: one JSON object a line."""

import codecs
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

from gru_mem_jax.data.bad_records import BadRecord, Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.files import (
    FileData,
    FileSource,
    check_answers,
    check_new,
    checked,
    field,
    gathering,
    index_at,
    parse_json,
    read_file,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import from_record


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonlSource(FileSource):
    """Examples of a user's file, reshuffled in every epoch.

    One JSON object a line, with the fields of `Example`; blank lines are ignored. `id`
    may be missing, and null is a missing field. The file is read once, when the first
    example is requested.

    Attributes:
      path, seed, on_bad_record, part, held_out_share: see `FileSource`.
    """

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the file cannot be read, or lines are not examples: names file,
            line and field.
        """
        good = self._usable.records.good
        return good[index_at(position, self.seed, len(good))][1]

    @functools.cached_property
    def _data(self) -> FileData:
        data = read_file(self.path)
        text = data.removeprefix(codecs.BOM_UTF8)
        if text.lstrip()[:1] == b"[":
            raise InputError(
                f"{self.path}: begins with '[': expected one JSON object a line, not a "
                "list; write each record into a line of its own"
            )
        good: list[tuple[str, Example]] = []
        bad: list[BadRecord] = []
        seen: dict[str, str] = {}
        for where, line, note in lines(text):
            with gathering(bad, where) as known:
                good.append((where, _example(line, where, note, seen, known)))
        if not good and not bad:
            raise InputError(f"{self.path}: holds no example")
        mine = self._part_of(good, bad)
        records = Records(name=self.path, good=tuple(mine), bad=tuple(bad))
        return FileData(records, hashlib.sha256(data).hexdigest())


def lines(data: bytes) -> Iterator[tuple[str, bytes, str]]:
    """(place, bytes, note for an error) of each line that is not blank."""
    found = data.split(b"\n")
    for number, line in enumerate(found, 1):
        if line.strip():
            cut = number == len(found) and number > 1
            note = " (the last line, without an end: was the file cut?)" if cut else ""
            yield f"line {number}", line, note


def _example(
    line: bytes, where: str, note: str, seen: dict[str, str], known: dict[str, str]
) -> Example:
    try:
        record = parse_json(line, "")
    except InputError as error:
        raise InputError(f"{error}{note}".removeprefix(": ")) from None
    if not isinstance(record, dict):
        raise InputError(f"example must be an object, got {type(record).__name__}")
    record = {"id": where} | {k: v for k, v in record.items() if v is not None}
    _explain(record)
    known["id"] = field(record, "id", str, "example")
    for name in ("id", "question", "document"):
        if not field(record, name, str, "example").strip():
            raise InputError(f"example.{name} is empty")
    for answer in field(record, "answers", list, "example"):
        checked(answer, str, "an entry of example.answers")
    example = from_record(Example, record, "example")
    if not any(answer.strip() for answer in example.answers):
        raise InputError("example.answers holds no answer")
    check_new(example.id, where, seen)
    check_answers(example.answers, example.scoring)
    return dataclasses.replace(example, evidence=tuple(sorted(example.evidence)))


def _explain(record: dict[str, Any]) -> None:
    """Raises helpful errors for values that are nearly right."""
    own, answers = record["id"], record.get("answers")
    if type(own) in (int, float):
        raise InputError(f'example.id must be text, got {own}; write "{own}"')
    if isinstance(answers, str):
        raise InputError(
            f"example.answers must be a list, got {answers!r:.80}; put it in brackets"
        )
