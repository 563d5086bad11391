"""2WikiMultihopQA's questions.

Ho et al., COLING 2020. The official files (train.json, dev.json) have HotpotQA's fields
and evidences: triples (subject, relation, object). Those of December 2020
(data_ids.zip) have answer_id too, whose other names are in id_aliases.json, one JSON
object a line: Q_id, aliases, demonyms.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from gru_mem_jax.data import files, jsonl
from gru_mem_jax.data.hotpotqa import read_list, read_record
from gru_mem_jax.data.paragraphs import Check, ParagraphFile, ParagraphQuestion
from gru_mem_jax.errors import InputError

Names = Mapping[str, tuple[str, ...]]


def read_two_wiki(path: str, check: Check, names: Names) -> ParagraphFile:
    """The records of an official file.

    Args:
      path: of the JSON file.
      check: of each record.
      names: other names of answers, by answer_id, see `read_aliases`.

    Raises:
      InputError: the file cannot be read, is not JSON, or holds no record.
    """

    def read(value: Any, where: str, known: dict[str, str]) -> ParagraphQuestion:
        item = read_record(value, where, known)
        triples = [_triple(t, where) for t in _list(value, "evidences", where)]
        own = value.get("answer_id")
        others = names.get(own, ()) if isinstance(own, str) else ()
        answers = tuple(dict.fromkeys([*item.answers, *others]))
        return item._replace(answers=answers, steps=_steps(item, triples))

    return read_list(path, read, check)


def read_aliases(path: str) -> tuple[Names, str]:
    """The names in an official id_aliases.json, and the file's sha256.

    Raises:
      InputError: it cannot be read, or a line has another form: names line and field.
    """
    data = files.read_file(path)
    names: dict[str, tuple[str, ...]] = {}
    for where, line, note in jsonl.json_lines(io.BytesIO(data), path):
        where = f"{path}, {where}"
        try:
            record = files.parse_json(line, where)
        except InputError as error:
            raise InputError(f"{error}{note}") from None
        own = files.field(record, "Q_id", str, where)
        found = [
            files.checked(each, str, f"{where}.{name}: an entry")
            for name in ("aliases", "demonyms")
            for each in _list(record, name, where)
        ]
        names[own] = tuple(found)
    return names, hashlib.sha256(data).hexdigest()


def _list(record: Any, name: str, where: str) -> list[Any]:
    found: list[Any] = files.field(record, name, list, where)
    return found


def _triple(value: Any, where: str) -> tuple[str, str]:
    """Subject and object."""
    inner = f"{where}.evidences: a triple"
    if len(files.checked(value, list, inner)) != 3:
        raise InputError(f"{inner} must have three parts, got {value!r:.80}")
    subject, _, target = (files.checked(part, str, inner) for part in value)
    return subject, target


def _steps(
    item: ParagraphQuestion, triples: Sequence[tuple[str, str]]
) -> tuple[int, ...]:
    """The step of each paragraph: one after that whose object is its subject.

    A paragraph is of the triples whose subject is its title. Unknown if a supporting
    paragraph has none, or if triples point to one another in a circle.
    """
    step = {subject.casefold(): 0 for subject, _ in triples}
    for _ in step:  # as often as a chain can be long
        for subject, target in triples:
            if target.casefold() in step:
                after = step[subject.casefold()] + 1
                step[target.casefold()] = max(step[target.casefold()], after)
    if any(value >= len(step) for value in step.values()):
        return ()
    found: list[int] = []
    for paragraph in item.paragraphs:
        title = paragraph.title.casefold()
        if paragraph.evidence and title not in step:
            return ()
        found.append(step[title] if paragraph.evidence else -1)
    return tuple(found)
