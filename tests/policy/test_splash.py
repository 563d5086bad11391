"""The TPU kernel on packed rows: its masks against the trees that they are of, its
values and gradients against `attend_in_rows` in interpret mode. `test_compile_kernels`
compiles it for TPUs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_forests import ancestors, forest, inputs

from gru_mem_jax.policy import functional, rows_on_mesh, splash
from gru_mem_jax.policy.config import FULL, SLIDING, PolicyConfig
from gru_mem_jax.policy.row_attention import attend_in_rows, row_layout
from gru_mem_jax.policy.splash import splash_in_rows, splash_layout


def forests(seed, rows, length):
    """Positions and reach int32 [rows, length], and the parents."""
    rng = np.random.default_rng(seed)
    parents, *layout = zip(*(forest(rng, length) for _ in range(rows)))
    return *(np.array(x, np.int32) for x in layout), parents


def dense(masks, size):
    """bool [N, N] as the kernel reads a row's masks."""
    blocks, index, stored = (np.asarray(x) for x in masks)
    seen = np.zeros((len(blocks) * size,) * 2, bool)
    for i, j in np.argwhere(blocks):
        part = stored[index[i, j]] if blocks[i, j] == 1 else True
        seen[i * size : (i + 1) * size, j * size : (j + 1) * size] = part
    return seen


@pytest.mark.parametrize("window", [None, 1, 8])
@pytest.mark.parametrize("size", [4, 32])
def test_masks_are_those_of_the_trees(monkeypatch, window, size):
    monkeypatch.setattr(splash, "block_size", lambda length: size)
    monkeypatch.setattr(splash, "_SHORT", 10**6)

    @jax.jit
    def masks(positions, reach):
        layout = splash_layout(row_layout(positions, reach, (window,)))
        return jax.tree.map(lambda x: x[0], layout.masks)

    for seed in range(8):
        positions, reach, parents = forests(seed, 2, 100)
        found = masks(positions, reach)
        for b in range(2):
            expected = np.eye(128, dtype=bool)  # padding sees itself
            expected[:100, :100] |= ancestors(parents[b], positions[b], window)
            of_row = jax.tree.map(lambda x, b=b: x[b], found)
            np.testing.assert_array_equal(dense(of_row, size), expected)


def test_blocks_by_hand(monkeypatch):
    """Four blocks of 128: a trunk of 128, a tail of 192 behind it, and one of 192."""
    place = np.arange(512)
    reach = np.where(place < 128, 512, np.where(place < 320, 320, 512))
    positions = np.where(place < 320, place, place - 192)
    monkeypatch.setattr(splash, "block_size", lambda length: 128)

    @jax.jit
    def masks(positions, reach):
        return splash_layout(row_layout(positions, reach, (None, 50))).masks

    blocks, _, stored = masks(positions[None], reach[None])
    near, far = blocks[:, 0].tolist()
    assert far == [[1, 0, 0, 0], [2, 1, 0, 0], [2, 1, 1, 0], [2, 0, 1, 1]]
    # The second tail's first block still sees the end of the trunk in its window.
    assert near == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]
    assert stored.shape == (2, 1, 10, 128, 128)


def both(seed, rows, length, heads, kv_heads, windows, **options):
    """A function of a layout: output and gradients by kernel and by row_attention.

    Padding has no part in any loss. One program for all rows and windows.
    """
    *arrays, weight = inputs(seed, rows, length, heads, kv_heads, dim=8)

    @jax.jit
    def run(positions, reach, window_index):
        rows = row_layout(positions, reach, windows)
        real = (positions >= 0)[:, :, None]

        def total(attend, layout, *arrays):
            out = attend(*arrays, layout, window_index, scale=0.3, **options)
            return (out * weight * real).sum(), out * real

        def of(*case):
            function = functools.partial(total, *case)
            return jax.grad(function, (0, 1, 2), has_aux=True)(*arrays)

        layout = splash_layout(rows)
        kernel = functools.partial(splash_in_rows, interpret=True)
        return layout.fits, of(kernel, layout), of(attend_in_rows, rows)

    return run


def close(ours, theirs):
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.abs(y).max() > 0.1
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "windows", "softcap"),
    [(4, 2, (None, 40, None), None), (2, 1, (20,), 0.7)],
    ids=["two windows", "soft-cap"],
)
def test_the_kernel_equals_row_attention(heads, kv_heads, windows, softcap):
    run = both(0, 2, 300, heads, kv_heads, windows, softcap=softcap)
    for seed in range(3):
        positions, reach, _ = forests(seed, 2, 300)
        for window_index in range(len(set(windows))):
            fits, ours, theirs = run(positions, reach, window_index)
            assert fits is None
            close(ours, theirs)
    assert run._cache_size() == 1


def test_rows_with_more_masks_than_there_is_room_for(monkeypatch):
    """Room for one a block of queries: enough for one conversation, not for trees."""
    monkeypatch.setattr(splash, "_SHORT", 0)
    monkeypatch.setattr(splash, "_MASKS_PER_BLOCK", 1)
    run = both(0, 2, 384, 2, 1, (None,))
    positions, reach, _ = forests(1, 2, 384)
    whole = np.broadcast_to(np.arange(384, dtype=np.int32), (2, 384))
    for case, enough in (((positions, reach), False), ((whole, 384 + 0 * whole), True)):
        fits, ours, theirs = run(*case, 0)
        assert bool(fits) is enough
        close(ours, theirs)
    assert run._cache_size() == 1


def test_room_for_masks():
    """Rows of 9216 tokens are 18 blocks of 512: all 171 on and below the diagonal."""
    assert splash.mask_room(18) == 171
    assert splash.mask_bytes(9216) == 171 * 512**2 * (1 + 4 + 4)
    assert splash.mask_room(64) == 384
    assert [splash.block_size(n) for n in (128, 768, 6912, 9216)] == [
        128,
        256,
        256,
        512,
    ]


def test_a_policy_has_the_same_gradient(monkeypatch):
    kernel = functools.partial(splash_in_rows, interpret=True)
    monkeypatch.setattr(rows_on_mesh, "splash_in_rows", kernel)
    policy = functional.make_policy(
        PolicyConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            family="gemma3_text",
            layer_types=(SLIDING, FULL, SLIDING),
            sliding_window=20,
            attn_logit_softcapping=3.0,
        )
    )
    params = policy.init(jax.random.key(0))
    positions, reach, _ = forests(0, 1, 200)
    tokens = np.random.default_rng(0).integers(0, 31, (1, 200), np.int32)

    def total(params, attention):
        hidden = policy.hidden(
            params, tokens, positions, reach, remat=True, attention=attention
        )
        return (jnp.sin(3 * hidden) * (positions >= 0)[:, :, None]).sum()

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    ours, theirs = (gradient(params, name) for name in ("splash", "blocks"))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max())
