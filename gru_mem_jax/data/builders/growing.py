"""Paragraphs for a document that grows from length to length and loses none."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator

# Paragraphs in a row that are too long for the rest before a document is full.
_TRIES = 64


class Growing:
    """Paragraphs without evidence, in the order in which they are added.

    Args:
      source: of paragraphs, most wanted first.

    Attributes:
      chosen: so far; only ever appended to.
      ended: whether all paragraphs of the source are chosen, and more were wanted.
    """

    def __init__(self, source: Iterable[int]):
        self._source: Iterator[int] = iter(source)
        self._waiting: collections.deque[int] = collections.deque()
        self.chosen: list[int] = []
        self.ended = False

    def to_count(self, count: int) -> None:
        """Adds the next ones, up to `count` in all."""
        self.chosen += itertools.islice(self._source, count - len(self.chosen))
        self.ended = len(self.chosen) < count

    def fill(self, room: int, cost: Callable[[int, int], int]) -> int:
        """Adds those that fit until none of many does.

        One that is too long waits for the next call, so that a shorter one behind it
        can fill the rest.

        Args:
          room: for their costs in all.
          cost: of a paragraph, when a number of others are chosen before it.

        Returns:
          The room that is left.
        """
        too_long: list[int] = []
        misses = 0
        while misses < _TRIES:
            piece = self._waiting.popleft() if self._waiting else next(self._source, -1)
            if piece < 0:
                break
            price = cost(piece, len(self.chosen))
            if price <= room:
                self.chosen.append(piece)
                room -= price
                misses = 0
            else:
                too_long.append(piece)
                misses += 1
        self._waiting.extendleft(reversed(too_long))
        self.ended = not self._waiting
        return room
