"""SQuAD's questions in documents of many paragraphs.

Rajpurkar et al., arXiv 1806.03822 (2.0; files of 1.1 have the same form). As in RULER's
qa_1 (arXiv 2404.06654) a question's paragraph stands among others; here these are of
other articles. Questions without an answer are left out.
"""

import collections
import dataclasses
import functools
import random
from typing import Any, ClassVar

from gru_mem_jax.data import files
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.paragraphs import (
    Check,
    Paragraph,
    ParagraphData,
    ParagraphFile,
    ParagraphQuestion,
    ParagraphSource,
    Pool,
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

    _task: ClassVar[str] = "squad"

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the file cannot be read, or parts have another form: names file,
            place and field.
        """
        data = self._usable
        item = data.questions[files.index_at(position, self.seed, len(data.questions))]
        rng = random.Random(f"{self.seed}/squad/{position}")
        own = item.paragraphs[:1]
        document, evidence = compose(own, data.pool, self.paragraphs, self.form, rng)
        return dataclasses.replace(
            self._example(item), document=document, evidence=evidence
        )

    @functools.cached_property
    def _data(self) -> ParagraphData:
        def check(item: ParagraphQuestion) -> None:
            files.check_answers(item.answers, self.scoring)

        file = read_squad(self.path, check)
        items = self._part_of(file.questions, file.bad)
        questions = tuple(item for _, item in items)
        records = self._records(items, file.bad)
        titles = collections.Counter(each.title for each in file.paragraphs)
        of_title = (titles[item.paragraphs[0].title] for item in questions)
        most = 1 + len(file.paragraphs) - max(of_title, default=0)
        if most < self.paragraphs and not self._refuses(records):
            raise InputError(
                f"{self.path}: has paragraphs of other articles for documents of at "
                f"most {most}; lower paragraphs {self.paragraphs}, or take a larger "
                "file"
            )
        return ParagraphData(records, file.sha256, questions, Pool(file.paragraphs))


def read_squad(path: str, check: Check) -> ParagraphFile:
    """The questions of an official file that have an answer.

    A question's first paragraph holds its evidence; the others of its article follow.

    Args:
      path: of the JSON file.
      check: of each question.

    Raises:
      InputError: the file cannot be read, is not JSON or not of this form, or holds no
        question with an answer.
    """
    value, sha256 = files.read_json(path)
    file = ParagraphFile([], [], [], sha256)
    seen: dict[str, str] = {}
    for a, article in enumerate(files.field(value, "data", list, f"{path}: the file")):
        with files.gathering(file.bad, where := f"article {a}"):
            _read_article(article, where, file, seen, check)
    if not file.questions and not file.bad:
        raise InputError(f"{path}: holds no question with an answer")
    return file


def _read_article(
    article: Any, where: str, file: ParagraphFile, seen: dict[str, str], check: Check
) -> None:
    """Adds an article's paragraphs and questions to those of the file."""
    title = files.field(article, "title", str, where)
    paragraphs: list[Paragraph] = []
    found: list[tuple[str, ParagraphQuestion]] = []
    for p, each in enumerate(files.field(article, "paragraphs", list, where)):
        inner = f"{where}, paragraph {p}"
        with files.gathering(file.bad, inner):
            text = files.field(each, "context", str, inner)
            records = files.field(each, "qas", list, inner)
            paragraphs.append(Paragraph(title, text))
            for q, record in enumerate(records):
                here = f"{inner}, question {q}"
                with files.gathering(file.bad, here) as known:
                    item = _question(record, paragraphs[-1], here, known)
                    if item is not None:
                        files.check_new(item.id, here, seen)
                        check(item)
                        found.append((here, item))
    file.paragraphs.extend(paragraphs)
    for here, item in found:
        (own,) = item.paragraphs
        others = [each for each in paragraphs if each.text != own.text]
        steps = (0, *(-1 for _ in others))
        item = item._replace(paragraphs=(own, *others), steps=steps)
        file.questions.append((here, item))


def _question(
    record: Any, paragraph: Paragraph, where: str, known: dict[str, str]
) -> ParagraphQuestion | None:
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
    evidence = whole_sentences(paragraph.text, (start, end))
    own = paragraph._replace(evidence=(evidence,))
    answers = tuple(dict.fromkeys(gold))
    return ParagraphQuestion(known["id"], question.strip(), answers, (own,))
