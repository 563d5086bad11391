"""SQuAD's questions in documents of many paragraphs.

Rajpurkar et al., arXiv 1806.03822 (2.0; files of 1.1 have the same form). As in RULER's
qa_1 (arXiv 2404.06654) a question's paragraph stands among others; here these are of
other articles. Questions without an answer are left out.
"""

import collections
import dataclasses
import functools
import random
from typing import Any, NamedTuple

from gru_mem_jax.data import files
from gru_mem_jax.data.bad_records import BadRecord, Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.paragraphs import (
    Paragraph,
    ParagraphSource,
    Pool,
    Span,
    compose,
)
from gru_mem_jax.data.sentences import whole_sentences
from gru_mem_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SQuADSource(ParagraphSource):
    """SQuAD's answerable questions, reshuffled in every epoch.

    Evidence is the sentence, or the sentences, that the first gold answer lies in. The
    file is read once, when the first example is requested.

    Attributes:
      paragraphs: of a document; all but one are of other articles.
      scoring: of the answers: "exact" and "f1" are SQuAD's own.
      path, seed, form, on_bad_record, part, held_out_share: see `ParagraphSource`.
        Parts of a file share paragraphs, but no question.
    """

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the file cannot be read, or parts have another form: names file,
            place and field.
        """
        data = self._usable
        item = data.questions[files.index_at(position, self.seed, len(data.questions))]
        rng = random.Random(f"{self.seed}/squad/{position}")
        own = Paragraph(item.title, item.text, (item.evidence,))
        document, evidence = compose([own], data.pool, self.paragraphs, self.form, rng)
        return dataclasses.replace(
            self._example(item), document=document, evidence=evidence
        )

    def _example(self, item: "_Question") -> Example:
        return Example(
            id=item.id,
            question=item.question,
            answers=item.answers,
            document="",
            task="squad",
            scoring=self.scoring,
        )

    @functools.cached_property
    def _data(self) -> "_Data":
        value, sha256 = files.read_json(self.path)
        bad: list[BadRecord] = []
        paragraphs, items = _read(value, self.path, self.scoring, bad)
        if not items and not bad:
            raise InputError(f"{self.path}: holds no question with an answer")
        items = self._part_of(items, bad)
        questions = tuple(item for _, item in items)
        records = self._records(items, bad)
        of_title = collections.Counter(paragraph.title for paragraph in paragraphs)
        most = (
            1 + len(paragraphs) - max((of_title[q.title] for q in questions), default=0)
        )
        if most < self.paragraphs and not self._refuses(records):
            raise InputError(
                f"{self.path}: has paragraphs of other articles for documents of at "
                f"most {most}; lower paragraphs {self.paragraphs}, or take a larger "
                "file"
            )
        return _Data(records, sha256, questions, Pool(paragraphs))


class _Question(NamedTuple):
    id: str
    question: str
    answers: tuple[str, ...]
    title: str
    text: str
    evidence: Span


class _Data(NamedTuple):
    records: Records
    sha256: str
    questions: tuple[_Question, ...]
    pool: Pool


def _read(
    value: Any, path: str, scoring: str, bad: list[BadRecord]
) -> tuple[list[Paragraph], list[tuple[str, _Question]]]:
    """All paragraphs, and (where, question) of the questions with an answer."""
    paragraphs: list[Paragraph] = []
    items: list[tuple[str, _Question]] = []
    seen: dict[str, str] = {}
    for a, article in enumerate(files.field(value, "data", list, f"{path}: the file")):
        where = f"article {a}"
        with files.gathering(bad, where):
            title = files.field(article, "title", str, where)
            for p, each in enumerate(files.field(article, "paragraphs", list, where)):
                inner = f"{where}, paragraph {p}"
                with files.gathering(bad, inner):
                    text = files.field(each, "context", str, inner)
                    records = files.field(each, "qas", list, inner)
                    paragraphs.append(Paragraph(title, text))
                    for q, record in enumerate(records):
                        here = f"{inner}, question {q}"
                        with files.gathering(bad, here) as known:
                            item = _question(record, paragraphs[-1], here, known)
                            if item is not None:
                                files.check_new(item.id, here, seen)
                                files.check_answers(item.answers, scoring)
                                items.append((here, item))
    return paragraphs, items


def _question(
    record: Any, paragraph: Paragraph, where: str, known: dict[str, str]
) -> _Question | None:
    """The question; None if it has no answer."""
    answers = files.field(record, "answers", list, where)
    if not answers or record.get("is_impossible") is True:
        return None
    known["id"] = files.field(record, "id", str, where)
    gold = [files.field(each, "text", str, f"{where}, an answer") for each in answers]
    first = f"{where}, the first answer"
    start = files.field(answers[0], "answer_start", int, first)
    end = start + len(gold[0])
    if start < 0 or not gold[0] or paragraph.text[start:end] != gold[0]:
        raise InputError(f"{first} is not in the paragraph at character {start}")
    question = files.field(record, "question", str, where)
    if not question.strip():
        raise InputError(f"{where}.question is empty")
    return _Question(
        known["id"],
        question.strip(),
        tuple(dict.fromkeys(gold)),
        paragraph.title,
        paragraph.text,
        whole_sentences(paragraph.text, (start, end)),
    )
