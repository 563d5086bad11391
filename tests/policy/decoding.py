"""A sampler of ten lines, for tests: greedy tokens through the cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gru_mem_jax.policy.functional import Params, Policy


@functools.partial(jax.jit, static_argnums=(0, 3))
def _greedy(policy: Policy, params: Params, prompt: jax.Array, steps: int):
    rows, length = prompt.shape
    size = length + steps
    positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
    hidden, cache = policy.extend(
        params,
        policy.init_cache(rows, size),
        prompt,
        positions,
        jnp.arange(rows),
        attend=length,
        fresh=True,
    )

    def step(state, index):
        hidden, cache = state
        logits = policy.logits(params, hidden)
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        position = jnp.full((rows, 1), length + index)
        hidden, cache = policy.extend(
            params, cache, token[:, None], position, attend=size
        )
        return (hidden[:, 0], cache), (token, logits)

    _, (tokens, logits) = jax.lax.scan(step, (hidden[:, -1], cache), jnp.arange(steps))
    return tokens.T, logits.swapaxes(0, 1)


def greedy(
    policy: Policy, params: Params, prompt: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Continues prompts of one length.

    Args:
      policy: the policy.
      params: sampling form.
      prompt: int32 [B, L].
      steps: how many tokens are made.

    Returns:
      int32 [B, steps], and the logits that each was chosen by, float32 [B, steps, V].
    """
    tokens, logits = _greedy(policy, params, jnp.asarray(prompt, jnp.int32), steps)
    return np.asarray(tokens), np.asarray(logits)


@functools.partial(jax.jit, static_argnums=0)
def _apply(policy, params, tokens, positions):
    return policy.apply(params, tokens, positions)


def whole_rows(policy: Policy, params: Params, tokens: np.ndarray) -> np.ndarray:
    """Logits of rows of one length, by the full forward pass."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return np.asarray(_apply(policy, params, jnp.asarray(tokens, jnp.int32), positions))
