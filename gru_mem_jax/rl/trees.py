"""Which prompts of a question stand behind one prefix in a row.

Sorted by their token ids, prompts that begin alike are neighbours, and each adds to the
row only what it does not share with the one before it: a depth-first walk of the trie
of prompts, which is never built.

    [ template chunk question | memory a, reply 0 | reply 1 | memory b, reply 2 ]

A prompt's last token is never shared, nor is a sampled one: so the state before each
sampled token is that token's own, and predicts it, as in rows without sharing.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

# Neighbours that share less than this part of the shorter prompt are kept apart. All
# prompts of a question begin with the template: trees tied by it alone save little, and
# larger trees leave more of a row empty.
_LEAST_SHARED = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """Conversations in the order in which they stand in a row.

    Attributes:
      items: their indices.
      shared: how many leading tokens each has in common with the one before; 0 first.
      size: tokens of the tree.
    """

    items: tuple[int, ...]
    shared: tuple[int, ...]
    size: int


def single(item: int, length: int) -> Tree:
    """A conversation that shares nothing."""
    return Tree((item,), (0,), length)


def prefix_trees(
    prompts: Sequence[Sequence[int]], lengths: Sequence[int], capacity: int
) -> list[Tree]:
    """Trees of at most `capacity` tokens.

    A larger tree is cut where the least is shared, since the front is then computed
    again: the cuts are those that add the fewest tokens.

    Args:
      prompts: token ids of each conversation's prompt.
      lengths: tokens of each conversation, at most `capacity`.
      capacity: of a row.

    Returns:
      Trees whose items are indices of `prompts`, each in one tree.
    """
    # Big-endian bytes sort as the ids do, at the speed of memcmp.
    arrays = [np.asarray(prompt, ">i4") for prompt in prompts]
    order = sorted(range(len(arrays)), key=lambda i: (arrays[i].tobytes(), i))
    shared = [0]
    for a, b in itertools.pairwise(order):
        common, shorter = common_tokens(arrays[a], arrays[b])
        shared.append(common if common >= _LEAST_SHARED * shorter else 0)
    begins = [i for i, n in enumerate(shared) if n == 0]
    trees: list[Tree] = []
    for begin, end in zip(begins, [*begins[1:], len(order)]):
        items, fronts = order[begin:end], shared[begin:end]
        sizes = [lengths[i] for i in items]
        trees += _cut(items, sizes, fronts, capacity)
    return trees


def common_tokens(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Leading tokens that two prompts may share, and the length of the shorter one."""
    shorter = min(len(a), len(b))
    differs = a[: shorter - 1] != b[: shorter - 1]
    return (int(differs.argmax()) if differs.any() else shorter - 1), shorter


def _cut(
    items: Sequence[int], sizes: Sequence[int], fronts: Sequence[int], capacity: int
) -> list[Tree]:
    """Neighbours as one tree, or as several with the fewest tokens in all."""
    count = len(items)
    first = np.asarray(sizes)  # tokens of a conversation that begins a tree
    added = np.cumsum([0, *(n - s for n, s in zip(sizes, fronts))])
    # least[e]: tokens that cuts repeat in the best trees of the first e conversations.
    least, begin_of = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    low = 0
    for end in range(1, count + 1):
        while first[low] + added[end] - added[low + 1] > capacity:
            low += 1
        repeated = least[low:end] + np.asarray(fronts[low:end])
        begin_of[end] = low + int(repeated.argmin())
        least[end] = repeated.min()
    trees: list[Tree] = []
    end = count
    while end > 0:
        begin = int(begin_of[end])
        size = int(first[begin] + added[end] - added[begin + 1])
        shared = (0, *fronts[begin + 1 : end])
        trees.append(Tree(tuple(items[begin:end]), shared, size))
        end = begin
    return trees[::-1]
