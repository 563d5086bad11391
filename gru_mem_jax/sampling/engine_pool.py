"""Engines side by side: one for each tensor group of this process's devices.

Slots are never cut over devices, so no engine waits for another within a program, and
prefixes are copied within a group. Requests of one pin go to one engine. Nothing is
exchanged between engines, and nothing depends on time: which engine takes a request,
and whose results are awaited next, follow from the state and the order of requests.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gru_mem_jax.agent.requests import Completion, Request
from gru_mem_jax.errors import RunError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.sampling.footprint import (
    check_engine_fits,
    engine_dtype,
    with_tensor,
)
from gru_mem_jax.sampling.forms import Constraints
from gru_mem_jax.sampling.hand_over import group_mesh, hand_over, own_groups, view
from gru_mem_jax.sampling.jobs import Decoder
from gru_mem_jax.sampling.prefix_store import PrefixStore

# A pin that has not been seen for so many others may go to another engine.
MOST_PINS = 1 << 16

Ended = list[tuple[int, Completion]]


def make(
    policy: Policy,
    params: Any,
    config: EngineConfig | None = None,
    decoder: Decoder | None = None,
    mesh: Mesh | None = None,
    store: PrefixStore | None = None,
) -> "Engine | EnginePool":
    """The engines of some devices; one alone is no pool.

    Args:
      policy, params, decoder, store: see `Engine`.
      config: sizes of each engine. Where `tensor` is None as few devices as hold it are
        taken, see `footprint.with_tensor`.
      mesh: devices, e.g. the learner's; those of other processes are left to them.
        None: the default device.

    Raises:
      InputError: an engine does not fit its devices, or they are not of one process.
    """
    config = config or EngineConfig()
    if mesh is None:
        return Engine(policy, params, config, decoder, store=store)
    config = with_tensor(policy, config, list(mesh.devices.flat))
    groups = group_mesh(mesh, config.tensor or 1)
    if groups.size > 1 and len(groups.devices) > 1:
        return EnginePool(policy, params, config, decoder, mesh, store)
    alone = groups.size == 1 and groups.devices.item() == jax.local_devices()[0]
    group = None if alone else groups
    return Engine(policy, params, config, decoder, group, store=store)


def local_mesh(devices: int | None = None) -> Mesh:
    """The first devices of this process, for weights that are loaded cut over them.

    Args:
      devices: how many; None: all.

    Raises:
      InputError: there are not so many.
    """
    config = MeshConfig(fsdp=-1 if devices is None else devices)
    return make_mesh(config, jax.local_devices())


class EnginePool:
    """An `Engine` for each tensor group; a `Generator` like each of them.

    A pin that is new goes to the engine with the fewest requests, the first of equals,
    and so does each request without a pin. Engines decode at once: a step awaits the
    block of the engine whose block was begun first, and begins its next one before it
    awaits another's.

    Attributes:
      config: sizes of each engine.
      engines: of this process.
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
        """Hands the weights over and makes the engines.

        Args:
          policy, params, decoder: see `Engine`; params may lie on `mesh` (cut in any
            way) or on one device.
          config: sizes of each engine.
          mesh: devices, of which those of this process are used; None: all of this
            process. On several processes all make the same calls of `set_params`.
          store: of prefixes, which all engines share.

        Raises:
          InputError: as `make`.
        """
        mesh = local_mesh() if mesh is None else mesh
        devices = list(mesh.devices.flat)
        self.config = with_tensor(policy, config or EngineConfig(), devices)
        self._policy = policy
        self.dtype = jnp.dtype(engine_dtype(self.config))
        tensor = self.config.tensor or 1
        self._groups = group_mesh(mesh, tensor)
        self._own = own_groups(self._groups)
        own = [device for group in self._own for device in group.devices.flat]
        check_engine_fits(policy, self.config, self.dtype, own, tensor=tensor)
        self.engines = [
            Engine(policy, part, self.config, decoder, group, store=store)
            for group, part in zip(self._own, self._views(params), strict=True)
        ]
        self._next_handle = 0
        self._handles: dict[tuple[int, int], int] = {}  # of (engine, its handle)
        self._places: dict[int, tuple[int, int]] = {}
        self._begun: deque[int] = deque()  # engines whose block is awaited, in order
        self._pins: OrderedDict[int, int] = OrderedDict()
        self._seconds = 0.0

    # -- the Generator protocol -----------------------------------------------------

    @property
    def capacity(self) -> int:
        """The number of slots of all engines."""
        return self.config.slots * len(self.engines)

    def submit(self, request: Request) -> int:
        """Queues a request at its engine; raises as `Engine.submit`."""
        number = self._engine_of(request.pin)
        place = number, self.engines[number].submit(request)
        if request.pin is not None:
            self._pins[request.pin] = number
            self._pins.move_to_end(request.pin)
            if len(self._pins) > MOST_PINS:
                self._pins.popitem(last=False)
        handle = self._next_handle
        self._next_handle += 1
        self._handles[place], self._places[handle] = handle, place
        return handle

    def step(self) -> Ended:
        """Runs until requests end; returns these. Raises as `Engine.step`."""
        return self.step_until(lambda: False)

    def step_until(self, called: Callable[[], bool]) -> Ended:
        """As `step`; returns after the block in which `called()` became true.

        If it raises, all requests are dropped, and the pool can be used again.
        """
        start = time.perf_counter()
        ended: Ended = []
        try:
            while not ended:
                self._begin()
                if not self._begun:
                    break
                ended = self._finish(self._begun.popleft())
                if called():
                    break
        except BaseException:
            self.cancel()
            for engine in self.engines:
                engine.renew()
            raise
        finally:
            self._seconds += time.perf_counter() - start
        return ended

    def cancel(self) -> None:
        """Drops all requests, waiting or running."""
        for engine in self.engines:
            engine.cancel()
        self._handles.clear()
        self._places.clear()
        self._begun.clear()

    def discard(self, handles: Iterable[int]) -> None:
        """Drops these requests, waiting or running."""
        for handle in handles:
            place = self._places.pop(handle, None)
            if place is not None:
                del self._handles[place]
                self.engines[place[0]].discard([place[1]])

    # -- beyond the protocol --------------------------------------------------------

    def set_params(self, params: Any) -> None:
        """Takes new weights; the old are freed first, prefixes and pins forgotten.

        Args:
          params: as of the constructor, or what `hand_over` made of them.

        Raises:
          RunError: requests are running.
        """
        self.free(cache=False)
        for engine, part in zip(self.engines, self._views(params), strict=True):
            engine.set_params(part)

    def free(self, *, cache: bool = True) -> None:
        """Frees the weights, and the caches, of all engines; see `Engine.free`."""
        self._check_idle("free")
        for engine in self.engines:
            engine.free(cache=cache)
        self._pins.clear()

    def reset(self) -> None:
        """Forgets resident prefixes: later results depend on no earlier request.

        Raises:
          RunError: requests are running.
        """
        self._check_idle("reset")
        for engine in self.engines:
            engine.reset()
        self._pins.clear()

    def warm_up(
        self, max_tokens: int | None = None, constraints: Constraints = (None,)
    ) -> int:
        """Compiles every program that requests may need; see `Engine.warm_up`.

        The first engine's programs first, since others may have them from there; then
        those of the others side by side.
        """
        first, *others = self.engines
        constraints = list(constraints)
        programs = first.warm_up(max_tokens, constraints)
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            list(threads.map(lambda e: e.warm_up(max_tokens, constraints), others))
        return programs

    @property
    def attention(self) -> str:
        """As `Engine.attention`, the same for all."""
        return self.engines[0].attention

    def stats(self) -> dict[str, Any]:
        """Counts since the start, of all engines together; see `Engine.stats`.

        `programs` and `program_names` are those of the engine that has most, `seconds`
        were spent in the pool's `step`; `engines`: how many there are.
        """
        every = [engine.stats() for engine in self.engines]
        most = max(every, key=lambda stats: stats["programs"])
        named = ("programs", "program_names")
        total = {
            name: most[name] if name in named else sum(stats[name] for stats in every)
            for name in most
        }
        rows = total["decode_steps"] * self.config.slots
        return total | {
            "seconds": self._seconds,
            "slot_occupancy": total["new_tokens"] / rows if rows else 0.0,
            "engines": len(self.engines),
        }

    # -- inside ---------------------------------------------------------------------

    def _views(self, params: Any) -> list[Any]:
        """Each engine's weights, of one hand-over."""
        laid = hand_over(self._policy, params, self.dtype, self._groups)
        return [view(self._policy, laid, group) for group in self._own]

    def _engine_of(self, pin: int | None) -> int:
        if pin in self._pins:
            return self._pins[pin]
        counts = [0] * len(self.engines)
        for number, _ in self._places.values():
            counts[number] += 1
        return counts.index(min(counts))

    def _begin(self) -> None:
        """Begins a block of each engine that has none."""
        for number, engine in enumerate(self.engines):
            if number not in self._begun and engine.begin():
                self._begun.append(number)

    def _finish(self, number: int) -> Ended:
        ended = []
        for own, completion in self.engines[number].finish():
            handle = self._handles.pop((number, own))
            del self._places[handle]
            ended.append((handle, completion))
        return sorted(ended, key=lambda pair: pair[0])

    def _check_idle(self, call: str) -> None:
        if self._places:
            raise RunError(f"{call} while requests run: step to their end, or cancel")
