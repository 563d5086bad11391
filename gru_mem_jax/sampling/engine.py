"""The engine: any number of requests over a fixed number of slots.

A request's random numbers depend only on its seed and on token positions, and no row
sees another. The shapes of the programs that run it (how long a cache prefix is read,
which rows a prefill has, whether a prefix was copied) depend on the other requests, and
with them the order of floating point sums. So log-probabilities agree to rounding
(about 1e-5 in float32), and tokens are the same unless a draw, or two equally likely
tokens under greedy, fall within that rounding. The same requests submitted in the same
order to an engine in the same state (a new one, or after `reset`) give bit-equal
results on one machine.

With `EngineConfig.trunks` the tokens that prompts have in common are stored once (see
`trunks`), and slots hold only the rest.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gru_mem_jax.agent.requests import Completion, Request, prompt_ids
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.sampling import sampler
from gru_mem_jax.sampling.admission import PATIENCE, choose
from gru_mem_jax.sampling.config import EngineConfig, smallest_at_least, up_to
from gru_mem_jax.sampling.footprint import check_engine_fits, engine_dtype
from gru_mem_jax.sampling.forms import Constraints, Forms
from gru_mem_jax.sampling.hand_over import hand_over
from gru_mem_jax.sampling.jobs import Decoder, Job, check_request, new_job
from gru_mem_jax.sampling.pool import Pool
from gru_mem_jax.sampling.prefix_store import PrefixStore
from gru_mem_jax.sampling.programs import programs
from gru_mem_jax.sampling.rows import Rows
from gru_mem_jax.sampling.trunks import Trunks


class Engine:
    """Continuous batching over slots; implements the agent's `Generator`.

    Requests wait, and are run in the order of `admission`. `step` fills free slots,
    then decodes until rows end. Prompts reuse prefixes that slots or trunks still hold:
    see `prefixes`.
    """

    def __init__(
        self,
        policy: Policy,
        params: Any,
        config: EngineConfig | None = None,
        decoder: Decoder | None = None,
        mesh: Mesh | None = None,
        store: PrefixStore | None = None,
    ):
        """Converts the weights to the sampling form and makes an empty cache.

        Args:
          policy: the policy.
          params: of `policy.init` or `load_policy`, in either form; the sampling form
            in the engine's dtype is not copied.
          config: sizes.
          decoder: only for requests with stop strings.
          mesh: of (1, 1, T) devices of this process, which weights and cache are split
            over; None: the default device. `engine_pool.make` takes any mesh.
          store: keeps the keys of documents beyond this engine; of the same weights.

        Raises:
          InputError: weights and cache take more memory than there is, a store is given
            to an engine without trunks, or the mesh is more than one tensor group.
        """
        self.config = config or EngineConfig()
        self._policy, self._mesh = policy, mesh
        self._decoder = decoder
        if store is not None and not self.config.trunks:
            raise InputError(
                "a store of prefixes needs EngineConfig.trunks of 1 or more"
            )
        self.dtype = jnp.dtype(engine_dtype(self.config))
        devices = None if mesh is None else list(mesh.devices.flat)
        check_engine_fits(policy, self.config, self.dtype, devices)
        self._programs = programs(policy, self.config, self.dtype, mesh)
        self._compiled_before = self._programs.compile_seconds
        self._slots = Pool(self._programs, self.config.tail_pool)
        self._trunks = Trunks(self._programs, self.config)
        self._forms = Forms(self._programs, self.config.slots)
        residents, before = self._slots.residents, self._trunks.lengths
        self._rows = Rows(self.config, residents, before, self._forms, decoder)
        self._block: tuple[jax.Array, np.ndarray] | None = None  # not fetched yet
        self._waiting: deque[Job] = deque()
        self._next_handle = 0
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._seconds = 0.0
        self._params: Any = None
        self.set_params(params)
        self._trunks.store = store

    # -- the Generator protocol -----------------------------------------------------

    @property
    def capacity(self) -> int:
        """The number of slots."""
        return self.config.slots

    def submit(self, request: Request) -> int:
        """Queues a request; see `Generator.submit`.

        Raises:
          InputError: prompt and budget exceed max_length, an id of prompt or constraint
            is no row of the embedding, no budget, too many stop ids, bad stop strings.
        """
        prompt = np.asarray(prompt_ids(request.prompt), np.int64)
        vocab = self._policy.config.vocab_size
        check_request(request, prompt, self.config, vocab, self._decoder)
        handle = self._next_handle
        self._next_handle += 1
        now = time.perf_counter()
        self._waiting.append(new_job(handle, request, prompt, now, self.config))
        return handle

    def step(self) -> list[tuple[int, Completion]]:
        """Runs until requests end; returns these, in order of submission.

        Raises:
          RunError: the policy gave NaN as a log-probability.
        """
        return self.step_until(lambda: False)

    def step_until(self, called: Callable[[], bool]) -> list[tuple[int, Completion]]:
        """As `step`; returns after the decode block in which `called()` became true.

        If it raises, all requests are dropped, and the engine can be used again.
        """
        start = time.perf_counter()
        ended: list[tuple[int, Completion]] = []
        try:
            while self.begin():
                ended = self.finish()
                if ended or called():
                    break
        except BaseException:
            self.renew()
            raise
        finally:
            self._seconds += time.perf_counter() - start
        return ended

    def cancel(self) -> None:
        """Drops all requests, waiting or running."""
        self.discard(job.handle for job in (*self._waiting, *self._rows.jobs) if job)

    def discard(self, handles: Iterable[int]) -> None:
        """Drops these requests, waiting or running."""
        dropped = set(handles)
        self._waiting = deque(j for j in self._waiting if j.handle not in dropped)
        for slot, job in enumerate(self._rows.jobs):
            if job is not None and job.handle in dropped:
                self._release(slot)
        if not self._rows.running:
            self._block = None

    # -- the two halves of a step, for a pool of engines -------------------------------

    def begin(self) -> bool:
        """Admits requests, and dispatches their prefill and one decode block.

        Waits for nothing. Once more only after `finish`; if either raises, `renew`.

        Returns:
          False if there is nothing to do.

        Raises:
          RunError: the engine has no weights.
        """
        if not (self._waiting or self._rows.running):
            return False
        if self._params is None:
            raise RunError("the engine's weights were freed: call set_params first")
        self._admit()
        self._block = self._decode()
        return True

    def finish(self) -> list[tuple[int, Completion]]:
        """Waits for the block of `begin`; the requests that ended, by submission.

        Raises:
          RunError: the policy gave NaN as a log-probability.
        """
        if self._block is None:  # its requests were dropped
            return []
        (result, active), self._block = self._block, None
        block = self._rows.take(np.asarray(result), active)
        for slot, _, _ in block.ended:
            self._release(slot)
        self._counts["decode_blocks"] += 1
        self._counts["decode_steps"] += block.steps
        self._counts["new_tokens"] += block.new_tokens
        self._counts["requests"] += len(block.ended)
        ended = [(handle, completion) for _, handle, completion in block.ended]
        return sorted(ended, key=lambda pair: pair[0])

    def renew(self) -> None:
        """Drops all requests, and makes new caches.

        The old ones may be gone with a program that failed.
        """
        self.cancel()
        self.reset()
        for pool in self._pools:
            pool.renew()

    # -- beyond the protocol --------------------------------------------------------

    def set_params(self, params: Any) -> None:
        """Takes new weights; resident prefixes are forgotten, and a store is dropped.

        The old weights are freed first.

        Args:
          params: in either form; on the engine's mesh, or on any one device.

        Raises:
          RunError: requests are running.
        """
        self._check_idle("set_params")
        self._params = self._trunks.store = None
        self.reset()
        if self._mesh is not None:
            params = hand_over(self._policy, params, self.dtype, self._mesh)
        elif isinstance(params["layers"], dict):
            params = self._policy.sampling_params(params, self.dtype)
        self._params = self._programs.place(params)
        for pool in self._pools:
            if pool.cache is None:
                pool.renew()

    def free(self, *, cache: bool = True) -> None:
        """Frees the weights, and the cache; `set_params` makes it again.

        Compiled programs are kept.

        Raises:
          RunError: requests are running.
        """
        self._check_idle("free")
        self._params = self._trunks.store = None
        self.reset()
        for pool in self._pools if cache else ():
            pool.cache = None

    def reset(self) -> None:
        """Forgets resident prefixes: later results depend on no earlier request.

        Raises:
          RunError: requests are running.
        """
        self._check_idle("reset")
        self._slots.residents.clear()
        self._trunks.clear()

    def warm_up(
        self, max_tokens: int | None = None, constraints: Constraints = (None,)
    ) -> int:
        """Compiles every program that requests may need.

        Args:
          max_tokens: prompt and budget of the longest request to come; None:
            max_length.
          constraints: of the requests to come, if only of each form one; None: some
            have none.

        Returns:
          The number of programs. Such requests compile no more.
        """
        longest = min(max_tokens or self.config.max_length, self.config.max_length)
        tails = self._slots.config
        attends = self._programs.decode_attends
        for sizes in self._forms.sizes_of(constraints):
            for attend in up_to(attends, min(longest, tails.max_length)):
                self._programs.decode(attend, *sizes)
        self._slots.warm_up(longest)
        if self._trunks.pool is not None:
            hosted = self._trunks.store is not None
            self._trunks.pool.warm_up(longest, hosted=hosted)
        return len(self._programs.names)

    def stats(self) -> dict[str, Any]:
        """Counts since the start.

        Returns:
          `programs` (int; engines of the same sizes share theirs), `program_names`,
          `compile_seconds` (since this engine was made), `cache_bytes` (of the arrays
          of keys and values), `seconds` (spent in `step`), `requests` (ended),
          `prompt_tokens`, `shared_tokens` (of those, not computed again),
          `prefill_tokens` (computed), `prefill_padding`, `new_tokens`, `decode_steps`,
          `decode_blocks`, `slot_occupancy` (new tokens by rows of all decode steps).
          With trunks: `ahead_tokens` (prefilled for requests to come),
          `ahead_wasted_tokens` (of these, not used so far) and `stored_tokens` (shared
          tokens that came from the store).
        """
        rows = self._counts["decode_steps"] * self.config.slots
        pools = self._pools
        return {
            "programs": len(self._programs.names),
            "program_names": self._programs.names,
            "compile_seconds": self._programs.compile_seconds - self._compiled_before,
            "cache_bytes": sum(pool.nbytes for pool in pools),
            "seconds": self._seconds,
            **self._counts,
            "prefill_tokens": sum(pool.computed for pool in pools),
            "prefill_padding": sum(pool.padding for pool in pools),
            **(self._trunks.stats() if self.config.trunks else {}),
            "slot_occupancy": self._counts["new_tokens"] / rows if rows else 0.0,
        }

    @property
    def attention(self) -> str:
        """A line on the kernels that were chosen."""
        return self._programs.attention_line

    # -- inside ---------------------------------------------------------------------

    @property
    def _pools(self) -> list[Pool]:
        return [pool for pool in (self._slots, self._trunks.pool) if pool is not None]

    def _check_idle(self, call: str) -> None:
        if self._rows.running:
            raise RunError(f"{call} while requests run: step to their end, or cancel")

    def _admit(self) -> None:
        """Gives free slots to waiting requests, and reads their prompts."""
        free = np.asarray([job is None for job in self._rows.jobs])
        jobs = choose(
            self._waiting,
            int(free.sum()),
            self._trunks.entries,
            self._trunks.idle(),
            PATIENCE * self.config.slots,
        )
        if not jobs:
            return
        self._waiting = deque(job for job in self._waiting if job not in jobs)
        self._trunks.hold(self._params, jobs)
        assignments = self._slots.residents.assign(
            [job.prompt[len(job.trunk.ids) :] for job in jobs],
            free,
            self.config.min_shared_tokens,
            [self._trunks.number(job) for job in jobs],
        )
        for job, assignment in zip(jobs, assignments):
            slot = assignment.slot
            self._rows.give(slot, job)
            self._trunks.see(slot, job)
            job.shared += assignment.shared
            self._counts["prompt_tokens"] += len(job.prompt)
            self._counts["shared_tokens"] += job.shared
        self._slots.fill(self._params, assignments, self._trunks.seen_by)

    def _decode(self) -> tuple[jax.Array, np.ndarray]:
        """Dispatches a block of the decode loop; its result, and the rows in it."""
        # A copy: it is read later, and a row may be released before.
        config, rows = self._slots.config, self._rows.array.copy()
        active = np.flatnonzero(rows[:, sampler.POSITION] >= 0)
        # Counted from the end of the slot's trunk, as the cache is.
        positions = rows[active, sampler.POSITION] - self._trunks.lengths[active]
        budgets = np.minimum(rows[active, sampler.BUDGET], config.decode_block)
        # A shorter block that reads less of the cache pays, unless it is very short.
        short = np.minimum(budgets, 1 + config.decode_block // 4)
        attends = self._programs.decode_attends
        attend = smallest_at_least(attends, int((positions + short).max()))
        steps = int(budgets.max())
        if (positions + budgets).max() > attend:
            steps = attend - int(positions.max())
        limits = np.asarray([steps, config.patience(len(active))], np.int32)
        trunk = self._trunks.seen_by(range(config.slots), 1)
        sizes, forms = self._forms.arguments()
        program, pool = self._programs.decode(attend, *sizes), self._slots
        arguments = rows, limits, trunk, *forms
        pool.cache, result = program(self._params, pool.cache, *arguments)
        return result, active

    def _release(self, slot: int) -> None:
        self._rows.release(slot)
        self._trunks.release(slot)


_COUNTERS = (
    "requests",
    "prompt_tokens",
    "shared_tokens",
    "new_tokens",
    "decode_steps",
    "decode_blocks",
)
