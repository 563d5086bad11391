"""Questions on documents among others: qa_1 of SQuAD, qa_2 of HotpotQA."""

import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np

from gru_mem_jax.data import files
from gru_mem_jax.data.builders.placing import EvidencePosition, placing
from gru_mem_jax.data.builders.ruler.fitting import Costs, Draft, number_that_fit
from gru_mem_jax.data.builders.ruler.wording import Prompt, reading_prompt
from gru_mem_jax.data.hotpotqa import read_hotpotqa
from gru_mem_jax.data.paragraphs import Paragraph, ParagraphFile, ParagraphQuestion
from gru_mem_jax.data.squad import read_squad
from gru_mem_jax.errors import InputError

# What RULER's download_qa_dataset.sh fetches.
HOMES = {
    "qa_1": "dev-v2.0.json of https://rajpurkar.github.io/SQuAD-explorer",
    "qa_2": "hotpot_dev_distractor_v1.json of https://hotpotqa.github.io",
}


def read_sources(task: str, paths: Sequence[str]) -> list[ParagraphFile]:
    """The contents of files of SQuAD (qa_1) or HotpotQA (qa_2).

    Raises:
      InputError: there is none, or one is missing or malformed: names file, record and
        field, and where it can be had.
    """
    if not paths:
        raise InputError(
            f"{task} asks questions of a file: set sources to {_home(task)}"
        )
    read = read_squad if task == "qa_1" else read_hotpotqa
    found = []
    for path in paths:
        try:
            found.append(read(path, _check))
        except InputError as error:
            raise InputError(f"{error}; take {_home(task)}") from None
        if bad := found[-1].bad:
            more = f"; {len(bad) - 1} more are bad" if len(bad) > 1 else ""
            raise InputError(f"{bad[0].message(path)}{more}; take {_home(task)}")
    return found


def _home(task: str) -> str:
    return HOMES[task]


def _check(item: ParagraphQuestion) -> None:
    files.check_answers(item.answers, "any")


class ReadingTask:
    """Drafts questions of qa_1 and qa_2: the first of the first file.

    Args:
      task: "qa_1" or "qa_2".
      sources: of the questions, the first, and of documents, all.
      costs: of texts, with the glue "numbered".
      num_questions: of the set.
      seed: of the draws.
      position: where evidence stands, see `placing`.
    """

    glue = "numbered"

    def __init__(
        self,
        task: str,
        sources: Sequence[ParagraphFile],
        costs: Costs,
        *,
        num_questions: int,
        seed: int,
        position: EvidencePosition,
    ):
        self._task, self._costs = task, costs
        self._seed, self._position = seed, position
        self._items = [item for _, item in sources[0].questions[:num_questions]]
        if len(self._items) < num_questions:
            raise InputError(
                f"sources: the first file has {len(self._items)} questions for "
                f"num_questions {num_questions}; lower it, or take {_home(task)}"
            )
        every = (p for source in sources for p in source.paragraphs)
        self.texts = tuple(sorted({self._text(paragraph) for paragraph in every}))
        self._index = {text: i for i, text in enumerate(self.texts)}

    def _text(self, paragraph: Paragraph) -> str:
        """RULER's documents of SQuAD have no titles."""
        if self._task == "qa_1":
            return paragraph.text
        return f"{paragraph.title}\n{paragraph.text}"

    def prompt(self, index: int) -> Prompt:
        """Of a question."""
        return reading_prompt(self._items[index].question)

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens."""
        item = self._items[index]
        name = f"{self._seed}/ruler/{self._task}/{index}"
        # Of SQuAD only the paragraph itself is in every document.
        own = item.paragraphs[:1] if self._task == "qa_1" else item.paragraphs
        # Those with evidence first, for their places.
        ranks = sorted(range(len(own)), key=lambda i: not own[i].evidence)
        fixed = list(dict.fromkeys(self._index[self._text(own[i])] for i in ranks))
        nearer = [self._index[self._text(p)] for p in item.paragraphs[len(own) :]]
        drawn: list[int] = []
        left = room
        for piece in itertools.chain(fixed, self._others(name, fixed, nearer)):
            left -= self._cost(piece)
            if left < 0 and len(drawn) >= len(fixed):
                break
            drawn.append(piece)
        each = list(map(self._cost, drawn))
        count = max(len(fixed), number_that_fit(np.array(each), self._costs, room))
        held = sum(bool(paragraph.evidence) for paragraph in own)
        rng = random.Random(f"{name}/places")
        where = placing(self._position, rng, each[:held], exact=False)
        places = [*where.evidence, *map(where.place, each[held:count])]
        where.check()
        by_place = sorted(range(count), key=places.__getitem__)
        order = sorted(range(count), key=by_place.__getitem__)
        evidence = {}
        for rank, i in enumerate(ranks[:held]):
            shift = len(self._text(own[i])) - len(own[i].text)
            spans = [(a + shift, b + shift) for a, b in own[i].evidence]
            step = item.steps[i] if item.steps else None
            evidence[order[rank]] = 0 if self._task == "qa_1" else step, spans
        return Draft(
            id=item.id,
            prompt=self.prompt(index),
            answers=item.answers,
            pieces=np.array(drawn)[by_place],
            order=np.array(order),
            fixed=len(fixed),
            evidence=evidence,
        )

    def _cost(self, piece: int) -> int:
        return self._costs.of(self.texts[piece])

    def _others(
        self, name: str, fixed: Sequence[int], nearer: Sequence[int]
    ) -> Iterator[int]:
        """Other documents, as RULER: those of the article first, then any.

        When all are used, all but those in `fixed` come again.
        """
        rng = random.Random(name)
        first = list(dict.fromkeys(nearer))
        yield from rng.sample(first, len(first))
        used = {*fixed, *first}
        while True:
            rest = [i for i in range(len(self.texts)) if i not in used]
            if not rest:
                rest = [i for i in range(len(self.texts)) if i not in fixed]
            if not rest:
                return
            yield from rng.sample(rest, len(rest))
            used = set(fixed)
