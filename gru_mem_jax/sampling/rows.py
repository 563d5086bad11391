"""The rows of the decode program, one for each slot, and what they draw. Host side."""

import time
from typing import NamedTuple

import numpy as np

from gru_mem_jax.agent.requests import Completion, FinishReason
from gru_mem_jax.errors import RunError
from gru_mem_jax.sampling import sampler
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.footprint import engine_dtype
from gru_mem_jax.sampling.forms import Forms
from gru_mem_jax.sampling.jobs import Decoder, Job, job_row
from gru_mem_jax.sampling.prefixes import Residents
from gru_mem_jax.sampling.stop_strings import first_stop


class Block(NamedTuple):
    """What a decode block came to.

    Attributes:
      steps: of the loop.
      new_tokens: of all rows.
      ended: slot, handle and completion of each request that ended.
    """

    steps: int
    new_tokens: int
    ended: list[tuple[int, int, Completion]]


class Rows:
    """The jobs that run, and their rows in the decode program.

    Args:
      config: of the engine.
      residents: of the slots; drawn tokens are stored there.
      before: int32[S], tokens of the trunk that each slot sees; changed in place.
      forms: of the rows.
      decoder: for stop strings.

    Attributes:
      jobs: of each slot; None: it is free.
      array: int32[S, 8 + M], see `sampler`.
    """

    def __init__(
        self,
        config: EngineConfig,
        residents: Residents,
        before: np.ndarray,
        forms: Forms,
        decoder: Decoder | None,
    ):
        slots, length = config.slots, config.pool_lengths[1]
        self._block, self._residents = config.decode_block, residents
        self._before, self._forms, self._decoder = before, forms, decoder
        self._dtype = engine_dtype(config)
        self._logprobs = np.zeros((2, slots, length + 1), np.float32)
        self.jobs: list[Job | None] = [None] * slots
        self.array = np.zeros((slots, sampler.STOP_IDS + config.max_stop_ids), np.int32)
        self.array[:, sampler.POSITION] = -1

    @property
    def running(self) -> bool:
        """Whether any slot has a job."""
        return any(job is not None for job in self.jobs)

    def give(self, slot: int, job: Job) -> None:
        """Gives a free slot to a job."""
        self.jobs[slot] = job
        self.array[slot] = job_row(job, self.array.shape[1])
        self._forms.give(slot, job.request.constraint)

    def release(self, slot: int) -> None:
        """Frees a slot."""
        self.jobs[slot] = None
        self.array[slot, sampler.POSITION] = -1
        self._forms.release(slot)

    def take(self, result: np.ndarray, active: np.ndarray) -> Block:
        """Stores the tokens of a decode block.

        Args:
          result: of `sampler.decode`.
          active: the slots that it was given. Those that were released since are left
            alone.

        Raises:
          RunError: a log-probability is NaN.
        """
        active = active[[self.jobs[slot] is not None for slot in active]]
        held = np.isin(np.arange(len(self.jobs)), active)
        counts, stopped = result[sampler.COUNT] * held, result[sampler.STOPPED]
        steps = int(result[sampler.STEPS, 0])
        end = sampler.HEADER + 3 * self._block
        drawn = result[sampler.HEADER : end].reshape(3, self._block, -1)
        ids, *logprobs = drawn[:, :steps]
        self._forms.take(result[end:], active)
        residents, before = self._residents, self._before
        step, slot = np.nonzero(np.arange(steps)[:, None] < counts[None])
        position = self.array[slot, sampler.POSITION] + 1 + step - before[slot]
        residents.tokens[slot, position] = ids[step, slot]
        for kept, new in zip(self._logprobs, logprobs):
            kept[slot, position] = new.view(np.float32)[step, slot]
        if np.isnan(self._logprobs[:, slot, position]).any():
            raise RunError(
                "the policy's logits are not numbers (NaN): its weights are "
                f"damaged, or overflow in {self._dtype}"
            )
        self.array[active, sampler.POSITION] += counts[active]
        self.array[active, sampler.BUDGET] -= counts[active]
        reached = self.array[active, sampler.POSITION] - before[active]
        residents.filled[active] = reached
        self.array[active, sampler.TOKEN] = residents.tokens[active, reached]
        ended = []
        for slot in active.tolist():
            if (completion := self._end(slot, stopped[slot])) is not None:
                ended.append((slot, self.jobs[slot].handle, completion))
        return Block(steps, int(counts.sum()), ended)

    def _end(self, slot: int, stopped: bool) -> Completion | None:
        """The completion of a slot's request, if it has ended."""
        job, reason = self.jobs[slot], None
        if stopped:
            reason = "stop"
        elif self.array[slot, sampler.BUDGET] == 0:
            reason = "length"
        end = int(self._residents.filled[slot]) + 1
        if job.request.stop_strings:
            found = self._search(job, slot, end)
            if found is not None:
                end, reason = found, "stop"
        if reason is None:
            return None
        self._residents.filled[slot] = end - 1
        return self._completion(job, slot, end, reason)

    def _search(self, job: Job, slot: int, end: int) -> int | None:
        """The end of the completion by a stop string; None: none was found."""
        start = job.tail_length
        ids = self._residents.tokens[slot, start:end].tolist()
        strings = job.request.stop_strings
        found = first_stop(self._decoder.decode, ids, job.checked, strings)
        job.checked = len(ids)
        return None if found is None else start + found

    def _completion(
        self, job: Job, slot: int, end: int, reason: FinishReason
    ) -> Completion:
        start = job.tail_length
        plain, sampling = self._logprobs[:, slot, start:end].tolist()
        return Completion(
            ids=tuple(self._residents.tokens[slot, start:end].tolist()),
            logprobs=tuple(plain),
            sampling_logprobs=tuple(sampling),
            finish_reason=reason,
            seconds=time.perf_counter() - job.submitted,
            shared_prompt_tokens=job.shared,
        )
