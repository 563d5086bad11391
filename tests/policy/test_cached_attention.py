"""Kernels that read a cache, against `attend_in_blocks`: TPU kernels in interpret mode,
what is around cuDNN by the same call's plain implementation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy import cached_attention
from gru_mem_jax.policy.attention import attend_in_blocks
from gru_mem_jax.policy.cached_attention import decode_attention, fresh_attention
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.key_values import KeyValues
from gru_mem_jax.policy.splash_prefill import splash_prefill


def arrays(rows, length, heads, kv_heads, cached, dim, dtype=jnp.float32):
    """Queries float32 [rows, length, heads, dim]; keys and values of the dtype."""
    keys = jax.random.split(jax.random.key(rows + length), 3)
    query = jax.random.normal(keys[0], (rows, length, heads, dim))
    shape = (rows, kv_heads, cached, dim)
    return query, KeyValues(*(jax.random.normal(k, shape, dtype) for k in keys[1:]))


def expected(query, seen, positions, **options):
    """By `attend_in_blocks`, for keys at 0, 1, 2, ..."""
    at = jnp.arange(seen.length, dtype=jnp.int32)
    at = jnp.broadcast_to(at, (len(query), seen.length))
    seen = (x.astype(query.dtype) for x in seen)
    return attend_in_blocks(query, *seen, jnp.asarray(positions), at, **options)


def check(found, query, seen, positions, **options):
    theirs = expected(query, seen, positions, **options)
    real = positions >= 0
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[real], theirs[real], atol=2e-6)


MESHES = [None, (2, 2, 2), (1, 1, 8)]


def mesh_of(sizes):
    return sizes and make_mesh(
        MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes)))
    )


def one_each(slots, length):
    """Positions of one query a slot: ragged, among them the first, last and an idle."""
    positions = np.random.default_rng(0).integers(0, length, (slots, 1), np.int32)
    positions[:3, 0] = 0, length - 1, -1
    return positions


def plain_paged_attention(query, keys, values, lengths, table, **options):
    """What JAX's kernel computes: pages of one key head, found by the table."""
    keys, values = (
        x[0][table].reshape(len(table), 1, -1, x.shape[-1]) for x in (keys, values)
    )
    out = expected(
        query[:, None],
        KeyValues(keys, values),
        lengths[:, None] - 1,
        scale=1.0,
        softcap=options["attn_logits_soft_cap"],
    )
    return out.reshape(query.shape)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "softcap"),
    [(4, 2, 96, None), (16, 2, 640, None), (3, 1, 64, 1.5)],
)
def test_paged(heads, kv_heads, length, softcap):
    query, cache = arrays(4, 1, heads, kv_heads, length, 128, jnp.bfloat16)
    positions = one_each(4, length)
    options = {"scale": 0.1, "softcap": softcap}
    run = functools.partial(decode_attention, "paged", **options)
    with pltpu.force_tpu_interpret_mode():
        found = jax.jit(run)(query, cache, positions)
    check(found, query, cache, positions, **options)


@pytest.mark.parametrize("sizes", MESHES)
def test_paged_on_a_mesh(monkeypatch, sizes):
    """The kernel's interpreter needs a thread for each device, which CI lacks."""
    monkeypatch.setattr(cached_attention, "paged_attention", plain_paged_attention)
    query, cache = arrays(8, 1, 4, 2, 640, 8)
    positions = one_each(8, 640)
    options = {"scale": 0.3, "softcap": 2.0}
    run = functools.partial(decode_attention, "paged", mesh=mesh_of(sizes), **options)
    found = jax.jit(run)(query, cache, positions)
    check(found, query, cache, positions, **options)


@pytest.mark.parametrize("sizes", MESHES)
def test_cudnn_decodes(sizes):
    query, cache = arrays(8, 1, 6, 2, 40, 16)
    positions = one_each(8, 40)
    run = functools.partial(decode_attention, "cudnn", implementation="xla", scale=0.2)
    found = jax.jit(functools.partial(run, mesh=mesh_of(sizes)))(
        query, cache, positions
    )
    check(found, query, cache, positions, scale=0.2)


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("window", [None, 1, 7])
def test_cudnn_reads_fresh_blocks(sizes, window):
    query, seen = arrays(3, 20, 6, 2, 20, 8)
    new = KeyValues(*(x.swapaxes(1, 2) for x in seen))
    at = np.arange(20, dtype=np.int32)
    positions = np.where(at < np.array([20, 1, 13])[:, None], at, -1).astype(np.int32)
    run = functools.partial(fresh_attention, implementation="xla", scale=0.2)
    found = jax.jit(functools.partial(run, window=window, mesh=mesh_of(sizes)))(
        query, new
    )
    check(found, query, seen, positions, scale=0.2, window=window)


@pytest.mark.parametrize(
    ("length", "cached", "starts", "counts", "window", "softcap"),
    [
        (40, 300, (0, 17, 200, 0), (40, 3, 40, 0), None, None),
        (600, 1000, (0, 133, 400), (600, 600, 77), 50, 2.0),
        (512, 1536, (1000, 17), (512, 512), 300, None),
        (64, 64, (0,), (50,), None, None),
    ],
    ids=["ragged", "window and soft-cap", "long", "fresh"],
)
def test_splash_reads_prompts(length, cached, starts, counts, window, softcap):
    query, seen = arrays(len(starts), length, 4, 2, cached, 8)
    at = np.arange(length)
    positions = np.array(starts)[:, None] + at
    positions = np.where(at < np.array(counts)[:, None], positions, -1)
    positions = positions.astype(np.int32)
    options = {"scale": 0.3, "window": window, "softcap": softcap}
    run = functools.partial(splash_prefill, interpret=True, **options)
    found = jax.jit(run)(query, seen, positions)
    check(found, query, seen, positions, **options)


POLICY = make_policy(
    PolicyConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        initializer_range=0.3,
    )
)


@pytest.mark.parametrize(
    ("prefill", "decode", "sizes"),
    [("splash", "paged", None), ("cudnn", "cudnn", (1, 1, 2))],
)
def test_a_policy_extends_its_cache_alike(monkeypatch, prefill, decode, sizes):
    """Two blocks of a prompt and one token, by kernels and by blocks."""
    in_steps = functools.partial(splash_prefill, interpret=True)
    monkeypatch.setattr(cached_attention, "splash_prefill", in_steps)
    attend = jax.nn.dot_product_attention
    plain = lambda *a, **k: attend(*a, **(k | {"implementation": "xla"}))  # noqa: E731
    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    params = POLICY.sampling_params(POLICY.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 31, (2, 17), np.int32)
    slots = np.array([2, 0], np.int32)

    @functools.partial(jax.jit, static_argnums=(3, 4, 5))
    def extend(cache, tokens, positions, fresh, attention, mesh):
        slots_of = slots if tokens.shape[1] > 1 else None
        return POLICY.extend(
            *(params, cache, tokens, positions, slots_of),
            attend=8 if fresh else 32,
            fresh=fresh,
            attention=attention,
            mesh=mesh,
        )

    def run(prefill, decode, mesh):
        cache = POLICY.init_cache(3, 32, jnp.bfloat16)
        at = np.arange(16, dtype=np.int32)[None] + np.zeros((2, 1), np.int32)
        at[1, 13:] = -1
        found = []
        for fresh, part in ((True, slice(0, 8)), (False, slice(8, 16))):
            hidden, cache = extend(
                *(cache, tokens[:, part], at[:, part], fresh, prefill, mesh)
            )
            found.append(np.where(at[:, part, None] >= 0, hidden, 0))
        last = np.array([[3], [0], [5]], np.int32)
        positions = np.array([[13], [-1], [16]], np.int32)
        hidden, cache = extend(cache, last, positions, False, decode, mesh)
        return [*found, hidden[::2], *jax.tree.leaves(cache)]

    with pltpu.force_tpu_interpret_mode():
        ours = run(prefill, decode, mesh_of(sizes))
    theirs = run("blocks", "blocks", None)
    for x, y in zip(ours, theirs, strict=True):
        # Keys are bfloat16, and a last bit of one moves what follows.
        np.testing.assert_allclose(
            np.float32(x), np.float32(y), atol=0.02 * np.abs(np.float32(y)).max()
        )
