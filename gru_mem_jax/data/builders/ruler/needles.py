"""Needle tasks: find the values of keys that are hidden in a haystack."""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.data.builders.placing import EvidencePosition
from gru_mem_jax.data.builders.ruler.fitting import (
    Costs,
    Draft,
    permutation,
    spread_order,
)
from gru_mem_jax.data.builders.ruler.haystack import Essay, Haystack
from gru_mem_jax.data.builders.ruler.wording import (
    NOISE,
    Needles,
    Prompt,
    needle,
    needle_prompt,
)
from gru_mem_jax.data.builders.ruler.words import Names
from gru_mem_jax.errors import InputError

# Depths at which RULER puts needles into an essay, in percent of its sentences:
# 40 from 0 to 100, rounded half to even.
DEPTHS = tuple(round(100 * i / 39) for i in range(40))


@dataclasses.dataclass(frozen=True)
class Hidden:
    """What a document hides, for each of its Q questions.

    Attributes:
      prompts: of the questions.
      answers: of each question the values in question.
      needles: sentences: those of the first question, of the second, ..., the others.
      asked: how many of them are in one question.
    """

    prompts: tuple[Prompt, ...]
    answers: tuple[tuple[str, ...], ...]
    needles: tuple[str, ...]
    asked: int


def hide(task: Needles, names: Names, rng: random.Random, questions: int = 1) -> Hidden:
    """The keys, values and needles of a document.

    Args:
      task: its settings, with `questions` times `num_queries` keys or more.
      names, rng: of the draws.
      questions: on the document, each about keys of its own.
    """
    count = max(task.num_keys, task.num_queries)
    keys = [names.draw(task.keys) for _ in range(count)]
    values = {
        key: [names.draw(task.values) for _ in range(task.num_values)] for key in keys
    }
    asked = rng.sample(keys, questions * task.num_queries)
    others = [key for key in keys if key not in asked]
    several = task.num_queries * task.num_values > 1
    size = task.num_queries
    each = [asked[i : i + size] for i in range(0, len(asked), size)]
    return Hidden(
        tuple(needle_prompt(task.values, own, several) for own in each),
        tuple(tuple(value for key in own for value in values[key]) for own in each),
        tuple(needle(task.values, k, v) for k in asked + others for v in values[k]),
        task.num_queries * task.num_values,
    )


def places(
    rng: random.Random,
    population: Sequence[int],
    asked: int,
    others: int,
    rule: EvidencePosition,
) -> tuple[list[int], list[int]]:
    """Different places for the needles in question and for the others, unsorted.

    Args:
      rng: of the draw.
      population: all places, ascending.
      asked, others: how many.
      rule: of `placing.EvidencePosition`, for those in question; others are uniform.
    """
    if rule == "uniform":
        drawn = rng.sample(population, asked + others)
        return drawn[:asked], drawn[asked:]
    if rule == "spread":
        cuts = [len(population) * i // asked for i in range(asked + 1)]
        mine = [rng.choice(population[a:b]) for a, b in itertools.pairwise(cuts)]
        rng.shuffle(mine)
    else:
        share = max(asked, len(population) // 5)
        first = rule == "first_20"
        mine = rng.sample(population[:share] if first else population[-share:], asked)
    left = sorted(set(population) - set(mine))
    return mine, rng.sample(left, others)


class NeedleTask:
    """Drafts questions of a needle task.

    Args:
      task: its settings.
      essay: where `task.haystack` is "essay".
      costs: of texts, with the glue "words" for an essay, else "lines".
      num_questions: of the set.
      seed: of the draws.
      rule: of `places`.
      room: for the texts of the longest document, at most.
      per_document: questions on each document, which follow one another.
      random_start: whether a document's essay begins anywhere, and not with its first
        sentence.
    """

    def __init__(
        self,
        task: Needles,
        essay: Essay | None,
        costs: Costs,
        *,
        num_questions: int,
        seed: int,
        rule: EvidencePosition,
        room: int,
        per_document: int = 1,
        random_start: bool = False,
    ):
        self._task, self._seed, self._rule, self._costs = task, seed, rule, costs
        self._per_document, self._random_start = per_document, random_start
        self.glue = "lines" if essay is None else "words"
        taken: set[str] = set()
        self._hidden = [
            hide(task, Names(rng, taken), rng, per_document)
            for i in range(-(-num_questions // per_document))
            for rng in [random.Random(f"{seed}/ruler/hidden/{i}")]
        ]
        haystack: Iterable[str]
        if essay is not None:
            haystack = essay.sentences
        elif task.haystack == "noise":
            haystack = [NOISE]
        else:
            haystack = self._distractors(taken, room)
        self._haystack = Haystack(tuple(haystack), costs)
        # Of each distinct text the index in the pool; an essay's gaps are empty.
        own = ("",) if essay is not None else ()
        texts = dict.fromkeys((*own, *self._haystack.texts))
        for hidden in self._hidden:
            texts.update(dict.fromkeys(hidden.needles))
        self._gap = 0 if essay is not None else None
        self.texts = tuple(texts)
        self._index = {text: i for i, text in enumerate(self.texts)}
        self._cycle = [self._index[text] for text in self._haystack.texts]
        self.tokens = self._haystack.tokens

    def _distractors(self, taken: set[str], room: int) -> list[str]:
        """Needles of other keys: all questions share them, each in an order of its own.

        RULER draws new ones for each question, and may draw a key that is in question.
        """
        rng = random.Random(f"{self._seed}/ruler/distractors")
        names = Names(rng, taken)
        texts = []
        total = 0
        while total <= room:
            key = names.draw(self._task.keys)
            value = names.draw(self._task.values)
            texts.append(needle(self._task.values, key, value))
            total += self._costs.of(texts[-1])
        return texts

    def prompt(self, index: int) -> Prompt:
        """Of a question."""
        document, question = divmod(index, self._per_document)
        return self._hidden[document].prompts[question]

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens.

        Raises:
          InputError: there is no room for a needle in each place.
        """
        number, question = divmod(index, self._per_document)
        hidden = self._hidden[number]
        rng = random.Random(f"{self._seed}/ruler/places/{number}")
        needles = [self._index[text] for text in hidden.needles]
        left = room - sum(map(self._costs.of, hidden.needles))
        if self._gap is not None:
            left -= len(needles) + 1
        start = 0
        if self._random_start:
            anywhere = random.Random(f"{self._seed}/ruler/start/{number}")
            start = anywhere.randrange(len(self._cycle))
        count = self._haystack.most(left, start)
        if count < len(needles):
            raise InputError(
                f"the length leaves {max(0, left)} tokens for a haystack of which "
                f"{len(needles)} texts are needed, one a needle; take a longer one"
            )
        items = np.resize(np.roll(self._cycle, -start), count)
        if self._task.haystack == "needles":
            items = items[permutation(f"{self._seed}/ruler/haystack/{number}", count)]
        population: Sequence[int] = range(count) if self._gap is None else DEPTHS
        first, of_all = hidden.asked * question, hidden.asked * self._per_document
        asked, others = places(
            rng, population, of_all, len(needles) - of_all, self._rule
        )
        drawn = [*asked, *others]
        if self._gap is not None:
            drawn = [count * depth // 100 for depth in drawn]
        return hidden_in(
            items,
            sorted(zip(drawn, needles, range(len(needles)))),
            dict.fromkeys(range(first, first + hidden.asked), 0),
            id=str(index),
            prompt=hidden.prompts[question],
            answers=hidden.answers[question],
            gap=self._gap,
            lengths=[len(text) for text in hidden.needles],
        )


def hidden_in(
    items: Sequence[int] | np.ndarray,
    needles: Sequence[tuple[int, int, int]],
    steps: Mapping[int, int | None],
    *,
    id: str,
    prompt: Prompt,
    answers: tuple[str, ...],
    lengths: Sequence[int],
    gap: int | None = None,
) -> Draft:
    """The draft of a haystack with needles.

    Args:
      items: of the haystack, indices in the pool.
      needles: (how many items precede it, index in the pool, number of the needle).
      steps: of the needles that are evidence, by number; None: not known.
      id, prompt, answers, gap: see `Draft`.
      lengths: of the needles by number, in characters, without blanks at the end.
    """
    borders = [before for before, _, _ in needles]
    pieces = np.insert(np.asarray(items), borders, [piece for _, piece, _ in needles])
    # Each needle stands behind the items and the needles before it.
    fixed = np.array(borders, np.int64) + np.arange(len(needles))
    evidence: dict[int, tuple[int | None, list[Span]]] = {
        place: (steps[number], [(0, lengths[number])])
        for place, (_, _, number) in zip(fixed.tolist(), needles)
        if number in steps
    }
    # Haystack items in order of rank, at their places between the needles.
    places_of = np.delete(np.arange(len(pieces)), fixed)
    order = np.concatenate([fixed, places_of[spread_order(borders, len(items))]])
    return Draft(id, prompt, answers, pieces, order, len(needles), evidence, gap)
