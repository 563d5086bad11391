"""A start for tiny policies: attention that is wired for look-up.

From the usual random start, a network of two layers copies nothing for thousands of
steps. Here layer 0 starts with heads that look 1, 2, ... tokens back, and layer 1 with
induction heads (Olsson et al., "In-context learning and induction heads",
arXiv 2209.11895): a head finds earlier positions whose preceding tokens match, and
copies the token there. The task itself is not wired: untrained, it answers nothing. It
is an ordinary Qwen2 checkpoint.

The residual stream is divided into subspaces: one of the embedding, and one of each
offset head of layer 0, so that "the token 2 back" can be read alone. d is the width, h
the head size, t and r the sizes of the two kinds of subspace, T [d, t] and B_o [d, r]
their orthonormal bases (together of the whole space), P [t, r] the part of a token that
the offset heads carry.

Where a tokenizer has several tokens for a word (in capitals, after a line end), they
start with the embedding of the canonical one, the one that replies use, plus a
direction u, the same for all. T excludes u, so that wired heads do not see it: all
forms of a word match and are copied alike; only writing the canonical one is learnt.
"""

import dataclasses

import jax
import numpy as np

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import Params, make_policy
from gru_mem_jax.policy.rope import frequencies

# (query offsets, key offsets): the head finds positions whose token `key` back equals
# the token `query` back from the current one, for each pair.
Match = tuple[tuple[int, ...], tuple[int, ...]]
MATCHES: tuple[Match, ...] = (
    ((0,), (1,)),  # what follows an earlier copy of this token
    ((0, 1), (1, 2)),  # of the last two tokens
    ((0, 1, 2), (1, 2, 3)),  # of the last three
    ((4,), (1,)),  # what follows a copy of the token 4 back
    ((1,), (2,)),  # what stands two after a copy of the token before
    ((0,), (2,)),  # of this token
    ((1,), (3,)),  # what stands three after a copy of the token before
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuredConfig:
    """The wiring of the start.

    Attributes:
      offsets: layer 0 has heads that look 1 to `offsets` tokens back.
      offset_dims: r, dimensions that each of them writes; in total below the width.
      matches: the matching heads of layer 1.
      sharpness: size of the biases that make the offset heads.
      gain: of the matching heads' queries and keys.
      copy: scale of their outputs.
      noise: in the matching heads' queries and keys, relative to the usual scale.
      heads_out: output of the heads that are not wired, relative to the usual scale.
      mlp_out: output of the MLPs, relative to the usual scale.
      slow: matching uses the RoPE pairs that rotate less than this per token.
      form: length of u in the embedding of a further form of a word, relative to that
        of the word.
    """

    offsets: int = 4
    offset_dims: int = 14
    matches: tuple[Match, ...] = MATCHES
    sharpness: float = 9.0
    gain: float = 2.0
    copy: float = 1.0
    noise: float = 0.1
    heads_out: float = 0.5
    mlp_out: float = 0.25
    slow: float = 0.006
    form: float = 0.5


def structured_init(
    config: PolicyConfig,
    rng: jax.Array,
    structure: StructuredConfig | None = None,
    canonical: np.ndarray | None = None,
) -> Params:
    """Random weights with wired attention, float32.

    The stream begins at variance 1, and the final norm at d^-1/2, so that logits have
    variance 1. Other weights are drawn at the usual scale (d^-1/2), those that write to
    the stream at a smaller one, so that the wired heads dominate.

    Args:
      config: of family qwen2, two layers or more, as many key as query heads.
      rng: a PRNG key.
      structure: the wiring.
      canonical: int [V], for each token the canonical token of its word; None: no word
        has two tokens.

    Returns:
      Params of `make_policy(config)`.

    Raises:
      InputError: the wiring does not fit the shape.
    """
    structure = structure or StructuredConfig()
    _check(config, structure)
    abstract = make_policy(config).abstract_params()
    seed = np.asarray(jax.random.key_data(rng)).ravel().tolist()
    random = np.random.default_rng(seed)
    scales = {"o": structure.heads_out, "down": structure.mlp_out}
    params = _usual(random, abstract, config, scales)
    width, size = config.hidden_size, config.head_dim
    dims = structure.offset_dims
    basis = _orthonormal(random, width, width)
    token = basis[:, dims * structure.offsets :]  # T
    if canonical is not None:
        u, token = token[:, 0], token[:, 1:]
    seen = token @ _orthonormal(random, token.shape[1], dims)  # T P
    # reads[o]: from the stream, the token o back.
    reads = [
        seen,
        *np.split(basis[:, : dims * structure.offsets], structure.offsets, 1),
    ]
    embedding = params["ends"]["embedding"]
    scale = (width / token.shape[1]) ** 0.5
    embedding[:] = scale * (embedding @ token) @ token.T
    if canonical is not None:
        forms = np.flatnonzero(canonical != np.arange(len(canonical)))
        embedding[forms] = embedding[canonical[forms]] + structure.form * width**0.5 * u
    layers = params["layers"]["attn"]
    freq, _ = frequencies(config.rope, size)
    for head in range(structure.offsets):
        _wire_offset(layers, head, freq, reads, structure.sharpness)
    for head, match in enumerate(structure.matches):
        _wire_match(layers, head, match, freq, reads, token, structure, random)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def _wire_offset(layers, head, freq, reads, sharpness) -> None:
    """Layer 0: a head that attends to the token head + 1 back, whatever it is.

    Query and key are constants whose product, rotated by RoPE, is largest at that
    distance.
    """
    half = len(freq)
    at = slice(head * 2 * half, (head + 1) * 2 * half)
    dims = reads[0].shape[1]
    angle = freq * (head + 1)
    for name in ("q", "k", "v"):
        layers[name]["kernel"][0][:, at] = 0
    layers["k"]["bias"][0][at] = sharpness * np.append(np.ones(half), np.zeros(half))
    layers["q"]["bias"][0][at] = sharpness * np.append(np.cos(angle), -np.sin(angle))
    layers["v"]["kernel"][0][:, at][:, :dims] = reads[0]
    layers["o"]["kernel"][0][at][:dims] = reads[head + 1].T


def _wire_match(layers, head, match, freq, reads, token, structure, random) -> None:
    """Layer 1: a head that finds earlier positions by their last tokens, and copies."""
    size = 2 * len(freq)
    at = slice(head * size, (head + 1) * size)
    slow = np.flatnonzero(freq < structure.slow)
    slow = np.append(slow, slow + len(freq))
    query, key = np.zeros((2, len(token), size))
    for query_offset, key_offset in zip(*match):
        into = np.zeros((reads[0].shape[1], size))
        into[:, slow] = _orthonormal(random, len(into), len(slow))
        gain = structure.gain / len(match[0]) ** 0.5
        query += gain * reads[query_offset] @ into
        key += gain * reads[key_offset] @ into
    for name, kernel in (("q", query), ("k", key)):
        usual = layers[name]["kernel"][1][:, at]
        layers[name]["kernel"][1][:, at] = structure.noise * usual + kernel
    copied = min(size, token.shape[1])
    part = token @ _orthonormal(random, token.shape[1], copied)
    layers["v"]["kernel"][1][:, at][:, :copied] = part
    layers["o"]["kernel"][1][at][:copied] = structure.copy * part.T


def _check(config: PolicyConfig, structure: StructuredConfig) -> None:
    wanted = (
        (config.family == "qwen2", f"family qwen2, got {config.family}"),
        (config.num_hidden_layers >= 2, "at least 2 layers"),
        (
            config.num_key_value_heads == config.num_attention_heads,
            "as many key heads as query heads",
        ),
        (config.tie_word_embeddings, "tied embeddings"),
        (
            structure.offsets <= config.num_attention_heads
            and len(structure.matches) <= config.num_attention_heads,
            f"at least {max(structure.offsets, len(structure.matches))} heads",
        ),
        (
            0 < structure.offset_dims <= config.head_dim
            and structure.offset_dims * structure.offsets + structure.offset_dims
            <= config.hidden_size,
            "offset_dims of at most the head size, and (offsets + 1) * offset_dims of "
            "at most the width",
        ),
        (
            all(
                len(query) == len(key) > 0
                and max(*query, *key) <= structure.offsets
                and min(query) >= 0 < min(key)
                for query, key in structure.matches
            ),
            "matches of equal length between offsets that layer 0 has",
        ),
    )
    for holds, text in wanted:
        if not holds:
            raise InputError(f"the structured start needs {text}")
    freq, _ = frequencies(config.rope, config.head_dim)
    if not np.any(freq < structure.slow):
        raise InputError(
            "the structured start needs RoPE pairs slower than "
            f"{structure.slow} a token; raise rope theta (now {config.rope.theta})"
        )


def _usual(
    random: np.random.Generator,
    abstract: Params,
    config: PolicyConfig,
    scales: dict[str, float],
) -> Params:
    """All leaves without wiring, as writable arrays."""

    def draw(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] == "embedding":
            return random.standard_normal(leaf.shape)
        if names[-1] == "scale":
            final = names[-2] == "final_norm"
            return np.full(leaf.shape, config.hidden_size**-0.5 if final else 1.0)
        if names[-1] == "bias":
            return np.zeros(leaf.shape)
        scale = scales.get(names[-2], 1.0) * leaf.shape[-2] ** -0.5
        return scale * random.standard_normal(leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def _orthonormal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] with orthonormal columns (rows, where there are fewer)."""
    tall = random.standard_normal((max(rows, columns), min(rows, columns)))
    q, _ = np.linalg.qr(tall)
    return q if rows >= columns else q.T
