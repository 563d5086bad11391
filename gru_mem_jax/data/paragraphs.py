"""Long documents of many short paragraphs, some of which hold the answer."""

import collections
import dataclasses
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple

from gru_mem_jax.data import files
from gru_mem_jax.data.bad_records import BadRecord, Records
from gru_mem_jax.data.builders.recipe import heading
from gru_mem_jax.data.example import Example, Scoring
from gru_mem_jax.data.scoring import SCORERS
from gru_mem_jax.records import check_choice, check_int

Form = Literal["numbered", "plain"]
FORMS: tuple[Form, ...] = ("numbered", "plain")
Span = tuple[int, int]


class Paragraph(NamedTuple):
    """A paragraph of an article.

    Attributes:
      title: of the article.
      text: without the title.
      evidence: (start, end) in characters of `text`.
    """

    title: str
    text: str
    evidence: tuple[Span, ...] = ()


class ParagraphQuestion(NamedTuple):
    """A question of a file of questions on paragraphs.

    Attributes:
      id, question, answers: see `Example`.
      paragraphs: that the file gives with the question; some hold evidence.
      steps: of each paragraph, the step at which its evidence is needed, from 0, see
        `Example.evidence_order`; -1 without evidence. Empty: the order is not known.
      kind: of the question, as the file names it; "" if it does not.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    paragraphs: tuple[Paragraph, ...]
    steps: tuple[int, ...] = ()
    kind: str = ""


class ParagraphFile(NamedTuple):
    """What is read of such a file.

    Attributes:
      questions: (place in the file, question), in its order.
      paragraphs: all, in its order; equal ones may occur more than once.
      bad: records that cannot be used.
      sha256: of the file.
    """

    questions: list[tuple[str, ParagraphQuestion]]
    paragraphs: list[Paragraph]
    bad: list[BadRecord]
    sha256: str


# Refuses a question by an InputError, for reasons of its own.
Check = Callable[[ParagraphQuestion], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParagraphSource(files.FileSource):
    """Settings of a source whose documents are made of a file's paragraphs.

    Attributes:
      path: of an official JSON file.
      paragraphs: of a document.
      seed: of the orders and of what is drawn.
      form: how paragraphs are written, see `compose`.
      scoring: of the answers, see `data.scoring`.
      on_bad_record, part, held_out_share: see `files.FileSource`.
    """

    _task: ClassVar[str]  # of the examples

    paragraphs: int = 200
    form: str = "numbered"
    scoring: Scoring = "exact"

    def __post_init__(self):
        super().__post_init__()
        check_int("paragraphs", self.paragraphs, 1, 1 << 20)
        check_choice("form", self.form, FORMS)
        check_choice("scoring", self.scoring, tuple(SCORERS))

    def _example(self, item: ParagraphQuestion) -> Example:
        """A question without its document, which depends on the position."""
        return Example(
            id=item.id,
            question=item.question,
            answers=item.answers,
            document="",
            task=self._task,
            scoring=self.scoring,
        )

    def _records(
        self, items: Sequence[tuple[str, ParagraphQuestion]], bad: Sequence[BadRecord]
    ) -> Records:
        good = tuple((where, self._example(item)) for where, item in items)
        return Records(name=self.path, good=good, bad=tuple(bad), composed=True)


class Pool:
    """Paragraphs to draw from; their evidence is removed.

    Args:
      paragraphs: in an order that is the same on any machine.
    """

    def __init__(self, paragraphs: Iterable[Paragraph]):
        self._paragraphs = tuple(each._replace(evidence=()) for each in paragraphs)
        self._of_title = collections.Counter(each.title for each in self._paragraphs)

    def __len__(self) -> int:
        return len(self._paragraphs)

    def draw(
        self, rng: random.Random, count: int, avoid: Collection[str]
    ) -> list[Paragraph]:
        """`count` different paragraphs, or all if there are fewer.

        Args:
          rng: of the draw.
          count: how many.
          avoid: titles that are not drawn.
        """
        # Enough to have `count` left after those with these titles are removed.
        avoid = set(avoid)
        many = min(len(self), count + sum(self._of_title[title] for title in avoid))
        drawn = (self._paragraphs[i] for i in rng.sample(range(len(self)), many))
        return [each for each in drawn if each.title not in avoid][:count]


class ParagraphData(NamedTuple):
    """The contents of a source's file.

    Attributes:
      records: of the source's part, without documents.
      sha256: of the file.
      questions: the good ones of the part.
      pool: that other paragraphs are drawn from.
    """

    records: Records
    sha256: str
    questions: tuple[ParagraphQuestion, ...]
    pool: Pool


def compose(
    own: Sequence[Paragraph],
    pool: Pool,
    count: int,
    form: str,
    rng: random.Random,
    avoid: Collection[str] = (),
) -> tuple[str, tuple[Span, ...]]:
    """A document of `count` shuffled paragraphs: some given ones and drawn others.

    Args:
      own: always included, at most `count`.
      pool: of the others.
      count: paragraphs in all; fewer if the pool is too small.
      form: "numbered": a line "Document 3:" above each title, as MemAgent does;
        "plain": title and text. An empty line separates paragraphs.
      rng: of the draw and the order.
      avoid: titles that are not drawn, beside those of `own`.

    Returns:
      The document, and the spans of its evidence, in order.
    """
    taken = {*avoid, *(paragraph.title for paragraph in own)}
    every = [*own, *pool.draw(rng, max(0, count - len(own)), taken)]
    rng.shuffle(every)
    parts: list[str] = []
    spans: list[Span] = []
    offset = 0
    for number, paragraph in enumerate(every, 1):
        head = heading(number) if form == "numbered" else ""
        head += f"{paragraph.title}\n"
        start = offset + len(head)
        spans += [(start + a, start + b) for a, b in paragraph.evidence]
        parts.append(head + paragraph.text)
        offset += len(parts[-1]) + 2
    return "\n\n".join(parts), tuple(sorted(spans))
