"""The paragraphs of all files of a set, each once, and draws from them."""

import collections
import itertools
import random
from collections.abc import Collection, Iterable, Iterator

from gru_mem_jax.data.paragraphs import Paragraph


class ParagraphPool:
    """Different paragraphs, by index.

    Args:
      paragraphs: in an order that is the same on any machine; equal ones count once.

    Attributes:
      texts: of each its title, and its text in the next line.
    """

    def __init__(self, paragraphs: Iterable[Paragraph]):
        self._index: dict[str, int] = {}
        self._titles: list[str] = []
        self._of_title: dict[str, list[int]] = collections.defaultdict(list)
        for each in paragraphs:
            index = self._index.setdefault(_text(each), len(self._titles))
            if index == len(self._titles):
                title = each.title.casefold()
                self._titles.append(title)
                self._of_title[title].append(index)
        self.texts = list(self._index)

    def __len__(self) -> int:
        return len(self.texts)

    def index(self, paragraph: Paragraph) -> int:
        """The index of a paragraph, whatever its evidence."""
        return self._index[_text(paragraph)]

    def titled(self, titles: Collection[str]) -> set[int]:
        """The paragraphs that have one of these titles, in any case."""
        folded = {title.casefold() for title in titles}
        return {i for title in folded for i in self._of_title.get(title, ())}

    def draw(
        self, rng: random.Random, avoid: Collection[int], *, repeat: bool
    ) -> Iterator[int]:
        """All paragraphs but `avoid`, in random order; again and again if `repeat`.

        The first n of a draw cost time and memory in proportion to n.
        """
        if len(avoid) >= len(self):
            return
        for _ in itertools.count() if repeat else range(1):
            for index in _shuffled(rng, len(self)):
                if index not in avoid:
                    yield index


def _text(paragraph: Paragraph) -> str:
    return f"{paragraph.title}\n{paragraph.text}"


def _shuffled(rng: random.Random, count: int) -> Iterator[int]:
    """0..count - 1 in random order, by Fisher and Yates, one after the other."""
    moved: dict[int, int] = {}  # what now stands at a place, where it is another
    for i in range(count):
        j = i + int(rng.random() * (count - i))
        at_i = moved.pop(i, i)
        if i == j:
            yield at_i
        else:
            yield moved.get(j, j)
            moved[j] = at_i
