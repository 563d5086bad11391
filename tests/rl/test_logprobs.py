"""Logprobs in blocks: those of the whole logits, in both passes, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.logprobs import likeliest, row_logprobs, token_logprobs
from gru_mem_jax.rl.packing import PackedRows

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.4,
}
POLICY = make_policy(PolicyConfig(**CONFIG))
PARAMS = POLICY.init(jax.random.key(0))
ROWS, LENGTH = 3, 11


def tokens_and_mask(seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, CONFIG["vocab_size"], (ROWS, LENGTH)).astype(np.int32)
    return tokens, (rng.random((ROWS, LENGTH)) < share).astype(np.float32)


def hidden_of(policy, params, tokens):
    positions = np.broadcast_to(
        np.arange(tokens.shape[1], dtype=np.int32), tokens.shape
    )
    return policy.hidden(params, tokens, positions)


def reference(policy, params, hidden, tokens, mask, temperature=1.0):
    """Token by token in float64, from the logits of whole rows."""
    logits = np.asarray(policy.logits(params, hidden), np.float64) / temperature
    logprobs, entropy = np.zeros((2, *tokens.shape))
    for b, t in zip(*np.nonzero(mask)):
        if t > 0:
            row = logits[b, t - 1] - logits[b, t - 1].max()
            probabilities = np.exp(row) / np.exp(row).sum()
            logprobs[b, t] = np.log(probabilities[tokens[b, t]])
            entropy[b, t] = -np.sum(probabilities * np.log(probabilities))
    return logprobs, entropy


@pytest.mark.parametrize("chunk", [1, 4, 512])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_logprobs_equal_float64(chunk, share):
    tokens, mask = tokens_and_mask(share=share)
    hidden = hidden_of(POLICY, PARAMS, tokens)
    got = jax.jit(functools.partial(token_logprobs, POLICY, chunk=chunk))(
        PARAMS, hidden, tokens, mask
    )
    for mine, theirs in zip(got, reference(POLICY, PARAMS, hidden, tokens, mask)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        assert mine.dtype == jnp.float32


def test_temperature_divides_the_logits():
    tokens, mask = tokens_and_mask()
    hidden = hidden_of(POLICY, PARAMS, tokens)
    got = token_logprobs(POLICY, PARAMS, hidden, tokens, mask, temperature=0.5)
    for mine, theirs in zip(got, reference(POLICY, PARAMS, hidden, tokens, mask, 0.5)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_without_a_mask_all_but_the_first_are_wanted():
    tokens, _ = tokens_and_mask()
    hidden = hidden_of(POLICY, PARAMS, tokens)
    everywhere = np.ones(tokens.shape, np.float32)
    got, _ = token_logprobs(POLICY, PARAMS, hidden, tokens)
    theirs, _ = reference(POLICY, PARAMS, hidden, tokens, everywhere)
    np.testing.assert_allclose(got, theirs, rtol=1e-5, atol=1e-5)
    assert not np.any(got[:, 0])


def test_a_uniform_policy_by_hand():
    """Zero hidden states give equal logits: log 1/61 and entropy log 61."""
    tokens, mask = tokens_and_mask(share=1.0)
    hidden = jnp.zeros((ROWS, LENGTH, CONFIG["hidden_size"]))
    logprobs, entropy = token_logprobs(POLICY, PARAMS, hidden, tokens, mask)
    np.testing.assert_allclose(logprobs[:, 1:], -np.log(61), rtol=1e-6)
    np.testing.assert_allclose(entropy[:, 1:], np.log(61), rtol=1e-6)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_gradients_equal_those_of_whole_logits(tied):
    policy = make_policy(
        PolicyConfig(**CONFIG, tie_word_embeddings=tied, final_logit_softcapping=5.0)
    )
    params = policy.init(jax.random.key(1))
    tokens, mask = tokens_and_mask(1)
    weights = np.random.default_rng(2).normal(size=mask.shape).astype(np.float32)

    def in_blocks(params, hidden):
        got, _ = token_logprobs(policy, params, hidden, tokens, mask, chunk=3)
        return jnp.sum(got * weights)

    def whole(params, hidden):
        logprobs = jax.nn.log_softmax(policy.logits(params, hidden))[:, :-1]
        picked = jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(picked * (weights * mask)[:, 1:])

    hidden = hidden_of(policy, params, tokens)
    got = jax.jit(jax.grad(in_blocks, argnums=(0, 1)))(params, hidden)
    expected = jax.jit(jax.grad(whole, argnums=(0, 1)))(params, hidden)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5),
        got,
        expected,
    )
    assert any(np.any(g) for g in jax.tree.leaves(got))


def test_entropy_has_no_gradient():
    tokens, mask = tokens_and_mask()
    hidden = hidden_of(POLICY, PARAMS, tokens)

    def entropy(hidden):
        return token_logprobs(POLICY, PARAMS, hidden, tokens, mask)[1].sum()

    assert float(entropy(hidden)) > 0
    assert not np.any(jax.grad(entropy)(hidden))


@pytest.fixture(scope="module")
def wide():
    """64 tokens over a vocabulary of 4096: whole logits are 1 MB in float32."""
    config = PolicyConfig(**CONFIG | {"vocab_size": 4096, "hidden_size": 8})
    policy = make_policy(config)
    arguments = (
        policy.abstract_params(),
        jax.ShapeDtypeStruct((1, 64, 8), jnp.float32),
        jax.ShapeDtypeStruct((1, 64), jnp.int32),
        jax.ShapeDtypeStruct((1, 64), jnp.float32),
    )

    def compiled(chunk):
        def loss(params, hidden, tokens, mask):
            got = token_logprobs(policy, params, hidden, tokens, mask, chunk=chunk)
            return got[0].sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()

    return compiled


def test_the_logits_never_exist_whole(wide):
    """In the compiled forward and backward pass: 8 rows of logits at a time, not 64."""
    whole, blocks = wide(64), wide(8)
    assert "f32[1,64,4096]" in whole.as_text()
    assert "f32[1,8,4096]" in blocks.as_text()
    for shape in ("f32[1,64,4096]", "f32[64,4096]", "f32[8,1,8,4096]", "f32[8,8,4096]"):
        assert shape not in blocks.as_text()
    saved = [c.memory_analysis().temp_size_in_bytes for c in (whole, blocks)]
    assert saved[0] - saved[1] > 64 * 4096 * 4


def test_blocks_of_prompts_are_skipped():
    """The head is run where tokens are wanted, and there alone."""
    tokens, _ = tokens_and_mask()
    mask = np.zeros(tokens.shape, np.float32)
    mask[:, [4, 9]] = 1
    hidden = np.array(hidden_of(POLICY, PARAMS, tokens))
    calls = []

    class Counting:
        def logits(self, params, states):
            jax.debug.callback(lambda: calls.append(states.shape))
            return POLICY.logits(params, states)

    got, _ = token_logprobs(Counting(), PARAMS, hidden, tokens, mask, chunk=2)
    jax.effects_barrier()
    # Two wanted tokens in each row fit in one block of the six.
    assert calls == [(ROWS, 2, CONFIG["hidden_size"])]
    expected, _ = reference(POLICY, PARAMS, hidden, tokens, mask)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_row_logprobs_do_not_depend_on_padding_or_remat():
    tokens, mask = tokens_and_mask()
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    rows = PackedRows(
        tokens=tokens,
        positions=positions,
        reach=np.full_like(tokens, LENGTH),
        completion_mask=mask,
        support=np.zeros_like(tokens),
        advantages=mask,
        sampler_logprobs=mask,
        conversation=np.zeros_like(tokens),
    )
    hidden = hidden_of(POLICY, PARAMS, tokens)
    expected, _ = token_logprobs(POLICY, PARAMS, hidden, tokens, mask)
    got, _ = row_logprobs(POLICY, PARAMS, rows, chunk=4, remat=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)

    fills = {"positions": -1, "conversation": -1}
    padded = PackedRows(
        **{
            name: np.pad(x, ((0, 2), (0, 5)), constant_values=fills.get(name, 0))
            for name, x in vars(rows).items()
        }
    )
    got, entropy = row_logprobs(POLICY, PARAMS, padded, chunk=4)
    np.testing.assert_allclose(got[:ROWS, :LENGTH], expected, rtol=1e-5, atol=1e-5)
    assert not np.any(got[ROWS:])
    assert not np.any(entropy[:, LENGTH:])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "head"])
def test_a_mesh_changes_rounding_only(tied):
    """Each device goes through its own rows, with the head gathered and split again."""
    changes = {"vocab_size": 62, "tie_word_embeddings": tied}
    policy = make_policy(PolicyConfig(**CONFIG | changes))
    params = policy.init(jax.random.key(3))
    rng = np.random.default_rng(3)
    hidden = jnp.asarray(rng.normal(size=(8, 7, 16)), jnp.float32)
    tokens = rng.integers(0, 62, (8, 7)).astype(np.int32)
    mask = (rng.random((8, 7)) < 0.4).astype(np.float32)
    mask[3] = 0  # a device without any wanted token
    weights = rng.normal(size=(8, 7)).astype(np.float32)

    def results(mesh):
        def total(params, hidden):
            logprobs, entropy = token_logprobs(
                policy, params, hidden, tokens, mask, chunk=3, mesh=mesh
            )
            return (logprobs * weights).sum(), (logprobs, entropy)

        grads, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, hidden)
        right = jax.jit(
            lambda: likeliest(policy, params, hidden, tokens, mask, mesh=mesh)
        )()
        return grads, values, right

    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    for got, want in zip(*(jax.tree.leaves(results(m)) for m in (mesh, None))):
        np.testing.assert_allclose(got, want, atol=2e-6)
