"""Attention of packed rows on a mesh: loss and gradients as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_forests import forest

from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy import rows_on_mesh
from gru_mem_jax.policy.config import FULL, SLIDING, PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.row_attention import row_layout
from gru_mem_jax.policy.rows_on_mesh import row_attention
from gru_mem_jax.policy.splash import splash_in_rows

SHAPE = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
GEMMA = {
    "family": "gemma3_text",
    "layer_types": (SLIDING, FULL),
    "sliding_window": 20,
    "attn_logit_softcapping": 3.0,
}


def mesh_of(*sizes):
    return make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes))))


def rows_of_trees(count, length):
    rng = np.random.default_rng(0)
    _, *layout = zip(*(forest(rng, length) for _ in range(count)))
    return tuple(np.array(x, np.int32) for x in layout)


# Heads divide over the first mesh; over the last, 8 devices have all of them each.
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 8)])
@pytest.mark.parametrize("name", ["blocks", "splash"])
@pytest.mark.parametrize("shape", [{}, GEMMA], ids=["qwen2", "gemma3"])
def test_loss_and_gradients_equal_those_of_one_device(monkeypatch, shape, name, sizes):
    if shape and sizes == (1, 1, 8):
        pytest.skip("one policy is enough where heads are replicated")
    kernel = functools.partial(splash_in_rows, interpret=True)
    monkeypatch.setattr(rows_on_mesh, "splash_in_rows", kernel)
    policy = make_policy(PolicyConfig(**(SHAPE | shape)))
    params = policy.init(jax.random.key(0))
    positions, reach = rows_of_trees(4, 150)
    tokens = np.random.default_rng(1).integers(0, 31, positions.shape, np.int32)

    def total(params, attention, mesh):
        hidden = policy.hidden(
            *(params, tokens, positions, reach),
            remat=True,
            attention=attention,
            mesh=mesh,
        )
        return (jnp.sin(3 * hidden) * (positions >= 0)[:, :, None]).sum()

    run = jax.jit(jax.value_and_grad(total), static_argnums=(1, 2))
    loss, grads = run(params, name, mesh_of(*sizes))
    alone, theirs = run(params, "blocks", None)
    np.testing.assert_allclose(loss, alone, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max())


def test_a_device_lists_blocks_of_its_own_rows_only(monkeypatch):
    """One row is one conversation of four blocks, the other four of one block each."""
    place = np.arange(512, dtype=np.int32)
    positions = np.stack([place, place % 128])
    reach = np.stack([0 * place + 512, place // 128 * 128 + 128])
    config = PolicyConfig(**SHAPE)
    layout = row_layout(positions, reach, config.windows)
    assert layout.counts.tolist() == [[1, 2, 3, 4]]
    counts = []

    def attend(query, key, value, layout, window, **options):
        jax.debug.callback(lambda x: counts.append(x.tolist()), layout.counts)
        return query.reshape(*query.shape[:2], -1)

    monkeypatch.setattr(rows_on_mesh, "attend_in_rows", attend)
    query, key = np.zeros((2, 512, 4, 4)), np.zeros((2, 512, 2, 4))
    rows = row_attention("blocks", config, positions, reach, mesh_of(1, 2, 1))
    jax.block_until_ready(rows.attend(query, key, key, 0))
    jax.effects_barrier()
    assert sorted(counts) == [[[1, 1, 1, 1]], [[1, 2, 3, 4]]]


def test_rows_that_do_not_divide_are_traced():
    """As the learner traces rows of (1, 2) for the shapes of what it adds up."""
    policy = make_policy(PolicyConfig(**SHAPE))
    ints = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    run = functools.partial(policy.hidden, attention="splash", mesh=mesh_of(2, 2, 2))
    out = jax.eval_shape(run, policy.abstract_params(), ints, ints)
    assert out.shape == (1, 2, 16)
