"""FLOPs and bytes of programs, against formulas by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from gru_mem_jax.errors import RunError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.planning.costs import Cost, mean_key_blocks, program_cost
from gru_mem_jax.planning.models import model_shape
from gru_mem_jax.planning.work import head_flops, layers_flops
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.row_attention import block_size
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.programs import Programs

SHAPE = PolicyConfig(
    vocab_size=1024,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=128,
)
LENGTH = 2048
A = jax.ShapeDtypeStruct((8, 16), jnp.float32)
B = jax.ShapeDtypeStruct((16, 4), jnp.float32)
PRODUCT = 2 * 8 * 16 * 4


def cost(function, *args, **lengths):
    return program_cost(jax.make_jaxpr(function)(*args), **lengths)


def test_a_product():
    assert cost(jnp.dot, A, B) == (PRODUCT, 4 * (8 * 16 + 16 * 4 + 8 * 4))


def test_a_product_in_batches():
    left, right = (jax.ShapeDtypeStruct((5, *x.shape), x.dtype) for x in (A, B))
    assert cost(jnp.matmul, left, right).flops == 5 * PRODUCT


def test_a_number_that_is_widened_moves_as_it_is_stored():
    narrow = jax.ShapeDtypeStruct(B.shape, jnp.bfloat16)

    def widened(a, b):
        return a @ b.astype(jnp.float32)

    stored = 4 * (8 * 16 + 8 * 4) + 2 * 16 * 4
    assert cost(widened, A, narrow).bytes == stored
    # Also where it is widened outside of the loop that uses it.
    looped = jax.jit(lambda a, b: jax.jit(jnp.dot)(a, b.astype(jnp.float32)))
    assert cost(looped, A, narrow).bytes == stored


def test_loops_count_by_their_length():
    def scanned(a, b):
        return jax.lax.scan(lambda c, _: (c, a @ b), None, length=7)[1]

    assert cost(lambda a, b: scanned(a, b), A, B).flops == 7 * PRODUCT

    def until(a, b, n):
        def body(i, x):
            return jax.lax.fori_loop(0, i, lambda j, y: y + (a @ b).sum(), x)

        return jax.lax.fori_loop(0, n, body, 0.0)

    n = jax.ShapeDtypeStruct((), jnp.int32)
    assert cost(until, A, B, n, loops=(10, 2.5)).flops == 25 * PRODUCT
    with pytest.raises(RunError, match="unknown length"):
        cost(until, A, B, n, loops=(10,))


def test_the_dearest_branch_of_a_condition():
    def either(p, a, b):
        return jax.lax.cond(p, lambda: a @ b, lambda: (a @ b) + (a @ b) * 2)

    assert cost(either, jax.ShapeDtypeStruct((), bool), A, B).flops == 2 * PRODUCT


def test_a_shard_map_runs_on_each_device():
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    spec = PartitionSpec("data")
    function = jax.shard_map(
        jnp.dot, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec
    )
    # Rows are cut in two; the four devices of the other axis do the same.
    assert cost(function, A, B).flops == 4 * PRODUCT


def test_what_is_computed_again_counts_again():
    def loss(b, a):  # its gradient needs the product, for the cosine of it
        return jnp.sin(a @ b).sum()

    assert cost(jax.grad(loss), B, A).flops == 2 * PRODUCT
    assert cost(jax.grad(jax.checkpoint(loss)), B, A).flops == 3 * PRODUCT


@pytest.mark.parametrize("stated", [None, 99])
def test_a_kernel_is_its_body_at_each_place_of_its_grid(stated):
    def kernel(a, b, out):
        out[...] = a[...] @ b[...]

    estimate = stated and pl.CostEstimate(
        flops=stated, bytes_accessed=1, transcendentals=0
    )
    run = pl.pallas_call(
        kernel,
        grid=(3, 2),
        in_specs=[
            pl.BlockSpec((8, 16), lambda i, j: (0, 0)),
            pl.BlockSpec((16, 4), lambda i, j: (0, 0)),
        ],
        out_specs=pl.BlockSpec((8, 4), lambda i, j: (0, 0)),
        out_shape=jax.ShapeDtypeStruct((8, 4), jnp.float32),
        cost_estimate=estimate,
    )
    # Beside a kernel a dearer branch is for what it cannot do.
    either = functools.partial(
        jax.lax.cond, True, lambda a, b: run(a, b), lambda a, b: (a @ b) + 9 * (a @ b)
    )
    assert cost(either, A, B, seen=0.01).flops == cost(run, A, B, seen=0.01).flops
    found = cost(run, A, B, seen=0.5, read=0.25)
    moved = 0.25 * 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert found == (Cost(stated, 1) if stated else Cost(3 * PRODUCT, moved))


def test_blocks_of_keys_that_a_causal_row_sees():
    # Four blocks of 256 queries see 1, 1, 2 and 2 blocks of 512 keys.
    assert mean_key_blocks(1024, 256, 512) == 1.5


@functools.cache
def learner():
    return compile_learner(
        make_policy(SHAPE),
        ObjectiveConfig(beta=1e-3),
        LearnerConfig(row_tokens=LENGTH, logits_chunk=256, compute_dtype="float32"),
    )


def test_the_learner_is_within_5_percent_of_the_formula():
    """Forward 2 n params + attention + head; an update with remat is four of them."""
    rows, state = learner().abstract_rows(LENGTH), learner().abstract_state()
    real, count = rows.advantages, jax.ShapeDtypeStruct((), jnp.float32)
    score = learner().score.trace(learner().abstract_params(), rows, None)
    batch = Batch(rows, real, real, count)
    carry = jax.eval_shape(learner().begin)
    update = learner().accumulate.trace(state.params, {}, carry, batch)
    loops = (mean_key_blocks(LENGTH, *block_size(LENGTH)),)
    # Kernels of 3 layers: [D, (Q + 2 K) H], [Q H, D] and three of [D, F].
    params = 3 * (256 * (512 + 2 * 256) + 512 * 256 + 3 * 256 * 512)
    # Each of 16 blocks of 128 queries sees whole blocks of 256 keys.
    blocked = sum(128 * 256 * (i // 2 + 1) for i in range(16))
    rest = 2 * LENGTH * params + 2 * LENGTH * 256 * 1024
    forward = rest + 3 * 4 * 512 * blocked
    assert program_cost(score.jaxpr, loops).flops == pytest.approx(forward, rel=0.001)
    # The last product of a layer is not computed again, and attention's backward pass
    # has five products, the scores again among them.
    more = 3 * 2 * 512 * blocked - 2 * LENGTH * 3 * 256 * 512
    found = program_cost(update.jaxpr, loops).flops
    assert found == pytest.approx(4 * forward + more, rel=0.001)
    # What a plan takes: exact triangles of scores.
    exact = layers_flops(SHAPE, LENGTH) + head_flops(SHAPE, LENGTH)
    assert exact == rest + 3 * 4 * 512 * LENGTH**2 / 2


def test_a_7b_update_is_within_5_percent_of_the_formula():
    policy = make_policy(model_shape("qwen2.5-7b"))
    config = LearnerConfig(row_tokens=9216, compute_dtype="bfloat16")
    large = compile_learner(policy, ObjectiveConfig(beta=1e-3), config)
    rows, count = large.abstract_rows(9216), jax.ShapeDtypeStruct((), jnp.float32)
    batch = Batch(rows, rows.advantages, rows.advantages, count)
    arguments = (large.abstract_state().params, {}, jax.eval_shape(large.begin), batch)
    loops = (mean_key_blocks(9216, *block_size(9216)),)
    found = program_cost(large.accumulate.trace(*arguments).jaxpr, loops).flops
    # 6.525 billion numbers in the layers, a head of 3584 x 152064.
    forward = 2 * 9216 * (6.525e9 + 3584 * 152064) + 4 * 28 * 3584 * 9216**2 / 2
    assert found == pytest.approx(4 * forward, rel=0.05)


def test_the_kernel_of_rows_costs_what_it_computes():
    """Splash attention, forward: two products of the blocks that a row sees."""
    from gru_mem_jax.policy.row_attention import row_layout
    from gru_mem_jax.policy.splash import splash_in_rows, splash_layout

    length, heads, dim = 1024, 4, 128
    positions = jnp.arange(length, dtype=jnp.int32)[None]

    def attend(query, key, value):
        layout = splash_layout(row_layout(positions, None, (None,)))
        return splash_in_rows(query, key, value, layout, scale=1.0)

    query = jax.ShapeDtypeStruct((1, length, heads, dim), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((1, length, 2, dim), jnp.bfloat16)
    # Blocks of 512: 3 of 4 are seen.
    found = cost(attend, query, key, key, seen=3 / 4)
    assert found.flops == 3 / 4 * 2 * 2 * heads * dim * length**2
    np.testing.assert_array_less(found.bytes, 4 * 2 * heads * dim * length * 4)


def test_a_step_of_decoding_reads_weights_and_keys():
    """And little else: scores, logits and a few activations."""
    sizes = EngineConfig(slots=64, max_length=512, dtype="bfloat16", decode_block=8)
    sampler = Programs(make_policy(SHAPE), sizes, jnp.dtype("bfloat16"))
    weights = sum(x.size for x in jax.tree.leaves(sampler.params))  # the head is tied
    cache = 64 * 512 * 3 * 2 * 2 * 128
    logits = 4 * 64 * 1024
    scores = (4 + 2) * 64 * 3 * 4 * 512  # float32, and again in bfloat16
    found = program_cost(sampler.trace_decode(512).jaxpr, (8,))
    moved = 2 * (weights + cache) + scores + logits
    assert found.bytes / 8 == pytest.approx(moved, rel=0.05)
    assert found.flops / 8 == pytest.approx(
        2 * 64 * weights + 4 * 64 * 3 * 512 * 512, rel=0.05
    )
