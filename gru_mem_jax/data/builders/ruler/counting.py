"""Aggregation: the most common words of a list (cwe) and of a coded text (fwe)."""

import random
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from gru_mem_jax.data import files
from gru_mem_jax.data.builders.recipe import GLUES
from gru_mem_jax.data.builders.ruler.fitting import (
    Costs,
    Draft,
    number_that_fit,
    permutation,
)
from gru_mem_jax.data.builders.ruler.wording import (
    Prompt,
    common_words_prompt,
    frequent_words_prompt,
    with_worked_example,
)
from gru_mem_jax.data.builders.ruler.words import word_list
from gru_mem_jax.errors import InputError

COMMON = 10
# Below so many tokens RULER's list is made with smaller numbers.
_SMALL = 4096
_ALPHA = 2.0
_NOISE = "..."
_LETTERS = 6
# Of the coded words those up to this key are in every text: 8, 3 and 2 times the
# answers, and once the next word.
_LEAST_KEY = 32.0


def read_words(path: str) -> tuple[tuple[str, ...], str]:
    """The words of a JSON file, and its sha256.

    The file is a list of words, or an object whose values they are, as RULER's.

    Raises:
      InputError: it cannot be read or is malformed.
    """
    value, sha256 = files.read_json(path)
    words = list(value.values()) if isinstance(value, dict) else value
    for i, word in enumerate(files.checked(words, list, f"{path}: the file's value")):
        if not files.checked(word, str, f"{path}: word {i}").strip():
            raise InputError(f"{path}: word {i} is empty")
    return tuple(sorted(set(words))), sha256


def shuffled(items: np.ndarray, name: str, **fields: Any) -> Draft:
    """A draft of items in a random order, the first ones in every shorter document."""
    order = permutation(name, len(items))
    pieces = np.empty_like(items)
    pieces[order] = items
    return Draft(pieces=pieces, order=order, evidence={}, all_evidence=True, **fields)


class CommonWordsTask:
    """Drafts questions of cwe: ten words 30 times each, others 3 times.

    Args:
      costs: of texts, with the glue "listed".
      seed: of the draws.
      room: for the texts of the longest document, at most.
      words: a file of words that is used where wonderwords has too few.
    """

    glue = "listed"

    def __init__(self, costs: Costs, *, seed: int, room: int, words: str | None):
        self._costs, self._seed = costs, seed
        self._small = room < _SMALL - 120
        kinds = (word_list(kind) for kind in ("noun", "adjective", "verb"))
        texts: Sequence[str] = sorted({word for kind in kinds for word in kind})
        self._others = 1 if self._small else 3
        if self._others * sum(costs.of(t) + costs.head(1) for t in texts) < room:
            if words is None:
                raise InputError(
                    f"cwe needs more than the {len(texts)} words of wonderwords for "
                    f"documents of {room} tokens: set words to RULER's scripts/data/"
                    "synthetic/json/english_words.json (github.com/NVIDIA/RULER)"
                )
            texts, _ = read_words(words)
        self.texts = tuple(texts)
        self._piece_costs = np.array([costs.of(text) for text in texts])

    def _list(self, name: str, count: int, common: int, others: int) -> np.ndarray:
        """Words of a list: the common ones first, each as often as it occurs."""
        drawn = random.Random(name).sample(range(len(self.texts)), count)
        return np.array(
            drawn[:COMMON] * common + np.repeat(drawn[COMMON:], others).tolist()
        )

    def prompt(self, index: int) -> Prompt:
        """Of a question."""
        name = f"{self._seed}/ruler/cwe/example/{index}"
        items = self._list(name, *((20, 3, 1) if self._small else (40, 10, 3)))
        order = permutation(name, len(items))
        document = GLUES["listed"]([self.texts[items[i]] for i in order])
        answer = GLUES["listed"]([self.texts[i] for i in items[:COMMON]])
        prompt = common_words_prompt()
        return with_worked_example(prompt, prompt, document, f" {answer}\n")

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens."""
        name = f"{self._seed}/ruler/cwe/{index}"
        common = 6 if self._small else 30
        items = self._list(name, len(self.texts), common, self._others)
        fixed = COMMON * common
        count = number_that_fit(
            self._piece_costs[items],
            self._costs,
            room,
            fixed=fixed,
            step=self._others,
        )
        return shuffled(
            items[:count],
            name,
            id=str(index),
            prompt=self.prompt(index),
            answers=tuple(self.texts[i] for i in items[:COMMON]),
            fixed=fixed,
            step=self._others,
        )


class FrequentWordsTask:
    """Drafts questions of fwe: coded words, the k-th 1 / k^2 as often as the first.

    The most frequent one is "...", which is to be ignored. In a text of N words the
    k-th occurs floor(N / (zeta(2) k^2)) times; so its j-th occurrence is there when
    j k^2 <= N / zeta(2): by this key longer texts get their words.

    Args:
      costs: of texts, with the glue "words".
      num_questions: of the set.
      seed: of the draws.
      room: for the texts of the longest document, at most.
    """

    glue = "words"

    def __init__(self, costs: Costs, *, num_questions: int, seed: int, room: int):
        self._costs, self._seed = costs, seed
        # Each word costs a token: no more than this are ever needed.
        count = int(max(room, _LEAST_KEY) ** (1 / _ALPHA)) + 1
        self._vocabularies = []
        texts = {_NOISE: None}
        for index in range(num_questions):
            rng = random.Random(f"{seed}/ruler/fwe/{index}")
            words = {_NOISE: None}
            while len(words) < count:
                words["".join(rng.choices(string.ascii_lowercase, k=_LETTERS))] = None
            self._vocabularies.append(tuple(words))
            texts.update(words)
        self.texts = tuple(texts)
        self._index = {text: i for i, text in enumerate(self.texts)}

    def prompt(self, index: int) -> Prompt:
        """Of a question; the same for all."""
        del index
        return frequent_words_prompt()

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens."""
        words = self._vocabularies[index]
        powers = np.arange(1, len(words) + 1) ** _ALPHA
        cost = np.array([self._costs.of(word) for word in words])

        def counts(key: float) -> np.ndarray:
            return (key // powers).astype(np.int64)

        low, high = _LEAST_KEY, max(_LEAST_KEY, float(room))
        while high - low > 1:
            middle = (low + high) // 2
            if int(counts(middle) @ cost) <= room:
                low = middle
            else:
                high = middle
        held = counts(low)
        rank = np.repeat(np.arange(len(words)), held)
        occurrence = np.concatenate([np.arange(1, n + 1) for n in held])
        key = occurrence * powers[rank]
        indices = np.array([self._index[word] for word in words])
        items = indices[rank[np.argsort(key, kind="stable")]]
        return shuffled(
            items,
            f"{self._seed}/ruler/fwe/order/{index}",
            id=str(index),
            prompt=frequent_words_prompt(),
            answers=words[1:4],
            fixed=int((key <= _LEAST_KEY).sum()),
        )
