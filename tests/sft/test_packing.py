"""Turns in packed rows: nothing lost, nothing seen across turns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.data.turns import SupervisedTurn
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.sft.packing import pack, packed_batches
from gru_mem_jax.sft.step import completion_loss

CONFIG = PolicyConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
)


def turn(prompt, completion):
    return SupervisedTurn("gated", "single_key", True, tuple(prompt), tuple(completion))


def some_turns(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        sizes = rng.integers(3, 12), rng.integers(1, 6)
        yield turn(*(rng.integers(0, 50, size).tolist() for size in sizes))


def test_a_row_spelled_out():
    batch = pack([[turn([7, 8, 9], [1, 2]), turn([5], [6])], []], 9, 4)
    assert batch.tokens.tolist() == [[7, 8, 9, 1, 2, 5, 6, 0, 0], [0] * 9]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, -1, -1], [-1] * 9]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 2, 2, 0, 0], [0] * 9]
    assert batch.where.tolist() == [2, 3, 5, 0]
    assert batch.targets.tolist() == [1, 2, 6, 0]
    assert batch.weights.tolist() == [1, 1, 1, 0]


def test_every_turn_is_in_one_batch():
    turns = list(some_turns(200))
    batches = packed_batches(iter(turns), rows=3, row_tokens=40, pool_turns=32, seed=0)
    seen = []
    for batch in batches:
        for row, segments in zip(batch.tokens, batch.segment_ids):
            for segment in range(1, segments.max() + 1):
                seen.append(tuple(row[segments == segment].tolist()))
    assert sorted(seen) == sorted(t.prompt + t.completion for t in turns)


def test_batches_are_a_function_of_their_arguments():
    def first(seed):
        batches = packed_batches(
            some_turns(100), rows=2, row_tokens=40, pool_turns=50, seed=seed
        )
        return [batch.tokens.tolist() for batch in itertools.islice(batches, 3)]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_a_turn_longer_than_a_row_is_refused():
    batches = packed_batches(
        iter([turn(range(30), [1])]), rows=2, row_tokens=20, pool_turns=4, seed=0
    )
    with pytest.raises(InputError, match="a gated turn has 31 tokens"):
        next(batches)


def test_packed_loss_and_gradient_are_those_of_one_turn_at_a_time():
    policy = make_policy(CONFIG)
    params = policy.init(jax.random.key(0))
    rng = np.random.default_rng(3)
    # Of one size, so that what they are compared with compiles once.
    turns = [
        turn(rng.integers(0, 50, 7).tolist(), rng.integers(0, 50, 4).tolist())
        for _ in range(5)
    ]

    @jax.jit
    @jax.value_and_grad
    def alone(params, ids):
        positions = jnp.arange(11, dtype=jnp.int32)[None]
        logprobs = jax.nn.log_softmax(policy.apply(params, ids[None], positions)[0])
        return -logprobs[jnp.arange(6, 10), ids[7:]].mean()

    each = [alone(params, jnp.asarray(t.prompt + t.completion)) for t in turns]
    want, want_grad = jax.tree.map(lambda *x: sum(x) / 5, *each)
    batch = pack([turns[:3], turns[3:], []], 48, 40)
    packed = jax.jit(jax.value_and_grad(completion_loss, argnums=1), static_argnums=0)
    got, got_grad = packed(policy, params, batch)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        got_grad,
        want_grad,
    )
