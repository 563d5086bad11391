"""MuSiQue's questions of two to four steps.

Trivedi et al., arXiv 2108.00573. The official files (musique_ans_v1.0_dev.jsonl, ...)
have one JSON object a line: id, question, answer, answer_aliases, answerable,
paragraphs (idx, title, paragraph_text, is_supporting) and question_decomposition (of
each step its question, in which #1 is the answer of the first, and
paragraph_support_idx).
"""

import hashlib
import io
import re
from collections.abc import Mapping
from typing import Any

from gru_mem_jax.data import files, jsonl
from gru_mem_jax.data.paragraphs import (
    Check,
    Paragraph,
    ParagraphFile,
    ParagraphQuestion,
)
from gru_mem_jax.data.sentences import stripped
from gru_mem_jax.errors import InputError

_REFERENCE = re.compile(r"#(\d{1,2})")  # to the answer of an earlier step


def read_musique(path: str, check: Check) -> ParagraphFile:
    """The answerable questions of an official file.

    The whole text of a supporting paragraph is evidence.

    Args:
      path: of the file, one JSON object a line.
      check: of each question.

    Raises:
      InputError: the file cannot be read, or holds no answerable question.
    """
    data = files.read_file(path)
    file = ParagraphFile([], [], [], hashlib.sha256(data).hexdigest())
    seen: dict[str, str] = {}
    for where, line, note in jsonl.json_lines(io.BytesIO(data), path):
        with files.gathering(file.bad, where) as known:
            try:
                record = files.parse_json(line, "")
            except InputError as error:
                raise InputError(f"{error}{note}".removeprefix(": ")) from None
            if (item := _question(record, where, known)) is not None:
                files.check_new(item.id, where, seen)
                check(item)
                file.questions.append((where, item))
                file.paragraphs.extend(item.paragraphs)
    if not file.questions and not file.bad:
        raise InputError(f"{path}: holds no answerable question")
    return file


def _question(
    record: Any, where: str, known: dict[str, str]
) -> ParagraphQuestion | None:
    """The question; None if it has no answer."""
    own = known["id"] = files.field(record, "id", str, where)
    if not files.field(record, "answerable", bool, where):
        return None
    question, answer = (
        files.field(record, name, str, where) for name in ("question", "answer")
    )
    for name, text in (("question", question), ("answer", answer)):
        if not text.strip():
            raise InputError(f"{where}.{name} is empty")
    aliases = files.field(record, "answer_aliases", list, where)
    for alias in aliases:
        files.checked(alias, str, f"{where}.answer_aliases: an entry")
    paragraphs = _paragraphs(record, where)
    if not any(each.evidence for each in paragraphs.values()):
        raise InputError(f"{where}: has no supporting paragraph")
    return ParagraphQuestion(
        own,
        question.strip(),
        tuple(dict.fromkeys([answer, *aliases])),
        tuple(paragraphs.values()),
        _steps(record, where, paragraphs),
        own.split("__")[0],
    )


def _paragraphs(record: Any, where: str) -> dict[int, Paragraph]:
    """The paragraphs by their idx; those without text are left out."""
    found: dict[int, Paragraph] = {}
    for each in files.field(record, "paragraphs", list, where):
        inner = f"{where}, a paragraph"
        index = files.field(each, "idx", int, inner)
        title = files.field(each, "title", str, inner)
        text = files.field(each, "paragraph_text", str, inner)
        supports = files.field(each, "is_supporting", bool, inner)
        if index in found:
            raise InputError(f"{where}.paragraphs: two have the idx {index}")
        if text.strip():
            spans = (stripped(text, (0, len(text))),) if supports else ()
            found[index] = Paragraph(title, text, spans)
    return found


def _steps(
    record: Any, where: str, paragraphs: Mapping[int, Paragraph]
) -> tuple[int, ...]:
    """The step of each paragraph: one after the last step whose answer it asks for."""
    steps: list[int] = []
    of_paragraph: dict[int, int] = {}
    for each in files.field(record, "question_decomposition", list, where):
        inner = f"{where}.question_decomposition: a step"
        question = files.field(each, "question", str, inner)
        needs = (int(number) - 1 for number in _REFERENCE.findall(question))
        before = [steps[i] for i in needs if 0 <= i < len(steps)]
        steps.append(max(before, default=-1) + 1)
        if each.get("paragraph_support_idx") is not None:
            index = files.field(each, "paragraph_support_idx", int, inner)
            of_paragraph.setdefault(index, steps[-1])
    held = {index for index, each in paragraphs.items() if each.evidence}
    if not held <= set(of_paragraph):
        return ()  # the order of some is not told
    return tuple(of_paragraph[i] if i in held else -1 for i in paragraphs)
