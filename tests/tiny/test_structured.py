"""The structured start: wired attention, no knowledge of the task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.rope import cos_sin, frequencies, rotate
from gru_mem_jax.policy.rope_config import RopeConfig
from gru_mem_jax.tiny.structured import (
    MATCHES,
    StructuredConfig,
    structured_init,
)

CONFIG = PolicyConfig(
    family="qwen2",
    vocab_size=200,
    hidden_size=96,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    head_dim=32,
    rope=RopeConfig(theta=1e6),
)
LENGTH = 60


@pytest.fixture(scope="module")
def params():
    return structured_init(CONFIG, jax.random.key(0))


def weights(config, bias_q, bias_k):
    """Attention weights [L, L] of a head whose query and key are constants."""
    freq, _ = frequencies(config.rope, config.head_dim)
    angle = np.arange(LENGTH)[:, None] * freq

    def turned(x):
        first, second = np.split(x, 2)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.append(first * cos - second * sin, second * cos + first * sin, axis=1)

    product = turned(bias_q) @ turned(bias_k).T * config.score_scale
    product = np.where(np.tri(LENGTH, dtype=bool), product, -np.inf)
    unscaled = np.exp(product - product.max(axis=-1, keepdims=True))
    return unscaled / unscaled.sum(axis=-1, keepdims=True)


def attention(layer, stream, positions):
    """One layer's attention output [1, L, D], and its weights [Q, L, L]."""
    normed = stream / jnp.sqrt(jnp.mean(stream**2, axis=-1, keepdims=True))
    cos, sin = cos_sin(CONFIG.rope, CONFIG.head_dim, positions)

    def project(name):
        part = layer["attn"][name]
        flat = normed[0] @ part["kernel"] + part["bias"][None]
        return flat.reshape(1, len(flat), -1, CONFIG.head_dim)

    query, key = rotate(project("q"), cos, sin), rotate(project("k"), cos, sin)
    scores = jnp.einsum("bqhd,bkhd->hqk", query, key) * CONFIG.score_scale
    scores = jnp.where(np.tri(stream.shape[1], dtype=bool)[None], scores, -1e30)
    seen = jax.nn.softmax(scores)
    out = jnp.einsum("hqk,bkhd->bqhd", seen, project("v"))
    out = out.reshape(1, stream.shape[1], -1) @ layer["attn"]["o"]["kernel"]
    return out, np.asarray(seen)


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
@pytest.mark.parametrize(("theta", "size"), [(1e4, 16), (1e6, 16), (1e6, 32)])
def test_first_heads_look_a_fixed_number_of_tokens_back(offset, theta, size):
    config = dataclasses.replace(
        CONFIG, rope=RopeConfig(theta=theta), head_dim=size, layer_types=None
    )
    params = structured_init(config, jax.random.key(1))
    attention = params["layers"]["attn"]
    at = slice((offset - 1) * size, offset * size)
    seen = weights(config, attention["q"]["bias"][0][at], attention["k"]["bias"][0][at])
    assert not attention["q"]["kernel"][0][:, at].any()
    for place in range(offset, LENGTH):
        assert seen[place, place - offset] > 0.95


def test_matching_heads_find_their_places(params):
    """Each head of layer 1, untrained, on runs of tokens that come back once."""
    rng = np.random.default_rng(0)
    tokens = rng.permutation(200)[:60]
    tokens = np.append(tokens, tokens[20:50])
    positions = jnp.arange(90, dtype=jnp.int32)[None]
    stream = jnp.asarray(params["ends"]["embedding"][tokens])[None]
    layers = [jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(2)]
    stream = stream + attention(layers[0], stream, positions)[0]
    _, seen = attention(layers[1], stream, positions)
    for head, (query, key) in enumerate(MATCHES):
        if query == (4,):  # two copies of the token 4 back: it cannot know which
            continue
        shift = key[0] - query[0]
        hits = [seen[head, i, i - 60 + 20 + shift] for i in range(65, 88)]
        assert np.mean(hits) > 0.7, head  # by chance 0.012


def test_forms_of_a_word_match_and_are_copied_alike():
    """Token 100 + i is a further form of token i."""
    canonical = np.arange(200)
    canonical[100:] -= 100
    params = structured_init(CONFIG, jax.random.key(0), canonical=canonical)
    embedding = params["ends"]["embedding"]
    apart = embedding[100:] - embedding[:100]
    np.testing.assert_allclose(apart, np.tile(apart[:1], (100, 1)), atol=1e-5)
    # 0.5 of a word, at right angles to all words.
    np.testing.assert_allclose(np.linalg.norm(apart[0]), 0.5 * 96**0.5, rtol=1e-5)
    np.testing.assert_allclose(embedding[:100] @ apart[0], 0, atol=1e-4)
    # Seen by other forms in a run that comes back, and copied as the same.
    rng = np.random.default_rng(0)
    words = rng.permutation(100)[:60]
    words = np.append(words, words[20:50])
    positions = jnp.arange(90, dtype=jnp.int32)[None]
    layers = [jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(2)]

    def run(forms):
        stream = jnp.asarray(embedding[words + 100 * forms])[None]
        stream = stream + attention(layers[0], stream, positions)[0]
        return attention(layers[1], stream, positions)

    seen = run(rng.integers(0, 2, 90))[1]
    hits = [seen[1, i, i - 60 + 21] for i in range(65, 88)]  # of the last two tokens
    assert np.mean(hits) > 0.7


def test_logits_and_stream_have_unit_variance(params):
    policy = make_policy(CONFIG)
    tokens = np.random.default_rng(1).integers(0, 200, (4, 50)).astype(np.int32)
    positions = np.broadcast_to(np.arange(50, dtype=np.int32), (4, 50))
    logits = policy.apply(params, jnp.asarray(tokens), jnp.asarray(positions))
    assert 0.8 < float(jnp.std(logits)) < 1.6
    assert 0.9 < float(np.std(params["ends"]["embedding"])) < 1.1


def test_the_start_is_a_function_of_its_key(params):
    again = structured_init(CONFIG, jax.random.key(0))
    other = structured_init(CONFIG, jax.random.key(1))
    same = jax.tree.map(np.array_equal, params, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(params["ends"]["embedding"], other["ends"]["embedding"])
    abstract = make_policy(CONFIG).abstract_params()
    jax.tree.map(
        lambda a, p: np.testing.assert_equal(a.shape, p.shape), abstract, params
    )


@pytest.mark.parametrize(
    ("changes", "structure", "message"),
    [
        ({"family": "qwen3"}, {}, "family qwen2, got qwen3"),
        ({"num_hidden_layers": 1}, {}, "at least 2 layers"),
        ({"num_key_value_heads": 4}, {}, "as many key heads"),
        ({"tie_word_embeddings": False}, {}, "tied embeddings"),
        ({}, {"offsets": 9}, "at least 9 heads"),
        ({}, {"matches": (((5,), (1,)),)}, "offsets that layer 0 has"),
        ({}, {"matches": (((0,), (0,)),)}, "offsets that layer 0 has"),
        ({}, {"matches": (((0, 1), (1,)),)}, "of equal length"),
        ({}, {"slow": 1e-9}, "raise rope theta"),
        ({}, {"offset_dims": 20}, "offset_dims of at most"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, structure, message):
    config = dataclasses.replace(CONFIG, layer_types=None, **changes)
    with pytest.raises(InputError, match=message):
        structured_init(config, jax.random.key(0), StructuredConfig(**structure))
