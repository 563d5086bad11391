"""A trace of some steps of a run by JAX's profiler, for XProf or TensorBoard.

Stages of a step are named in it (`Monitor.stage`), and each step has its number. The
Python functions between them are left out: those of a rollout would fill the trace.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gru_mem_jax import hosts
from gru_mem_jax.errors import InputError


class ProfileSteps(NamedTuple):
    """Which steps are traced, and where.

    Attributes:
      first, last: numbers of steps, both traced.
      everywhere: on all processes; else on the first alone.
    """

    first: int
    last: int
    everywhere: bool = False

    @classmethod
    def parse(cls, text: str, everywhere: bool = False) -> "ProfileSteps":
        """From `A:B`.

        Raises:
          InputError: it has another form, or holds no step.
        """
        first, colon, last = text.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal()):
            raise InputError(
                f"steps to profile: two numbers, such as 10:12, not {text!r}"
            )
        if not 1 <= int(first) <= int(last):
            raise InputError(
                f"steps to profile: {text} holds no step; the first step is 1"
            )
        return cls(int(first), int(last), everywhere)


class Profiler:
    """Traces steps of a run into `folder/process_I`.

    Args:
      steps: which; None: none.
      folder: `profile` in the run folder; may be on an object store.
      note: takes a line.
    """

    def __init__(
        self, steps: ProfileSteps | None, folder: Any, note: Callable[[str], None]
    ):
        host = hosts.current()
        if steps is not None and not (steps.everywhere or host.is_first):
            steps = None
        self._steps, self._note = steps, note
        self._folder = folder / f"process_{host.index}"
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Entered while a step runs; begins and ends the trace where it is due."""
        if self._steps is None:
            yield
            return
        if self._scratch is None and self._steps.first <= number <= self._steps.last:
            self._start()
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield
        if number >= self._steps.last:
            self.close()

    def close(self) -> None:
        """Ends a trace that is being made, and writes it."""
        if self._scratch is None:
            return
        scratch, self._scratch = self._scratch, None
        with scratch as name:
            jax.profiler.stop_trace()
            size = _copy(pathlib.Path(name), self._folder)
        self._note(f"trace of {size / 2**20:.1f} MiB in {self._folder}; see: xprof")

    def _start(self) -> None:
        # The profiler writes to local disks only.
        self._scratch = tempfile.TemporaryDirectory(prefix="gru_mem_profile_")
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._scratch.name, profiler_options=options)


def _copy(source: pathlib.Path, target: Any) -> int:
    """Copies a folder's files; returns their bytes."""
    size = 0
    for file in sorted(source.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(source).as_posix()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
            size += file.stat().st_size
    return size
