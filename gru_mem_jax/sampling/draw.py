"""Drawing one token per row: greedy, temperature, top-k, top-p, log-probabilities.

A draw is an inverse CDF in two levels (a group of tokens by its mass, then a token
of that group): a draw over 152k logits by `jax.random.categorical` costs forty times
as much on a CPU. Each level has 24 random bits of its own.

The random bits of a row depend only on its request's seed and on the position of the
token: a request draws the same numbers beside any other requests and in any slot.

Filters act in the usual order: temperature, then top-k, then top-p over the tokens that
top-k kept, renormalised. Both reduce to one threshold on the logits; tokens that tie
with the last one kept are kept. The threshold is searched among the PREFIX most likely
tokens; for rows whose top-k or nucleus is larger, by bisection over all logits: as
exact, but slower.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

PREFIX = 256
MIN_TEMPERATURE = 1e-5  # smaller ones, except 0, are raised to it


class Draw(NamedTuple):
    """One token per row.

    Attributes:
      tokens: int32[B].
      logprobs: float32[B], under softmax(logits).
      sampling_logprobs: float32[B], under the distribution drawn from; 0 if greedy.
    """

    tokens: jax.Array
    logprobs: jax.Array
    sampling_logprobs: jax.Array


def uniforms(seeds: jax.Array, positions: jax.Array) -> jax.Array:
    """Two numbers in [0, 1) for each row: one Threefry block, keyed by the seed.

    Args:
      seeds: uint32[B, 2], the high and the low word of each request's seed.
      positions: int32[B], position of the token that is drawn.

    Returns:
      float32[B, 2], multiples of 2**-24.
    """

    counters = jnp.concatenate([positions, jnp.zeros_like(positions)])
    words = threefry_2x32((seeds[:, 0], seeds[:, 1]), counters.astype(jnp.uint32))
    words = words.reshape(2, -1).T
    return (words >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def draw(
    logits: jax.Array,
    seeds: jax.Array,
    positions: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
) -> Draw:
    """Draws one token per row; rows are independent of each other.

    Args:
      logits: float32[B, V].
      seeds: uint32[B, 2].
      positions: int32[B].
      temperature: float32[B]; 0 takes the most likely token (the first of equals).
      top_k: int32[B]; 0 keeps all.
      top_p: float32[B]; 1 keeps all.
    """
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    top = jnp.max(logits, axis=-1)
    log_total = jnp.log(jnp.exp(logits - top[:, None]).sum(-1))
    sampled = temperature > 0

    def sample(_):
        heat = jnp.maximum(temperature, MIN_TEMPERATURE)
        filtered = sampled & ((top_k > 0) | (top_p < 1))
        threshold = jax.lax.cond(
            filtered.any(),
            lambda: jnp.where(
                filtered, _thresholds(logits, top, heat, top_k, top_p), -jnp.inf
            ),
            lambda: jnp.full_like(top, -jnp.inf),
        )
        tokens, log_mass = _inverse_cdf(
            logits, top, heat, threshold, uniforms(seeds, positions)
        )
        chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return (
            jnp.where(sampled, tokens, best),
            jnp.where(sampled, (chosen - top) / heat - log_mass, 0.0),
        )

    tokens, sampling_logprobs = jax.lax.cond(
        sampled.any(), sample, lambda _: (best, jnp.zeros_like(top)), None
    )
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return Draw(tokens, chosen - top - log_total, sampling_logprobs)


def _weights(logits, top, heat, threshold):
    """Unnormalised probabilities of the tokens at or above the threshold."""
    weights = jnp.exp((logits - top[:, None]) / heat[:, None])
    return jnp.where(logits >= threshold[:, None], weights, 0.0)


def _inverse_cdf(logits, top, heat, threshold, u):
    """Tokens int32[B] and the log of the kept mass, float32[B]."""
    num_rows, vocab = logits.shape
    width = 128 if vocab > 4096 else 32
    groups = -(-vocab // width)
    weights = _weights(logits, top, heat, threshold)
    weights = jnp.pad(weights, ((0, 0), (0, groups * width - vocab)))
    masses = weights.reshape(num_rows, groups, width).sum(-1)
    group = _pick(masses, u[:, 0])
    # Rereading the group's logits is cheaper than keeping all weights.
    ids = group[:, None] * width + jnp.arange(width, dtype=jnp.int32)[None]
    members = jnp.take_along_axis(logits, jnp.minimum(ids, vocab - 1), axis=-1)
    members = jnp.where(ids < vocab, _weights(members, top, heat, threshold), 0.0)
    tokens = group * width + _pick(members, u[:, 1])
    return jnp.minimum(tokens, vocab - 1), jnp.log(masses.sum(-1))


def _pick(weights, u):
    """First index whose cumulative weight exceeds u times the total, int32[B].

    Never an index of weight 0, whatever the rounding of the sums.
    """
    cumulative = jnp.cumsum(weights, axis=-1)
    positive = weights > 0
    hit = positive & (cumulative > (u * cumulative[:, -1])[:, None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[:, ::-1], axis=-1)
    return jnp.where(hit.any(-1), jnp.argmax(hit, axis=-1), last).astype(jnp.int32)


def _thresholds(logits, top, heat, top_k, top_p):
    """Smallest logit that top-k and then top-p keep, float32[B]."""
    vocab = logits.shape[-1]
    size = min(PREFIX, vocab)
    top_k = jnp.minimum(top_k, vocab)
    best, _ = jax.lax.top_k(logits, size)
    kth_index = jnp.clip(top_k - 1, 0, size - 1)[:, None]
    kth = jnp.take_along_axis(best, kth_index, axis=-1)[:, 0]
    kth = jnp.where(top_k > 0, kth, -jnp.inf)
    total = _weights(logits, top, heat, kth).sum(-1)
    mass = jnp.cumsum(_weights(best, top, heat, kth), axis=-1)
    reached = mass >= (top_p * total)[:, None]
    last = jnp.take_along_axis(best, jnp.argmax(reached, -1)[:, None], axis=-1)[:, 0]
    threshold = jnp.where(top_p < 1, jnp.maximum(kth, last), kth)
    too_long = (top_k > size) | ((top_p < 1) & ~reached.any(-1))
    return jax.lax.cond(
        too_long.any(),
        lambda: jnp.where(
            too_long, _bisected(logits, top, heat, top_k, top_p), threshold
        ),
        lambda: threshold,
    )


def _bisected(logits, top, heat, top_k, top_p):
    """As `_thresholds`, by bisection over the bit patterns of the logits."""
    kth = _largest(logits, lambda t: (logits >= t[:, None]).sum(-1) >= top_k)
    kth = jnp.where(top_k > 0, kth, -jnp.inf)
    total = _weights(logits, top, heat, kth).sum(-1)

    def enough(threshold):
        mass = _weights(logits, top, heat, jnp.maximum(kth, threshold)).sum(-1)
        return mass >= top_p * total

    nucleus = jnp.where(top_p < 1, _largest(logits, enough), -jnp.inf)
    return jnp.maximum(kth, nucleus)


def _largest(logits, holds):
    """Largest float32[B] for which the falling predicate `holds` is still true."""

    # Read as integers, with the negative ones mirrored, floats keep their order.
    def mirrored(bits):
        return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))

    def as_float(key):
        return jax.lax.bitcast_convert_type(mirrored(key), jnp.float32)

    def halve(_, bounds):
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, without overflow
        ok = holds(as_float(middle))
        return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

    def key_of(value):
        return mirrored(jax.lax.bitcast_convert_type(value, jnp.int32))

    low = jnp.full(logits.shape[:1], key_of(jnp.float32(-jnp.inf)), jnp.int32)
    high = key_of(logits.max(-1)) + 1
    low, _ = jax.lax.fori_loop(0, 32, halve, (low, high))
    return as_float(low)
