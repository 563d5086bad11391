"""Which chunks of a labelled document give turns to learn.

A policy learns two gates, and each needs both words. Of a document whose evidence ends
in chunk t:

    chunk                          update   exit
    with evidence, before t        yes      continue
    t                              yes      end
    without evidence, before t     no       continue
    without evidence, after t      no       end

Turns with evidence mostly end. If many of the others come after the evidence and end as
well, "continue" is rare; and those drawn by chance mostly hold nothing like it.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

from gru_mem_jax.data.turns import chosen_chunks

_WORD = re.compile(r"\w+")


def taught_chunks(
    evidence: Sequence[object],
    last: int,
    off_evidence: float,
    rng: random.Random,
    *,
    after: float | None = None,
    hard: float = 0.0,
    likeness: Sequence[float] | None = None,
) -> set[int]:
    """All chunks with evidence, and some of the others, drawn without replacement.

    A part of a chunk is drawn with that probability where `after` or `hard` is given.

    Args:
      evidence: of each chunk that is read, true or false.
      last: index of the last chunk with evidence; it may lie after those.
      off_evidence: how many others per chunk with evidence.
      rng: of the draw.
      after: share of the others that lie after the last evidence; None: by chance.
      hard: share of the others that are the likest to the evidence, instead of any.
      likeness: of each chunk to the evidence; needed if `hard` is above 0.
    """
    if after is None and not hard:
        return chosen_chunks(evidence, off_evidence, rng)
    taught = {i for i, held in enumerate(evidence) if held}
    others = [i for i, held in enumerate(evidence) if not held]
    wanted = off_evidence * max(1, len(taught))
    parts = [(others, wanted)]
    if after is not None:
        parts = [
            ([i for i in others if i < last], wanted * (1 - after)),
            ([i for i in others if i > last], wanted * after),
        ]
    for part, size in parts:
        count = min(_whole(size, rng), len(part))
        likest = _whole(hard * count, rng)
        rng.shuffle(part)
        if likest and likeness is not None:
            part.sort(key=lambda i: -likeness[i])
        taught |= {*part[:likest], *rng.sample(part[likest:], count - likest)}
    return taught


def _whole(number: float, rng: random.Random) -> int:
    """A whole number with this mean, one of its two neighbours."""
    below = math.floor(number)
    return below + (rng.random() < number - below)


def likeness(chunks: Sequence[str], wanted: Sequence[str]) -> list[float]:
    """How much each chunk says of what others say too little of to be chance.

    The sum over the words that chunk and `wanted` share, whatever their case, of

        log((1 + N) / (1 + chunks with the word))

    so that words of every chunk count for nothing: of needles in plain text a chunk
    with another needle is the likest.

    Args:
      chunks: N texts.
      wanted: question and evidence.
    """
    words = [set(_WORD.findall(text.casefold())) for text in chunks]
    asked = {word for text in wanted for word in _WORD.findall(text.casefold())}
    held = Counter(word for each in words for word in each & asked)
    size = 1 + len(chunks)
    return [
        sum(math.log(size / (1 + held[word])) for word in sorted(each & asked))
        for each in words
    ]
