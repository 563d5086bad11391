"""A sampler of ten lines, for tests: greedy tokens through the cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gru_mem_jax.policy.functional import Params, Policy

ROWS = (2, 100)


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
      prompt: int32 [1 or 2, L]; one row is computed twice, to compile less.
      steps: how many tokens are made.

    Returns:
      int32 [B, steps], and the logits that each was chosen by, float32 [B, steps, V].
    """
    rows = len(prompt)
    both = np.concatenate([prompt, prompt])[:2].astype(np.int32)
    tokens, logits = _greedy(policy, params, both, steps)
    return np.asarray(tokens)[:rows], np.asarray(logits)[:rows]


@functools.partial(jax.jit, static_argnums=0)
def _apply(policy, params, tokens, positions):
    return policy.apply(params, tokens, positions)


def whole_rows(
    policy: Policy,
    params: Params,
    tokens: np.ndarray,
    positions: np.ndarray | None = None,
) -> np.ndarray:
    """Logits of two rows by the full forward pass, float32 [2, L, V].

    Rows are padded to ROWS, so that each policy is compiled once for all tests.

    Args:
      policy: the policy.
      params: stacked form.
      tokens: int32 [1 or 2, L], L at most that of ROWS.
      positions: int32 as `tokens`; None: 0, 1, 2, ...
    """
    rows, length = tokens.shape
    if positions is None:
        positions = np.broadcast_to(np.arange(length), tokens.shape)
    padded = np.zeros(ROWS, np.int32)
    padded_positions = np.full(ROWS, -1, np.int32)
    padded[:rows, :length] = tokens
    padded_positions[:rows, :length] = positions
    logits = _apply(policy, params, padded, padded_positions)
    return np.asarray(logits)[:rows, :length]
