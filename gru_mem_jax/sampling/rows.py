"""A request as the decode program takes it, and what a request must not be."""

import numpy as np

from gru_mem_jax.agent.requests import Request
from gru_mem_jax.errors import InputError
from gru_mem_jax.sampling import sampler
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.stop_strings import check_stop_strings


def check_request(
    request: Request,
    prompt: np.ndarray,
    config: EngineConfig,
    vocab_size: int,
    can_decode: bool,
) -> None:
    """Refuses a request that could never run.

    Args:
      request: to be checked.
      prompt: its ids, int64[n].
      config: of the engine.
      vocab_size: V; JAX would clamp ids beyond it silently.
      can_decode: whether there is something to decode stop strings with.

    Raises:
      InputError: says what, and what to do.
    """
    length, budget = len(prompt), request.max_new_tokens
    if length == 0:
        raise InputError("the prompt is empty: expected at least one token")
    if budget < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {budget}")
    if length + budget > config.max_length:
        raise InputError(
            f"the prompt's {length} tokens and a budget of {budget} new ones "
            f"exceed the engine's max_length {config.max_length}: shorten "
            f"the prompt or raise max_length"
        )
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        bad = next(int(i) for i in prompt if not 0 <= i < vocab_size)
        raise InputError(
            f"token id {bad} of the prompt is no row of the policy's embedding: "
            f"expected 0 to {vocab_size - 1}; is the tokenizer the policy's own?"
        )
    stop_ids = set(request.stop_ids)
    if len(stop_ids) > config.max_stop_ids:
        raise InputError(
            f"{len(stop_ids)} stop ids, but the engine's max_stop_ids is "
            f"{config.max_stop_ids}"
        )
    check_stop_strings(request.stop_strings, can_decode)


def request_row(request: Request, prompt: np.ndarray, width: int) -> np.ndarray:
    """A row for the decode program, about to be fed the prompt's last token.

    Args:
      request: a checked one.
      prompt: its ids, int32[n].
      width: 8 + M.

    Returns:
      int32[8 + M].
    """
    row = np.full(width, -1, np.int32)
    row[sampler.TOKEN] = prompt[-1]
    row[sampler.POSITION] = len(prompt) - 1
    row[sampler.BUDGET] = request.max_new_tokens
    words = np.asarray([request.seed >> 32 & 0xFFFFFFFF, request.seed & 0xFFFFFFFF])
    row[sampler.SEED_HIGH : sampler.SEED_LOW + 1] = words.astype(np.uint32).view("i4")
    row[sampler.TOP_K] = min(request.top_k, 2**31 - 1)
    floats = np.asarray([request.temperature, request.top_p], np.float32)
    row[sampler.TEMPERATURE : sampler.TOP_P + 1] = floats.view(np.int32)
    # An id beyond the vocabulary is never drawn, and one beyond int32 has no place.
    stop_ids = sorted(i for i in set(request.stop_ids) if 0 <= i < 2**31)
    row[sampler.STOP_IDS : sampler.STOP_IDS + len(stop_ids)] = stop_ids
    return row
