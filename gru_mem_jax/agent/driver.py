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
    and lazy; those begun have priority over new ones. A group is begun as a whole: its
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
    running: dict[int, tuple[Recurrence, int]] = {}
    generator = join(generator, group_size)
    try:
        while True:
            while len(running) < max(1, generator.capacity):
                group = list(itertools.islice(waiting, group_size))
                if not group:
                    break
                pin = next(_pins)
                for recurrence in group:
                    _submit(generator, recurrence, pin, running)
            if not running:
                return
            for handle, completion in generator.step():
                recurrence, pin = running.pop(handle)
                if recurrence.done:  # stopped while its request was running
                    continue
                yield recurrence, recurrence.receive(completion)
                _submit(generator, recurrence, pin, running)
    finally:
        generator.cancel()


def _submit(
    generator: Generator,
    recurrence: Recurrence,
    pin: int,
    running: dict[int, tuple[Recurrence, int]],
) -> None:
    request = recurrence.next_request()
    if request is not None:
        handle = generator.submit(dataclasses.replace(request, pin=pin))
        running[handle] = (recurrence, pin)
