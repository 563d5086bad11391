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

from gru_mem_jax import buckets, storage
from gru_mem_jax.hosts.processes import Hosts


class ProfileSteps(NamedTuple):
    """Which steps are traced, and where.

    Attributes:
      first, last: numbers of steps, from 1; both are traced.
      everywhere: on all processes; else on the first alone.
    """

    first: int
    last: int
    everywhere: bool = False


class Profiler:
    """Traces steps of a run into `folder/process_I`.

    Args:
      steps: which; None: none.
      folder: `profile` in the run folder, on a disk or in a bucket.
      note: takes a line.
      hosts: the processes of the run.
    """

    def __init__(
        self,
        steps: ProfileSteps | None,
        folder: Any,
        note: Callable[[str], None],
        hosts: Hosts,
    ):
        if steps is not None and not (steps.everywhere or hosts.is_first):
            steps = None
        self._steps, self._note = steps, note
        self._folder = folder / f"process_{hosts.index}"
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
        """Ends a trace that is being made, and writes it; a run that stops calls it."""
        if self._scratch is None:
            return
        scratch, self._scratch = self._scratch, None
        with scratch as name:
            try:
                jax.profiler.stop_trace()
                size = _copy(pathlib.Path(name), self._folder)
            except OSError as error:
                self._note(f"warning: the trace was not written: {error}")
                return
        self._note(f"trace of {size / 2**20:.1f} MiB in {self._folder}")

    def _start(self) -> None:
        # The profiler writes to disks only.
        self._scratch = tempfile.TemporaryDirectory(prefix="gru_mem_profile_")
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._scratch.name, profiler_options=options)


def _copy(source: pathlib.Path, target: Any) -> int:
    """Copies a folder's files; returns their bytes."""
    size = 0
    for file in sorted(source.rglob("*")):
        if file.is_file():
            place, data = (
                target / file.relative_to(source).as_posix(),
                file.read_bytes(),
            )
            storage.make_folder(place.parent)
            if storage.in_bucket(place):
                buckets.write(place, data)
            else:
                place.write_bytes(data)
            size += len(data)
    return size
