"""Many recurrences over one generator; none waits for the turns of another."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.sharing import join
from gru_mem_jax.agent.trajectory import Turn

_pins = itertools.count()  # of this process: calls in several threads share a generator


def run(
    generator: Generator, recurrences: Iterable[Recurrence], *, group_size: int = 1
) -> Iterator[tuple[Recurrence, Turn | None]]:
    """Runs each recurrence to its end and yields every turn as it ends.

    None stands for the turn whose request the generator gave up: that recurrence has
    ended without an answer (see `Trajectory.failure`), and the others go on.

    As many requests are kept submitted as the generator works on at once. Recurrences
    are taken from the iterable when there is room for one more, so that it may be long
    and lazy; those begun have priority over new ones, and of those that may have
    several requests open each gets its share. A group is begun as a whole: its
    requests come together and have one pin, and a generator that runs those first
    whose prefixes it holds (see `sampling.admission`) computes each prefix once.
    Between two turns the caller may `stop` any of them. A context that stalls delays
    all recurrences of this call, but not those of other threads on the same generator
    (see `sharing`). The generator must not be called directly meanwhile.

    Args:
      generator: completes the requests.
      recurrences: to run.
      group_size: how many that follow each other share most of their prompts.

    Raises:
      RunError: the generator returns nothing although it has requests.
    """
    waiting = iter(recurrences)
    active: dict[_Run, None] = {}  # in order
    running: dict[int, tuple[_Run, int]] = {}  # with the request's own number
    generator = join(generator, group_size)

    def has_room() -> bool:
        return len(running) < generator.capacity

    def submit(run: _Run) -> bool:
        """Submits its next request, if it has one now."""
        if (request := run.recurrence.next_request()) is None:
            if run.recurrence.done:
                active.pop(run, None)
            return False
        handle = generator.submit(dataclasses.replace(request, pin=run.pin))
        running[handle] = (run, request.number)
        run.open += 1
        return True

    def fill() -> None:
        """Keeps the generator busy, with a request of each run by turns."""
        asking = list(active)
        while asking and has_room():
            asking = [run for run in asking if has_room() and submit(run)]

    try:
        while True:
            fill()
            while not running or has_room():
                group = list(itertools.islice(waiting, group_size))
                if not group:
                    break
                pin = next(_pins)
                for recurrence in group:
                    run = _Run(recurrence, pin)
                    active[run] = None
                    submit(run)
                fill()
            if not running:
                return
            for handle, completion in generator.step():
                run, number = running.pop(handle)
                run.open -= 1
                if run.recurrence.done:  # stopped while its requests were running
                    active.pop(run, None)
                    continue
                yield run.recurrence, run.recurrence.receive(completion, number)
                if not run.open or has_room():
                    submit(run)
    finally:
        generator.cancel()


@dataclasses.dataclass(eq=False)
class _Run:
    """A recurrence that was begun.

    Attributes:
      recurrence: with requests to come.
      pin: of its group.
      open: how many of its requests are submitted.
    """

    recurrence: Recurrence
    pin: int
    open: int = 0
