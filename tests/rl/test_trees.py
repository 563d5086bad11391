"""Which prompts share a prefix, and where larger trees are cut."""

import itertools
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gru_mem_jax.rl import trees as t


def trie_tokens(prompts, lengths):
    """Tokens of the trie of prompts without their last ones, and all others."""
    fronts = {tuple(p[:n]) for p in prompts for n in range(1, len(p))}
    return len(fronts) + sum(n - len(p) + 1 for p, n in zip(prompts, lengths))


def check(prompts, lengths, trees, capacity):
    assert sorted(i for tree in trees for i in tree.items) == list(range(len(prompts)))
    for tree in trees:
        assert tree.shared[0] == 0
        pairs = itertools.pairwise(tree.items)
        for (a, b), shared in zip(pairs, tree.shared[1:], strict=True):
            assert tuple(prompts[a][:shared]) == tuple(prompts[b][:shared])
            assert shared < min(len(prompts[a]), len(prompts[b]))
        own = sum(lengths[i] - s for i, s in zip(tree.items, tree.shared))
        assert tree.size == own <= capacity


@hypothesis.given(seed=st.integers(0, 10**6), count=st.integers(1, 9))
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_cuts_repeat_the_fewest_tokens(seed, count):
    """Against all ways to cut the sorted conversations."""
    rng = random.Random(seed)
    prompts = [
        tuple(rng.randrange(2) for _ in range(rng.randint(1, 8))) for _ in range(count)
    ]
    lengths = [len(p) + rng.randint(1, 4) for p in prompts]
    capacity = max(lengths) + rng.randint(0, 20)
    trees = t.prefix_trees(prompts, lengths, capacity)
    check(prompts, lengths, trees, capacity)
    order = [i for tree in trees for i in tree.items]
    assert [prompts[i] for i in order] == sorted(prompts)

    def shared(a, b):
        most = min(len(prompts[a]), len(prompts[b]))
        front = 0
        while front < most - 1 and prompts[a][front] == prompts[b][front]:
            front += 1
        return front if 4 * front >= most else 0

    fewest = None
    for cuts in itertools.product([True, False], repeat=count - 1):
        sizes, size = [], lengths[order[0]]
        for cut, (a, b) in zip(cuts, itertools.pairwise(order), strict=True):
            if cut:
                sizes.append(size)
                size = 0
            size += lengths[b] - (0 if cut else shared(a, b))
        sizes.append(size)
        if max(sizes) <= capacity:
            fewest = min(fewest or sum(sizes), sum(sizes))
    assert sum(tree.size for tree in trees) == fewest


def test_a_tree_that_fits_holds_the_whole_trie():
    rng = random.Random(1)
    front = tuple(range(20))
    prompts = [
        front + tuple(rng.randrange(2) for _ in range(rng.randint(1, 9)))
        for _ in range(12)
    ]
    lengths = [len(p) + 3 for p in prompts]
    (tree,) = t.prefix_trees(prompts, lengths, 1000)
    check(prompts, lengths, [tree], 1000)
    assert tree.size == trie_tokens(prompts, lengths)


def test_equal_prompts_and_a_prompt_that_begins_another():
    prompts = [(1, 2, 3), (1, 2, 3), (1, 2, 3, 4, 5)]
    (tree,) = t.prefix_trees(prompts, [4, 4, 6], 100)
    assert (tree.items, tree.shared) == ((0, 1, 2), (0, 2, 2))
    assert tree.size == 4 + 2 + 4


def test_a_cut_is_made_where_least_is_shared():
    """Two chunks of one question, two rollouts each."""
    question = (9, 9, 9, 9)
    prompts = [
        (*question, *[chunk] * 4, memory) for chunk in (1, 2) for memory in (5, 6)
    ]
    lengths = [len(p) + 1 for p in prompts]
    (whole,) = t.prefix_trees(prompts, lengths, 100)
    assert (whole.shared, whole.size) == ((0, 8, 4, 8), 20)
    # Three would fit, but a cut after them would repeat eight tokens.
    assert 10 + 2 + 6 <= 19
    cut = t.prefix_trees(prompts, lengths, 19)
    assert [tree.items for tree in cut] == [(0, 1), (2, 3)]


def test_a_front_that_is_a_small_part_ties_nothing():
    prompts = [(9, 9, *range(20)), (9, 9, *range(30, 50))]
    trees = t.prefix_trees(prompts, [23, 23], 100)
    assert [tree.size for tree in trees] == [23, 23]


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [((1,), (1,), 0), ((1, 2), (1, 2), 1), ((1, 2, 3), (1, 2), 1), ((1,), (2,), 0)],
)
def test_common_tokens(a, b, common):
    assert t.common_tokens(np.array(a), np.array(b))[0] == common
