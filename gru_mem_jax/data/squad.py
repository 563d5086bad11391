"""SQuAD's questions in documents of many paragraphs.

Rajpurkar et al., arXiv 1806.03822 (2.0; files of 1.1 have the same form). As in RULER's
qa_1 (arXiv 2404.06654) a question's paragraph stands among others; here these are of
other articles. Questions without an answer are left out.
"""

import collections
import dataclasses
import functools
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gru_mem_jax.data import files
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.paragraphs import (
    Paragraph,
    ParagraphSource,
    Pool,
    Span,
    compose,
)
from gru_mem_jax.errors import InputError

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SQuADSource(ParagraphSource):
    """SQuAD's answerable questions, in an order of its own in every epoch.

    Evidence is the sentence that holds the first gold answer, or the sentences that it
    lies in. The file is read when the first example is asked for, once.

    Attributes:
      paragraphs: of a document; all but one are of other articles.
      scoring: of the answers: "exact" and "f1" are SQuAD's own.
      path, seed, form: see `ParagraphSource`.
    """

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the file cannot be read, or is not of SQuAD's form: names file,
            place and field.
        """
        data = self._data
        item = data.questions[files.index_at(position, self.seed, len(data.questions))]
        rng = random.Random(f"{self.seed}/squad/{position}")
        own = Paragraph(item.title, item.text, (item.evidence,))
        document, evidence = compose([own], data.pool, self.paragraphs, self.form, rng)
        return Example(
            id=item.id,
            question=item.question,
            answers=item.answers,
            document=document,
            evidence=evidence,
            task="squad",
            scoring=self.scoring,
        )

    def fingerprint(self) -> str:
        """sha256 of the file: equal files give equal examples."""
        return self._data.sha256

    @functools.cached_property
    def _data(self) -> "_Data":
        value, sha256 = files.read_json(self.path)
        paragraphs: list[Paragraph] = []
        questions: list[_Question] = []
        for title, text, answered in _paragraphs(value, self.path):
            paragraphs.append(Paragraph(title, text))
            questions += answered
            for each in answered:
                where = f"{self.path}: question {each.id!r}"
                files.check_answers(each.answers, self.scoring, where)
        if not questions:
            raise InputError(f"{self.path}: holds no question with an answer")
        if len({question.id for question in questions}) < len(questions):
            raise InputError(f"{self.path}: has two questions of one id")
        of_title = collections.Counter(paragraph.title for paragraph in paragraphs)
        most = 1 + len(paragraphs) - max(of_title[q.title] for q in questions)
        if most < self.paragraphs:
            raise InputError(
                f"{self.path}: has paragraphs of other articles for documents of at "
                f"most {most}; lower paragraphs {self.paragraphs}, or take a larger "
                "file"
            )
        return _Data(tuple(questions), Pool(paragraphs), sha256)


class _Question(NamedTuple):
    id: str
    question: str
    answers: tuple[str, ...]
    title: str
    text: str
    evidence: Span


class _Data(NamedTuple):
    questions: tuple[_Question, ...]
    pool: Pool
    sha256: str


def _paragraphs(value: Any, path: str) -> Iterator[tuple[str, str, list[_Question]]]:
    """Title, text and questions with an answer of each paragraph."""
    for a, article in enumerate(files.field(value, "data", list, f"{path}: the file")):
        where = f"{path}: article {a}"
        title = files.field(article, "title", str, where)
        for p, each in enumerate(files.field(article, "paragraphs", list, where)):
            inner = f"{where}, paragraph {p}"
            text = files.field(each, "context", str, inner)
            found = []
            for q, record in enumerate(files.field(each, "qas", list, inner)):
                here = f"{inner}, question {q}"
                answers = files.field(record, "answers", list, here)
                if answers and record.get("is_impossible") is not True:
                    found.append(_question(record, answers, title, text, here))
            yield title, text, found


def _question(
    record: Any, answers: list[Any], title: str, text: str, where: str
) -> _Question:
    gold = [files.field(each, "text", str, f"{where}, an answer") for each in answers]
    first = f"{where}, the first answer"
    start = files.field(answers[0], "answer_start", int, first)
    end = start + len(gold[0])
    if start < 0 or not gold[0] or text[start:end] != gold[0]:
        raise InputError(f"{first} is not in the paragraph at character {start}")
    question = files.field(record, "question", str, where)
    if not question.strip():
        raise InputError(f"{where}.question is empty")
    return _Question(
        files.field(record, "id", str, where),
        question.strip(),
        tuple(dict.fromkeys(gold)),
        title,
        text,
        _sentences(text, (start, end)),
    )


def _sentences(text: str, span: Span) -> Span:
    """The sentences that a span of text lies in."""
    start, end = 0, len(text)
    for match in _SENTENCE_END.finditer(text):
        if match.end() <= span[0]:
            start = match.end()
        elif match.start() + 1 >= span[1]:
            end = len(text[: match.end()].rstrip())
            break
    return start, end
