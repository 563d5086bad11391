"""Which chunks of a labelled document give turns to learn.

A policy learns two gates, and each needs both words. Of a document whose evidence ends
in chunk t:

    chunk                          update   exit
    with evidence, before t        yes      continue
    t                              yes      end
    without evidence, before t     no       continue
    without evidence, after t      no       end

Turns with evidence are few and mostly end; a random choice among the others may leave
"continue without evidence" rare, or mostly shows chunks that hold nothing like it.
"""

import dataclasses
import math
import random
import re
from collections import Counter
from collections.abc import Sequence

from gru_mem_jax.data.turns import chosen_chunks

_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True, slots=True)
class TurnShares:
    """Turns without evidence per turn with evidence.

    Attributes:
      off: of all of them, if `before` and `after` are None.
      before: of those before the last evidence: they are to go on reading.
      after: of those after it: they are to end.
    """

    off: float
    before: float | None = None
    after: float | None = None


def taught_chunks(
    evidence: Sequence[object],
    last: int,
    shares: TurnShares,
    rng: random.Random,
    likeness: Sequence[float] | None = None,
    hard: float = 0.0,
) -> set[int]:
    """All chunks with evidence, and some of the others, drawn without replacement.

    Args:
      evidence: of each chunk that is read, true or false.
      last: index of the last chunk with evidence; it may lie after those.
      shares: how many others; a part of a turn is drawn with that probability.
      rng: of the draw.
      likeness: of each chunk to the evidence; needed if `hard` is not 0.
      hard: share of the others that are the likest to the evidence, instead of any.
    """
    if shares.before is None and shares.after is None and not hard:
        return chosen_chunks(evidence, shares.off, rng)
    taught = {i for i, held in enumerate(evidence) if held}
    others = [i for i, held in enumerate(evidence) if not held]
    count = max(1, len(taught))
    parts = [(others, shares.off)]
    if shares.before is not None or shares.after is not None:
        parts = [
            ([i for i in others if i < last], shares.before or 0.0),
            ([i for i in others if i > last], shares.after or 0.0),
        ]
    for part, share in parts:
        wanted = min(_whole(share * count, rng), len(part))
        likest = _whole(hard * wanted, rng)
        rng.shuffle(part)
        if likest and likeness is not None:
            part.sort(key=lambda i: -likeness[i])
        first, rest = part[:likest], part[likest:]
        taught |= {*first, *rng.sample(rest, wanted - likest)}
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
