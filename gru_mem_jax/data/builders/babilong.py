"""BABILong (Kuratov et al., arXiv 2406.10149): bAbI's facts in a long text.

The user names a file of bAbI and a text. docs/differences.md says what differs from
github.com/booydar/babilong (Apache-2.0).
"""

import dataclasses
import functools
import os
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.babi import WHERE, Stories, Story, answers, read_babi
from gru_mem_jax.data.builders.placing import EVIDENCE_POSITIONS, EvidencePosition
from gru_mem_jax.data.builders.recipe import (
    Length,
    StoredQuestion,
    check_counting,
)
from gru_mem_jax.data.builders.ruler.documents import Documents
from gru_mem_jax.data.builders.ruler.fitting import (
    Costs,
    Draft,
    Room,
    tokenizer_mark,
)
from gru_mem_jax.data.builders.ruler.haystack import Essay, Haystack, read_essay
from gru_mem_jax.data.builders.ruler.needles import hidden_in
from gru_mem_jax.data.builders.ruler.wording import Prompt
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_int, plain_numbers

# Shorter sentences of the text are left out, as in BABILong.
_LEAST_TOKENS = 10
# A length holds no story of more than so many facts a token, as in BABILong.
_TOKENS_OF_A_FACT = 8
TASKS = tuple(f"qa{number}" for number in range(1, 21))
# Of these tasks the file lists facts in the order in which they are needed: the fact
# about the thing, then where its carrier was.
_ORDERED = ("qa2", "qa3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Babilong:
    """Questions of a file of bAbI, their facts among the sentences of a text.

    A length in tokens is that of the document. The facts keep their order, and stand
    anywhere between the text's sentences; each question has another part of the text,
    which is repeated where it ends. Evidence is the facts that the file names.

    Attributes:
      sources: one file of bAbI, such as qa1_single-supporting-fact_test.txt.
      haystack: path of a text, plain or JSON with a field "text".
      lengths: in tokens or chunks.
      encoder: the tokenizer that lengths are counted with; required.
      task: "qa1" to "qa20"; None, as the file is named.
      chunk_size: tokens, for lengths in chunks.
      num_questions: of each length, drawn from the file by the seed.
      seed: of everything that is drawn.
      evidence_position: of all facts: "uniform"; "first_20" or "last_20", between the
        first or last 20% of the text's sentences; "spread", one in each of equal parts.
    """

    sources: tuple[str, ...]
    haystack: str | os.PathLike[str]
    lengths: tuple[Length, ...]
    encoder: Encoder | None = None
    task: str | None = None
    chunk_size: int | None = None
    num_questions: int = 128
    seed: int = 0
    evidence_position: EvidencePosition = "uniform"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("evidence_position", self.evidence_position, EVIDENCE_POSITIONS)
        check_int("num_questions", self.num_questions, 1, 1 << 20)
        check_int("seed", self.seed, 0)
        if self.chunk_size is not None:
            check_int("chunk_size", self.chunk_size, 1)
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        if len(self.sources) != 1:
            raise InputError(f"sources must name one file of bAbI: {WHERE}")
        if not self.lengths:
            raise InputError("lengths must not be empty")
        for length in self.lengths:
            check_int("lengths: count", length.count, 1, 1 << 32)
            if length.unit == "documents":
                raise InputError(
                    "babilong has no documents to count: give lengths in tokens or "
                    "chunks"
                )
        check_counting(self.lengths, self.encoder, self.chunk_size)
        object.__setattr__(self, "haystack", os.fspath(self.haystack))

    @property
    def name(self) -> str:
        """ "babilong"."""
        return "babilong"

    @property
    def _task(self) -> str:
        if self.task is not None:
            return self.task
        name = re.match(r"qa\d+(?=[_.])", os.path.basename(self.sources[0]))
        return name[0] if name else "babi"

    def settings(self) -> dict[str, Any]:
        """All that the set depends on; JSON values.

        Raises:
          InputError: a file is missing or malformed, or there are too few questions.
        """
        return {
            "task": self._task,
            "lengths": [str(length) for length in self.lengths],
            "num_questions": self.num_questions,
            "seed": self.seed,
            "evidence_position": self.evidence_position,
            "chunk_size": self.chunk_size,
            "encoder_sha256": tokenizer_mark(self.encoder),
            "sources_sha256": [self._stories.sha256],
            "haystack_sha256": self._essay.sha256,
        }

    def pool(self) -> Iterator[str]:
        """The text's sentences and all facts, each once."""
        yield from self._facts_in_text.texts

    def questions(self, length: Length) -> Iterator[StoredQuestion]:
        """The questions of a length.

        Raises:
          InputError: as `settings`; or the length is too short for a story.
        """
        labels = list(self._stories.labels)
        for index in range(self.num_questions):
            item = self._documents.question(
                index, length, task=self._task, scoring="all"
            )
            yield dataclasses.replace(item, metadata={"labels": labels})

    @functools.cached_property
    def _stories(self) -> Stories:
        return read_babi(self.sources[0])

    @functools.cached_property
    def _essay(self) -> Essay:
        return read_essay(os.fspath(self.haystack))

    @functools.cached_property
    def _costs(self) -> Costs:
        return Costs(self.encoder, "words")

    @functools.cached_property
    def _room(self) -> Room:
        return Room(self.encoder, self.chunk_size or 0, 0)

    @functools.cached_property
    def _facts_in_text(self) -> "FactsInText":
        shortest = min(self._room.of(length, None) for length in self.lengths)
        most = shortest // _TOKENS_OF_A_FACT
        able = [story for story in self._stories.stories if len(story.facts) <= most]
        if len(able) < self.num_questions:
            raise InputError(
                f"{self.sources[0]}: has {len(able)} questions with at most {most} "
                f"facts, as many as {min(self.lengths)} hold, for num_questions "
                f"{self.num_questions}; lower it, or take a longer length, or "
                "another file"
            )
        rng = random.Random(f"{self.seed}/babilong")
        return FactsInText(
            rng.sample(able, self.num_questions),
            self._essay,
            self._costs,
            seed=self.seed,
            rule=self.evidence_position,
            ordered=self._task in _ORDERED,
        )

    @functools.cached_property
    def _documents(self) -> Documents:
        return Documents(self._facts_in_text, self._costs, self._room, self.lengths)


class FactsInText:
    """Drafts questions whose facts stand in a text, see `Documents`.

    Args:
      stories: of the questions.
      essay: the text.
      costs: of texts, with the glue "words".
      seed: of the draws.
      rule: where the facts stand.
      ordered: whether a story lists its facts in the order of need.
    """

    glue = "words"

    def __init__(
        self,
        stories: Sequence[Story],
        essay: Essay,
        costs: Costs,
        *,
        seed: int,
        rule: EvidencePosition,
        ordered: bool,
    ):
        self._stories, self._costs = stories, costs
        self._seed, self._rule, self._ordered = seed, rule, ordered
        held = [t for t in essay.sentences if costs.of(t) >= _LEAST_TOKENS]
        if not held:
            raise InputError(
                f"{essay.path}: has no sentence of {_LEAST_TOKENS} tokens; take "
                "another text"
            )
        self._haystack = Haystack(held, costs)
        texts = dict.fromkeys(held)
        for story in stories:
            texts.update(dict.fromkeys(story.facts))
        self.texts = tuple(texts)
        index = {text: i for i, text in enumerate(self.texts)}
        self._index = index
        self._cycle = [index[text] for text in held]

    def prompt(self, index: int) -> Prompt:
        """The question alone."""
        return Prompt("", "", "", self._stories[index].question)

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens.

        Raises:
          InputError: the facts alone have more.
        """
        story = self._stories[index]
        rng = random.Random(f"{self._seed}/babilong/{index}")
        left = room - sum(map(self._costs.of, story.facts))
        start = rng.randrange(len(self._cycle))
        count = self._haystack.most(left, start)
        if count < 1:
            raise InputError(
                f"the length leaves {left} tokens beside the {len(story.facts)} facts "
                f"of the question in line {story.line}; take a longer one"
            )
        cycle = self._cycle
        items = [cycle[(start + i) % len(cycle)] for i in range(count)]
        steps: dict[int, int | None]
        if self._ordered or len(story.support) == 1:
            steps = {fact: step for step, fact in enumerate(story.support)}
        else:
            steps = dict.fromkeys(story.support)
        before = sorted(self._places(rng, len(story.facts), count))
        hidden = [self._index[fact] for fact in story.facts]
        return hidden_in(
            items,
            list(zip(before, hidden, range(len(hidden)))),
            steps,
            id=f"{story.line}",
            prompt=self.prompt(index),
            answers=answers(story.answer),
            lengths=[len(fact) for fact in story.facts],
        )

    def _places(self, rng: random.Random, facts: int, count: int) -> list[int]:
        """How many of `count` sentences precede each fact."""
        if self._rule == "spread":
            parts = range(facts)
            return [
                rng.randint(count * i // facts, count * (i + 1) // facts) for i in parts
            ]
        low, high = {"first_20": (0, 0.2), "last_20": (0.8, 1)}.get(self._rule, (0, 1))
        bounds = round(low * count), int(high * count)
        return [rng.randint(*bounds) for _ in range(facts)]


def label_match(
    prediction: str, question: str, gold: Sequence[str], labels: Sequence[str]
) -> float:
    """1.0 if a prediction names the gold labels and no other, else 0.0.

    BABILong's `compare_answers` (`babilong/metrics.py`): of the first sentence, without
    case; labels that the question names do not count.

    Args:
      prediction: an answer.
      question: `Example.question`.
      gold: `Example.answers`.
      labels: `Example.metadata["labels"]`.
    """
    said = re.split(r"\.|<context>|<example>", prediction.lower(), maxsplit=1)[0]
    asked = question.lower()
    named = {
        label.lower()
        for label in labels
        if label.lower() in said and label.lower() not in asked
    }
    return float(named == {label.lower() for label in gold})
