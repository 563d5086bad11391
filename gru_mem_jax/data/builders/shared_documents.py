"""Documents that several questions are asked on, of one article's paragraphs."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gru_mem_jax.data.builders.composing import Composer, Document
from gru_mem_jax.data.builders.recipe import Length
from gru_mem_jax.data.paragraphs import Paragraph, ParagraphQuestion, Span


class AskedDocument(NamedTuple):
    """A document and the questions on it.

    Attributes:
      item: what the document is composed of: paragraphs, with the evidence of all
        questions.
      questions: in order; of one, `item` is the question.
    """

    item: ParagraphQuestion
    questions: tuple[ParagraphQuestion, ...]

    def evidence(
        self, question: ParagraphQuestion, document: Document
    ) -> tuple[tuple[Span, ...], tuple[int, ...]]:
        """Where the evidence of one of the questions lies in the composed document.

        Returns:
          The spans in characters, and the step of each; no step: it is not known.
        """
        if question is self.item:
            return document.evidence, document.evidence_order
        # The steps of `item` are numbers of its paragraphs.
        placed: dict[int, list[Span]] = defaultdict(list)
        for span, number in zip(document.evidence, document.evidence_order):
            placed[number].append(span)
        own = question.paragraphs[0]
        bare = [each._replace(evidence=()) for each in self.item.paragraphs]
        number = bare.index(own._replace(evidence=()))
        marked = self.item.paragraphs[number].evidence
        spans = tuple(placed[number][marked.index(span)] for span in own.evidence)
        return spans, (0,) * len(spans)


def shared_documents(
    questions: Sequence[ParagraphQuestion],
    most: int,
    composer: Composer,
    length: Length,
    rng: random.Random,
) -> list[AskedDocument]:
    """Documents with up to `most` questions each, which ask every question once.

    The questions on a document are on paragraphs of one article, on different ones as
    far as they fit; its other paragraphs stand beside them, evidence of nothing.

    Args:
      questions: whose first paragraph holds the evidence, and whose others are those of
        its article.
      most: questions on a document.
      composer: of the documents.
      length: of the shortest, which must have room for the evidence.
      rng: of the order.
    """
    articles: dict[str, list[ParagraphQuestion]] = defaultdict(list)
    for question in questions:
        articles[question.paragraphs[0].title].append(question)
    made = [
        document
        for title, own in articles.items()
        for document in _of_article(title, own, most, composer, length, rng)
    ]
    rng.shuffle(made)
    return made


def _of_article(
    title: str,
    questions: Sequence[ParagraphQuestion],
    most: int,
    composer: Composer,
    length: Length,
    rng: random.Random,
) -> Iterator[AskedDocument]:
    """The documents of an article; those with most questions left are asked first."""
    left: dict[str, list[ParagraphQuestion]] = defaultdict(list)
    for question in rng.sample(questions, len(questions)):
        left[question.paragraphs[0].text].append(question)
    number = 0
    while left:
        order = rng.sample(sorted(left), len(left))
        order.sort(key=lambda text: -len(left[text]))
        held: list[Paragraph] = []
        for text in order:
            own = left[text][0].paragraphs[0]
            if not held or composer.has_room([*held, own], length):
                held.append(own)
            if len(held) == most:
                break
        asked: list[ParagraphQuestion] = []
        while len(asked) < most and held:
            held = [each for each in held if each.text in left]
            for each in held[: most - len(asked)]:
                asked.append(left[each.text].pop())
                if not left[each.text]:
                    del left[each.text]
        yield AskedDocument(_composed_of(f"{title}/{number}", asked), tuple(asked))
        number += 1


def _composed_of(name: str, asked: Sequence[ParagraphQuestion]) -> ParagraphQuestion:
    """What a document is composed of on which these are asked."""
    evidence: dict[Paragraph, set[Span]] = defaultdict(set)
    for question in asked:
        own = question.paragraphs[0]
        evidence[own._replace(evidence=())].update(own.evidence)
    held = [each._replace(evidence=tuple(sorted(e))) for each, e in evidence.items()]
    every = (
        each._replace(evidence=())
        for question in asked[:1]
        for each in question.paragraphs
    )
    others = [each for each in dict.fromkeys(every) if each not in evidence]
    return ParagraphQuestion(
        id=name,
        question="",
        answers=(),
        paragraphs=(*held, *others),
        steps=(*range(len(held)), *(-1 for _ in others)),
    )
