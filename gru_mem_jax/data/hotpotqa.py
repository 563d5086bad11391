"""HotpotQA's questions in documents of many paragraphs.

Yang et al., arXiv 1809.09600. The official files (hotpot_train_v1.1.json,
hotpot_dev_distractor_v1.json) are lists of records with _id, question, answer,
supporting_facts ([title, index of a sentence]) and context ([title, [sentences]]).
MemAgent (arXiv 2507.02259) and GRU-Mem put a record's paragraphs among others of the
same file, 200 in all for training, and shuffle them.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from gru_mem_jax.data import files
from gru_mem_jax.data.example import Example, Scoring
from gru_mem_jax.data.json_list import JsonList
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
from gru_mem_jax.data.sentences import stripped
from gru_mem_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class HotpotQASource(ParagraphSource):
    """HotpotQA's questions, reshuffled in every epoch.

    The file is read once, when the first example is requested. A document's other
    paragraphs are drawn from all records of the file; none has a title of the record's
    own. They depend on seed and position, and so differ from epoch to epoch. A part of
    the file is read as a file of only those records.

    Attributes:
      path: of an official JSON file, with the paragraphs of the distractor setting.
      paragraphs: of a document. If the record has more, those with evidence are kept.
      seed, form, on_bad_record, part, held_out_share: see `ParagraphSource`.
      scoring: of the answers: "equivalent" is what MemAgent is trained with, "boxed"
        what it is evaluated with; "exact" and "hotpotqa_f1" are HotpotQA's own.
    """

    _task: ClassVar[str] = "hotpotqa"

    scoring: Scoring = "equivalent"

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the file cannot be read, or records have another form: names
            file, record and field.
        """
        data = self._usable
        count = len(data.questions)
        record = data.questions[files.index_at(position, self.seed, count)]
        rng = random.Random(f"{self.seed}/hotpotqa/{position}")
        own = record.paragraphs
        if len(own) > self.paragraphs:
            # Sorting is stable: in the order of the file, evidence first.
            own = sorted(own, key=lambda p: not p.evidence)[: self.paragraphs]
        document, evidence = compose(
            own,
            data.pool,
            self.paragraphs,
            self.form,
            rng,
            avoid=[paragraph.title for paragraph in record.paragraphs],
        )
        return dataclasses.replace(
            self._example(record), document=document, evidence=evidence
        )

    @functools.cached_property
    def _data(self) -> ParagraphData:
        file = read_hotpotqa(self.path, self._check)
        items = self._part_of(file.questions, file.bad)
        records = self._records(items, file.bad)
        of_title: dict[str, Paragraph] = {}
        for _, item in items:
            for paragraph in item.paragraphs:
                of_title.setdefault(paragraph.title, paragraph)
        if len(of_title) < self.paragraphs and not self._refuses(records):
            part = "" if self.part == "all" else f", part {self.part!r}"
            raise InputError(
                f"{self.path}{part}: has {len(of_title)} paragraphs of different "
                f"titles, too few for documents of {self.paragraphs}; lower "
                "paragraphs, or take a larger file"
            )
        questions = tuple(item for _, item in items)
        return ParagraphData(records, file.sha256, questions, Pool(of_title.values()))

    def _check(self, record: ParagraphQuestion) -> None:
        files.check_answers(record.answers, self.scoring)
        needed = sum(bool(paragraph.evidence) for paragraph in record.paragraphs)
        if needed > self.paragraphs:
            raise InputError(
                f"paragraphs is {self.paragraphs}, but the evidence of record "
                f"{record.id!r:.60} lies in {needed}"
            )


def read_hotpotqa(path: str, check: Check) -> ParagraphFile:
    """The records of an official file; the order of evidence by `evidence_steps`.

    Args:
      path: of the JSON file.
      check: of each record.

    Raises:
      InputError: the file cannot be read, is not JSON, or holds no record.
    """
    return read_list(path, _question, check)


def read_list(
    path: str,
    read: Callable[[Any, str, dict[str, str]], ParagraphQuestion],
    check: Check,
) -> ParagraphFile:
    """The records of a JSON file that is a list of them.

    Args:
      path: of the file.
      read: a record, its place, and a dict for its id to the question.
      check: of each question.

    Raises:
      InputError: as `read_hotpotqa`.
    """
    file = ParagraphFile([], [], [], "")
    seen: dict[str, str] = {}
    for index, value in enumerate(records := JsonList(path)):
        where = f"record {index}"
        with files.gathering(file.bad, where) as known:
            item = read(value, where, known)
            files.check_new(item.id, where, seen)
            check(item)
            file.questions.append((where, item))
            file.paragraphs.extend(item.paragraphs)
    if not file.questions and not file.bad:
        raise InputError(f"{path}: holds no record")
    return file._replace(sha256=records.sha256())


def _question(value: Any, where: str, known: dict[str, str]) -> ParagraphQuestion:
    item = read_record(value, where, known)
    return item._replace(steps=evidence_steps(item))


def read_record(value: Any, where: str, known: dict[str, str]) -> ParagraphQuestion:
    """A record, without the order of its evidence.

    Args:
      value: of the JSON.
      where: its place in the file.
      known: receives the "id".

    Raises:
      InputError: a field is missing or of another form; names it.
    """
    known["id"] = files.field(value, "_id", str, where)
    texts = [files.field(value, n, str, where) for n in ("_id", "question", "answer")]
    for name, text in zip(("question", "answer"), texts[1:]):
        if not text.strip():
            raise InputError(f"{where}.{name} is empty")
    facts: dict[str, list[int]] = {}
    for fact in files.field(value, "supporting_facts", list, where):
        title, index = _pair(fact, str, int, f"{where}.supporting_facts")
        facts.setdefault(title, []).append(index)
    articles: dict[str, list[str]] = {}
    # Of two articles with one title the first is used: facts name only titles.
    for article in files.field(value, "context", list, where):
        title, sentences = _pair(article, str, list, f"{where}.context")
        for sentence in sentences:
            files.checked(sentence, str, f"{where}.context: a sentence")
        articles.setdefault(title, sentences)
    for title in facts:
        if title not in articles:
            raise InputError(
                f"{where}: the supporting paragraph {title!r} is not in its context; "
                "take a file of the distractor setting"
            )
    paragraphs = tuple(
        _paragraph(title, sentences, facts.get(title))
        for title, sentences in articles.items()
        if "".join(sentences).strip()
    )
    if not any(paragraph.evidence for paragraph in paragraphs):
        raise InputError(f"{where}: has no supporting fact")
    kind = value.get("type")
    own, question, answer = texts
    return ParagraphQuestion(
        own,
        question,
        (answer,),
        paragraphs,
        kind=kind if isinstance(kind, str) else "",
    )


def evidence_steps(item: ParagraphQuestion) -> tuple[int, ...]:
    """The step at which each paragraph is needed, as far as the text tells.

    The official file does not tell it. The paragraphs of a comparison are needed
    together. Of the two of a bridge question one is needed first if

    - its evidence names the other's title, which the question does not, and
    - the answer is in the other's text alone, which does not name the first's title.

    If this holds for neither order, or for both, the order is not known: a third of
    bridge questions have one.

    Returns:
      As `ParagraphQuestion.steps`.
    """
    held = [i for i, paragraph in enumerate(item.paragraphs) if paragraph.evidence]
    if item.kind == "comparison":
        return tuple(0 if p.evidence else -1 for p in item.paragraphs)
    if item.kind != "bridge" or len(held) != 2:
        return ()
    found = [
        (first, second)
        for first, second in (held, held[::-1])
        if _leads(item, item.paragraphs[first], item.paragraphs[second])
    ]
    if len(found) != 1:
        return ()
    order = {index: step for step, index in enumerate(found[0])}
    return tuple(order.get(i, -1) for i in range(len(item.paragraphs)))


def _leads(item: ParagraphQuestion, first: Paragraph, second: Paragraph) -> bool:
    evidence = " ".join(first.text[a:b] for a, b in first.evidence)
    (answer,) = item.answers
    return (
        _names(evidence, _name(second))
        and not _names(item.question, _name(second))
        and not _names(second.text, _name(first))
        and _names(second.text, answer)
        and not _names(first.text, answer)
    )


def _name(paragraph: Paragraph) -> str:
    """The title without what tells articles of one name apart: "Musa (film)"."""
    return paragraph.title.split(" (")[0]


def _names(text: str, name: str) -> bool:
    """Whether a text has a name, as whole words, in any case."""
    text, name = text.lower(), name.lower().strip()
    at = text.find(name) if name else -1
    while at >= 0:
        end = at + len(name)
        if not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum()):
            return True
        at = text.find(name, at + 1)
    return False


def _paragraph(
    title: str, sentences: Sequence[str], facts: Sequence[int] | None
) -> Paragraph:
    """Sentences contain their spaces. Official files have facts beyond the last
    sentence, and empty ones; if no other fact is left, the paragraph is evidence."""
    text = "".join(sentences)
    spans = []
    offset = 0
    for index, sentence in enumerate(sentences):
        if index in (facts or ()) and sentence.strip():
            spans.append(stripped(text, (offset, offset + len(sentence))))
        offset += len(sentence)
    if facts and not spans:
        spans = [stripped(text, (0, len(text)))]
    return Paragraph(title, text, tuple(spans))


def _pair(value: Any, first: type, second: type, where: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{where}: expected pairs, got {value!r:.80}")
    return (
        files.checked(value[0], first, f"{where}: the first of a pair"),
        files.checked(value[1], second, f"{where}: the second of a pair"),
    )
