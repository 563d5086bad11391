"""Requests in the engine: their checks, and their rows in the decode program."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gru_mem_jax.agent.requests import Request
from gru_mem_jax.errors import InputError
from gru_mem_jax.sampling import sampler
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.stop_strings import check_stop_strings


class Decoder(Protocol):
    """The part of an Encoder that stop strings need."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""


@dataclasses.dataclass(slots=True)
class Job:
    """A submitted request."""

    handle: int
    request: Request
    prompt: np.ndarray
    submitted: float
    shared: int = 0
    checked: int = 0  # tokens of the completion that were searched for stop strings


def check_request(
    request: Request,
    prompt: np.ndarray,
    config: EngineConfig,
    vocab: int,
    decoder: Decoder | None,
) -> None:
    """Raises InputError if an engine of this configuration cannot run the request."""
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
    if prompt.min() < 0 or prompt.max() >= vocab:
        bad = next(int(i) for i in prompt if not 0 <= i < vocab)
        raise InputError(
            f"token id {bad} of the prompt is not a row of the policy's embedding: "
            f"expected 0 to {vocab - 1}; is the tokenizer the policy's own?"
        )
    if len(set(request.stop_ids)) > config.max_stop_ids:
        raise InputError(
            f"{len(set(request.stop_ids))} stop ids, but the engine's max_stop_ids "
            f"is {config.max_stop_ids}"
        )
    check_stop_strings(request.stop_strings, decoder is not None)


def job_row(job: Job, width: int) -> np.ndarray:
    """The request as a row of the decode program, int32[8 + M]."""
    request, row = job.request, np.full(width, -1, np.int32)
    row[sampler.TOKEN] = job.prompt[-1]
    row[sampler.POSITION] = len(job.prompt) - 1
    row[sampler.BUDGET] = request.max_new_tokens
    words = np.asarray([request.seed >> 32 & 0xFFFFFFFF, request.seed & 0xFFFFFFFF])
    row[sampler.SEED_HIGH : sampler.SEED_LOW + 1] = words.astype(np.uint32).view("i4")
    row[sampler.TOP_K] = min(request.top_k, 2**31 - 1)
    floats = np.asarray([request.temperature, request.top_p], np.float32)
    row[sampler.TEMPERATURE : sampler.TOP_P + 1] = floats.view(np.int32)
    stop_ids = sorted(set(request.stop_ids))
    row[sampler.STOP_IDS : sampler.STOP_IDS + len(stop_ids)] = stop_ids
    return row
