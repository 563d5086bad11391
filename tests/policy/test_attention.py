"""Who sees whom, and that blocks, thin products and masks change no number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.policy import attention

VISIBLE_CASES = {
    "causal": ({"q": [0, 1, 2], "k": [0, 1, 2]}, ["100", "110", "111"]),
    "padding is not seen": ({"q": [0, 1, 2], "k": [-1, 0, 1]}, ["010", "011", "011"]),
    "padding sees nothing": ({"q": [-1], "k": [-1, 0]}, ["00"]),
    "window of two": (
        {"q": [0, 1, 2, 3], "k": [0, 1, 2, 3], "window": 2},
        ["1000", "1100", "0110", "0011"],
    ),
    "window of one": ({"q": [5], "k": [4, 5, 6], "window": 1}, ["010"]),
    "two conversations in a row": (
        {"q": [0, 1, 2, 3], "k": [0, 1, 2, 3], "reach": [2, 2, 4, 4]},
        ["1000", "1100", "0010", "0011"],
    ),
    "two that share their first token": (
        {"q": [0, 1, 2, 3], "k": [0, 1, 2, 3], "reach": [4, 2, 4, 4]},
        ["1000", "1100", "1010", "1011"],
    ),
    "a window of positions in a row": (
        {
            "q": [0, 1, 2, 3],
            "k": [0, 1, 2, 3],
            "reach": [4, 2, 4, 4],
            "positions": [0, 1, 1, 2],
            "window": 2,
        },
        ["1000", "1100", "1010", "0011"],
    ),
    "a cache behind": ({"q": [2], "k": [0, 1, 2, 3]}, ["1110"]),
}


@pytest.mark.parametrize("name", VISIBLE_CASES)
def test_visible(name):
    case, expected = VISIBLE_CASES[name]
    reach, positions = (
        None if case.get(name) is None else jnp.array([case[name]])
        for name in ("reach", "positions")
    )
    mask = attention.visible(
        jnp.array([case["q"]]),
        jnp.array([case["k"]]),
        case.get("window"),
        reach,
        query_positions=positions,
        key_positions=positions,
    )
    rows = ["".join(str(int(x)) for x in row) for row in np.asarray(mask[0])]
    assert rows == expected


def _inputs(rows=2, length=9, heads=6, kv_heads=2, dim=4):
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (rows, length, heads, dim))
    key = jax.random.normal(keys[1], (rows, kv_heads, length, dim))
    value = jax.random.normal(keys[2], (rows, kv_heads, length, dim))
    return query, key, value


def _reference(query, key, value, mask, scale, softcap=None):
    """Head by head, query by query, in double precision."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    rows, length, heads, dim = query.shape
    group = heads // key.shape[1]
    out = np.zeros((rows, length, heads, dim))
    for b, i, h in np.ndindex(rows, length, heads):
        scores = key[b, h // group] @ query[b, i, h] * scale
        if softcap:
            scores = np.tanh(scores / softcap) * softcap
        seen = np.asarray(mask[b, i])
        weights = np.exp(scores[seen] - scores[seen].max())
        out[b, i, h] = weights @ value[b, h // group][seen] / weights.sum()
    return out.reshape(rows, length, heads * dim)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_by_its_definition(window, softcap):
    query, key, value = _inputs()
    positions = jnp.broadcast_to(jnp.arange(9), (2, 9))
    mask = attention.visible(positions, positions, window)
    attend = functools.partial(attention.attend, scale=0.5, softcap=softcap)
    out = jax.jit(attend)(query, key, value, mask)
    expected = _reference(query, key, value, mask, 0.5, softcap)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_one_query_takes_another_path_to_the_same_numbers():
    query, key, value = _inputs()
    positions = jnp.broadcast_to(jnp.arange(9), (2, 9))
    mask = attention.visible(positions, positions)
    whole = attention.attend(query, key, value, mask, scale=0.5)
    last = attention.attend(query[:, 8:], key, value, mask[:, 8:], scale=0.5)
    np.testing.assert_allclose(last, whole[:, 8:], atol=1e-6)


@pytest.mark.parametrize("window", [None, 5, 200])
def test_blocks_equal_the_whole(window, monkeypatch):
    query, key, value = _inputs(length=23)
    positions = jnp.broadcast_to(jnp.arange(23), (2, 23))
    mask = attention.visible(positions, positions, window)
    whole = attention.attend(query, key, value, mask, scale=0.5)
    monkeypatch.setattr(attention, "SMALLEST_BLOCK", 4)
    monkeypatch.setattr(attention, "LARGEST_BLOCK", 4)
    for options in (
        {},
        {"keys_are_queries": True},
        {"keys_are_queries": True, "contiguous": True},
    ):
        blocks = functools.partial(
            attention.attend_in_blocks, scale=0.5, window=window, **options
        )
        out = jax.jit(blocks)(query, key, value, positions, positions)
        np.testing.assert_allclose(out, whole, atol=1e-6)


def test_the_number_of_blocks_is_bounded():
    assert [attention._block_size(n) for n in (1, 128, 2048, 2049, 8192, 10**6)] == [
        128,
        128,
        128,
        256,
        512,
        512,
    ]
