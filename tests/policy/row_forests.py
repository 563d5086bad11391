"""Random rows of trees, and arrays to attend with."""

import jax
import numpy as np


def forest(rng, length):
    """A random row: parents, positions, reach; the last tokens are padding.

    Token i hangs on `parents[i]`, an earlier token of the path to i - 1, or on nothing:
    what a depth-first walk of trees writes.
    """
    used = int(rng.integers(1, length + 1))
    parents, positions = np.full(length, -1), np.full(length, -1)
    path: list[int] = []
    for i in range(used):
        draw = rng.random()
        if draw < 0.1:
            path = []
        elif draw < 0.3:
            path = path[: rng.integers(0, len(path) + 1)]
        parents[i] = path[-1] if path else -1
        positions[i] = len(path)
        path.append(i)
    reach = np.arange(1, length + 1)
    for i in range(used):
        j = i
        while j >= 0:
            reach[j] = i + 1
            j = parents[j]
    return parents, positions, reach


def ancestors(parents, positions, window=None):
    """bool [L, L]: i's own path to its root, itself included, within the window."""
    length = len(parents)
    seen = np.zeros((length, length), bool)
    for i in range(length):
        j = i
        while j >= 0:
            seen[i, j] = window is None or positions[i] - positions[j] < window
            j = parents[j]
    return seen


def inputs(seed, rows, length, heads=6, kv_heads=2, dim=4):
    keys = jax.random.split(jax.random.key(seed), 4)
    query = jax.random.normal(keys[0], (rows, length, heads, dim))
    key = jax.random.normal(keys[1], (rows, length, kv_heads, dim))
    value = jax.random.normal(keys[2], (rows, length, kv_heads, dim))
    weight = jax.random.normal(keys[3], (rows, length, heads * dim))
    return query, key, value, weight
