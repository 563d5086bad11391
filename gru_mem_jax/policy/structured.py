"""A start for tiny policies: attention that is wired to look things up.

From the usual random start, a network of two layers copies nothing for thousands of
steps. Here layer 0 starts with heads that look 1, 2, ... tokens back, and layer 1 with
induction heads (Olsson et al., "In-context learning and induction heads",
arXiv 2209.11895): a head finds earlier places whose preceding tokens match, and copies
what stands there. The task is not in it: untrained, it answers nothing. It is an
ordinary Qwen2 checkpoint otherwise.

d is the width, h the head size, V_p [d, h] an orthonormal basis that stands for "which
token", O_o [h, d] the orthonormal basis to which layer 0 writes the token o back.
"""

import dataclasses

import jax
import numpy as np

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import Params, make_policy
from gru_mem_jax.policy.rope import frequencies

# (query offsets, key offsets): the head looks for places whose token `key` back is
# the one `query` back from here, for each pair.
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
    """How the start is wired.

    Attributes:
      offsets: layer 0 has heads that look 1 to `offsets` tokens back.
      matches: the matching heads of layer 1.
      sharpness: s, size of the biases that make the offset heads.
      gain: g, of the matching heads.
      noise: of the usual scale, in the matching heads' queries and keys.
      slow: matching uses the RoPE pairs that turn less than this per token.
    """

    offsets: int = 4
    matches: tuple[Match, ...] = MATCHES
    sharpness: float = 9.0
    gain: float = 2.0
    noise: float = 0.1
    slow: float = 0.006


def structured_init(
    config: PolicyConfig, rng: jax.Array, structure: StructuredConfig | None = None
) -> Params:
    """Random weights with wired attention, float32.

    The embedding has variance 1, and the final norm starts at d^-1/2, so that logits
    have variance 1. Queries, keys and values are drawn at the usual scale (d^-1/2),
    attention outputs at half, the MLP's down-projection at a quarter of it.

    Args:
      config: of family qwen2, two layers or more, as many key as query heads.
      rng: a PRNG key.
      structure: the wiring.

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
    width, size = config.hidden_size, config.head_dim
    params = _usual(random, abstract, config)
    layers = params["layers"]["attn"]
    freq, _ = frequencies(config.rope, size)
    token = _orthonormal(random, width, size)  # V_p
    back = [_orthonormal(random, width, size).T for _ in range(structure.offsets)]

    def columns(head):
        return slice(head * size, (head + 1) * size)

    for head in range(structure.offsets):
        at, angle = columns(head), freq * (head + 1)
        for name in ("q", "k"):
            layers[name]["kernel"][0][:, at] = 0
        ones, zeros = np.ones(size // 2), np.zeros(size // 2)
        layers["k"]["bias"][0][at] = structure.sharpness * np.append(ones, zeros)
        turned = np.append(np.cos(angle), -np.sin(angle))
        layers["q"]["bias"][0][at] = structure.sharpness * turned
        layers["v"]["kernel"][0][:, at] = token
        layers["o"]["kernel"][0][at] = 0.5 * back[head]

    reads = [token, *(b.T for b in back)]  # what stood 0, 1, 2, ... tokens back
    slow = np.flatnonzero(freq < structure.slow)
    slow = np.append(slow, slow + size // 2)
    for head, (query, key) in enumerate(structure.matches):
        at, gain = columns(head), structure.gain / len(query) ** 0.5
        wired = {"q": 0.0, "k": 0.0}
        for query_offset, key_offset in zip(query, key):
            into = np.zeros((size, size))
            into[:, slow] = _orthonormal(random, size, len(slow))
            wired["q"] = wired["q"] + gain * reads[query_offset] @ into
            wired["k"] = wired["k"] + gain * reads[key_offset] @ into
        for name, kernel in wired.items():
            usual = layers[name]["kernel"][1][:, at]
            layers[name]["kernel"][1][:, at] = structure.noise * usual + kernel
        copy = _orthonormal(random, width, size)
        layers["v"]["kernel"][1][:, at] = copy
        layers["o"]["kernel"][1][at] = 0.5 * copy.T
    return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


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


def _usual(random: np.random.Generator, abstract: Params, config: PolicyConfig):
    """Every leaf as it is drawn without wiring, as writable arrays."""
    scales = {"o": 0.5, "down": 0.25}

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
