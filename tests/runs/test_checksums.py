"""Checksums: by hand, on the host as on a device, and what they notice."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gru_mem_jax.runs.checkpoints.checksums import checksums, device_sums, host_sums

ROW, PLACE = 0x85EBCA77, 0x9E3779B1


def by_hand(words, bits):
    """The formula in Python's integers, over [rows, places]."""
    sums = []
    for shift in (0, bits // 2):
        total = 0
        for r, row in enumerate(words):
            for j, w in enumerate(row):
                total += (2 * ROW * r + 1) * (2 * PLACE * j + 1) * (w >> shift)
        sums.append(total % 2**32)
    return tuple(sums)


def test_the_formula_by_hand():
    a = np.array([[1.0, -2.5], [0.0, 3e-7]], np.float32)
    # IEEE 754: 1.0 is 3f800000, -2.5 is c0200000, 3e-7 is 34a10fb0.
    words = [[0x3F800000, 0xC0200000], [0, 0x34A10FB0]]
    assert host_sums(a) == by_hand(words, 32)
    assert host_sums(np.array([7, -1], np.int8)) == by_hand([[7, 255]], 8)
    assert host_sums(np.float32(1.0)) == by_hand([[0x3F800000]], 32)
    wide = np.array([1 << 40 | 5], np.int64)
    assert host_sums(wide) == by_hand([[5, 256]], 32)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (3, 0), (700, 300)]
)
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"]
)
def test_host_and_device_agree(shape, dtype):
    random = np.random.default_rng(len(shape))
    a = (random.standard_normal(shape) * 9).astype(jnp.dtype(dtype))
    found = tuple(int(s) for s in device_sums(jnp.asarray(a)))
    assert found == host_sums(np.asarray(a))
    if a.size < 100:
        size = a.dtype.itemsize
        words = np.atleast_1d(a).view(f"u{size}")
        words = words.reshape(-1, words.shape[-1]) if a.size else np.zeros((0, 0), int)
        assert found == by_hand(words.tolist(), 8 * size)


def test_a_sharded_array_has_the_same_sum():
    a = np.random.default_rng(0).standard_normal((8, 16, 6)).astype(np.float32)
    mesh = jax.make_mesh(
        (4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    expected = checksums({"x": a})
    for spec in (("a", "b"), (None, ("a", "b")), ("b", None, None)):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        assert checksums({"x": jax.device_put(a, place)}) == expected
    assert checksums({"x": jnp.asarray(a)}) == expected
    assert len(expected["x"]) == 16


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8])
def test_what_changes_the_sum(dtype):
    random = np.random.default_rng(1)
    a = (random.standard_normal((40, 30)) * 50).astype(dtype)
    sums = host_sums(a)
    changed = []
    for bit in range(8 * a.itemsize):  # any one bit, anywhere
        b = a.copy()
        at = tuple(random.integers(0, a.shape))
        b.view(f"u{a.itemsize}")[at] ^= (
            b.dtype.type(0).view(f"u{a.itemsize}").dtype.type(1 << bit)
        )
        changed.append(b)
    changed += [a[::-1], a[:, ::-1], a.T.copy(), np.roll(a, 1, 0), np.zeros_like(a)]
    top = a.copy().view(f"u{a.itemsize}")
    top[3, 4] ^= top.dtype.type(1 << (8 * a.itemsize - 1))
    top[9, 7] ^= top.dtype.type(1 << (8 * a.itemsize - 1))  # two signs
    changed.append(top.view(dtype))
    for i, b in enumerate(changed):
        assert host_sums(b) != sums, i
    assert host_sums(a.copy()) == sums
