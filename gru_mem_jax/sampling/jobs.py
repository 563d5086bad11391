"""Requests in the engine: their checks, and their rows in the decode program."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gru_mem_jax.agent.requests import Prompt, Request, prompt_ids
from gru_mem_jax.errors import InputError
from gru_mem_jax.sampling import sampler
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.forms import check_grammar
from gru_mem_jax.sampling.stop_strings import check_stop_strings


class Decoder(Protocol):
    """The part of an Encoder that stop strings need."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""


@dataclasses.dataclass(frozen=True, slots=True)
class Front:
    """Leading tokens of a prompt that are held as a trunk.

    Attributes:
      ids: int32[t].
      document: how many of them end with the document's chunk; 0: it does not come
        before question and memory.
    """

    ids: np.ndarray
    document: int

    @property
    def key(self) -> bytes:
        """The ids, to look a trunk up by."""
        return self.ids.tobytes()


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """A submitted request."""

    handle: int
    request: Request
    prompt: np.ndarray
    submitted: float
    trunk: Front
    key: bytes  # of the trunk; empty: it has none
    ahead: tuple[Front, ...] = ()  # of requests to come
    shared: int = 0
    passed: int = 0  # later requests that were run before it
    checked: int = 0  # tokens of the completion that were searched for stop strings

    @property
    def tail_length(self) -> int:
        """Tokens of the prompt behind the trunk."""
        return len(self.prompt) - len(self.trunk.ids)


def new_job(
    handle: int, request: Request, prompt: np.ndarray, now: float, config: EngineConfig
) -> Job:
    """The job of a request that `check_request` accepts; `prompt` has all its ids."""
    prompt = prompt.astype(np.int32)
    trunk = _front(request.prompt, prompt, trunk_tokens(request, config))
    ahead = []
    for part in request.ahead if config.trunks else ():
        ids = np.asarray(prompt_ids(part), np.int32)[: config.pool_lengths[0]]
        ahead.append(_front(part, ids, len(ids)))
    fronts = tuple(front for front in ahead if len(front.ids))
    return Job(handle, request, prompt, now, trunk, trunk.key, fronts)


def trunk_tokens(request: Request, config: EngineConfig) -> int:
    """How many leading tokens of a request's prompt are held as its trunk.

    All before the first memory segment, but for a short front of a prompt that fits the
    tail; more where the tail would otherwise be exceeded. The last token of a prompt is
    always the tail's.
    """
    trunk, tail = config.pool_lengths
    length = sum(len(segment.ids) for segment in request.prompt)
    whole = length + request.max_new_tokens
    # A document is worth an entry of the pool, a template and a question hardly.
    front, short = 0, trunk // 4
    for segment in request.prompt:
        if segment.role == "memory":
            break
        if segment.role == "chunk":
            short = config.min_shared_tokens
        front += len(segment.ids)
    if not config.trunks or (whole <= tail and front < short):
        return 0
    return max(min(front, length - 1, trunk), whole - tail)


def _front(prompt: Prompt, ids: np.ndarray, length: int) -> Front:
    """The first `length` ids of a prompt, and how many are its document's."""
    document = seen = 0
    for segment in prompt:
        seen += len(segment.ids)
        if segment.role == "chunk":
            document = seen
        if segment.role != "control":
            break
    return Front(ids[:length], min(document, length))


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
    tail = config.pool_lengths[1]
    if config.trunks and budget >= tail:
        raise InputError(
            f"a budget of {budget} new tokens needs a tail_length of at least "
            f"{budget + 1}, and the engine's is {tail}: raise tail_length"
        )
    if prompt.min() < 0 or prompt.max() >= vocab:
        bad = next(int(i) for i in prompt if not 0 <= i < vocab)
        raise InputError(
            f"token id {bad} of the prompt is not a row of the policy's embedding: "
            f"expected 0 to {vocab - 1}; is the tokenizer the policy's own?"
        )
    if request.constraint is not None:
        check_grammar(request.constraint.grammar, vocab)
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
