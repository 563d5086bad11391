"""Many recurrences over one generator; none waits for the turns of another."""

import collections
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
    active: dict[int, tuple[Recurrence, int]] = {}  # by id, with the pin
    opened: collections.Counter[int] = collections.Counter()  # requests, by id
    running: dict[int, tuple[Recurrence, int]] = {}
    generator = join(generator, group_size)

    def submit(recurrence: Recurrence, pin: int) -> bool:
        """Submits its next request, if it has one now."""
        if (request := recurrence.next_request()) is None:
            return False
        handle = generator.submit(dataclasses.replace(request, pin=pin))
        running[handle] = (recurrence, request.number)
        opened[id(recurrence)] += 1
        return True

    def fill() -> None:
        """Keeps the generator busy, with a request of each recurrence by turns."""
        asking = list(active.values())
        while asking and len(running) < generator.capacity:
            asking = [
                each
                for each in asking
                if len(running) < generator.capacity and submit(*each)
            ]

    try:
        while True:
            fill()
            while len(running) < max(1, generator.capacity):
                group = list(itertools.islice(waiting, group_size))
                if not group:
                    break
                pin = next(_pins)
                for recurrence in group:
                    if submit(recurrence, pin):
                        active[id(recurrence)] = (recurrence, pin)
                fill()
            if not running:
                return
            for handle, completion in generator.step():
                recurrence, number = running.pop(handle)
                opened[id(recurrence)] -= 1
                if recurrence.done:  # stopped while its requests were running
                    active.pop(id(recurrence), None)
                    continue
                yield recurrence, recurrence.receive(completion, number)
                _, pin = active[id(recurrence)]
                if not opened[id(recurrence)] or len(running) < generator.capacity:
                    submit(recurrence, pin)
                if recurrence.done:
                    active.pop(id(recurrence), None)
    finally:
        generator.cancel()
