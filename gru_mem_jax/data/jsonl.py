"""Examples from a JSONL file: one JSON object a line."""

import codecs
import dataclasses
import functools
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from gru_mem_jax import storage
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
    may be missing, and null is a missing field. Instead of `document` there may be
    `document_path`, and instead of `evidence` `evidence_strings` (docs/datasets.md).
    Files are read once, when the first example is requested.

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
        good: list[tuple[str, Example]] = []
        bad: list[BadRecord] = []
        seen: dict[str, str] = {}
        documents = hashlib.sha256()
        for where, line, note in json_lines(io.BytesIO(data), self.path):
            with gathering(bad, where) as known:
                read = read_line(line, where, note, self.path, seen, known)
                good.append((where, read.example))
                documents.update(read.path_sha256.encode())
        if not good and not bad:
            raise InputError(f"{self.path}: holds no example")
        mine = self._part_of(good, bad)
        records = Records(name=self.path, good=tuple(mine), bad=tuple(bad))
        sha256 = hashlib.sha256(data)
        if documents.digest() != hashlib.sha256().digest():
            sha256.update(documents.digest())
        return FileData(records, sha256.hexdigest())


class Line(NamedTuple):
    """What a line tells.

    Attributes:
      example: with its document.
      path_sha256: of the file of its document_path; "" where it has none.
    """

    example: Example
    path_sha256: str = ""


def json_lines(file: Iterable[bytes], path: str) -> Iterator[tuple[str, bytes, str]]:
    """(place, bytes, note for an error) of each line that is not blank.

    Args:
      file: its lines, each with its end.
      path: for messages.

    Raises:
      InputError: it is a list of JSON.
    """
    begun = False
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        if not begun and line.lstrip()[:1] == b"[":
            raise InputError(
                f"{path}: begins with '[': expected one JSON object a line, not a "
                "list; write each record into a line of its own"
            )
        begun = True
        cut = number > 1 and not line.endswith(b"\n")
        note = " (the last line, without an end: was the file cut?)" if cut else ""
        yield f"line {number}", line, note


def read_line(
    line: bytes,
    where: str,
    note: str,
    path: str,
    seen: dict[str, str],
    known: dict[str, str],
) -> Line:
    """The example of a line, and its document where that is a file.

    Args:
      line, where, note: of `json_lines`.
      path: of the file, beside which documents are.
      seen: see `files.check_new`.
      known: receives the id, see `files.gathering`.

    Raises:
      InputError: it is none: names the field.
    """
    try:
        record = parse_json(line, "")
    except InputError as error:
        raise InputError(f"{error}{note}".removeprefix(": ")) from None
    if not isinstance(record, dict):
        raise InputError(f"example must be an object, got {type(record).__name__}")
    record = {"id": where} | {k: v for k, v in record.items() if v is not None}
    _explain(record)
    known["id"] = field(record, "id", str, "example")
    sha256 = ""
    if _PATH in record:
        record["document"], sha256 = _document(record, path)
    for name in ("id", "question", "document"):
        if not field(record, name, str, "example").strip():
            raise InputError(f"example.{name} is empty")
    for answer in field(record, "answers", list, "example"):
        checked(answer, str, "an entry of example.answers")
    if _STRINGS in record:
        record["evidence"] = _found(record)
    example = from_record(Example, record, "example")
    if not any(answer.strip() for answer in example.answers):
        raise InputError("example.answers holds no answer")
    check_new(example.id, where, seen)
    check_answers(example.answers, example.scoring)
    return Line(_in_order(example), sha256)


_PATH, _STRINGS = "document_path", "evidence_strings"


def _document(record: dict[str, Any], path: str) -> tuple[str, str]:
    """The text of the file that a record names, and the sha256 of its bytes.

    A relative path is one below the folder of the JSONL file, links resolved.
    """
    if "document" in record:
        raise InputError(f"example has both document and {_PATH}; give one of them")
    name = field(record, _PATH, str, "example")
    del record[_PATH]
    if "\0" in name:
        raise InputError(f"example.{_PATH} {name!r:.80} is no path: it holds a NUL")
    if storage.in_bucket(path):
        raise InputError(
            f"example.{_PATH}: works on a disk alone; {path} is in a bucket"
        )
    if os.path.isabs(name):
        target = name
    else:
        folder = os.path.realpath(os.path.dirname(path) or ".")
        target = os.path.realpath(os.path.join(folder, name))
        if os.path.commonpath([folder, target]) != folder:
            raise InputError(
                f"example.{_PATH} {name!r:.80} leads out of the folder of {path}; give "
                "a path below it, or an absolute one"
            )
    data = read_file(target)
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{target}: is not UTF-8 (byte {error.start})") from None
    return text, hashlib.sha256(data).hexdigest()


def _found(record: dict[str, Any]) -> list[list[int]]:
    """The spans of evidence_strings, each of which occurs once in the document."""
    if "evidence" in record:
        raise InputError(f"example has both evidence and {_STRINGS}; give one of them")
    document, spans = record["document"], []
    for string in field(record, _STRINGS, list, "example"):
        checked(string, str, f"an entry of example.{_STRINGS}")
        start = document.find(string) if string.strip() else -1
        if start < 0 or document.find(string, start + 1) >= 0:
            times = "is not in the document" if start < 0 else "occurs more than once"
            raise InputError(
                f"example.{_STRINGS}: {string!r:.80} {times}; give a string that "
                "occurs once, letter by letter, or its span as evidence"
            )
        spans.append([start, start + len(string)])
    del record[_STRINGS]
    return spans


def _in_order(example: Example) -> Example:
    """With evidence in the order of the text."""
    spans = example.evidence
    order = sorted(range(len(spans)), key=spans.__getitem__)
    steps = example.evidence_order
    return dataclasses.replace(
        example,
        evidence=tuple(spans[i] for i in order),
        evidence_order=tuple(steps[i] for i in order) if steps else (),
    )


def _explain(record: dict[str, Any]) -> None:
    """Raises helpful errors for values that are nearly right."""
    own, answers = record["id"], record.get("answers")
    if type(own) in (int, float):
        raise InputError(f'example.id must be text, got {own}; write "{own}"')
    if isinstance(answers, str):
        raise InputError(
            f"example.answers must be a list, got {answers!r:.80}; put it in brackets"
        )
