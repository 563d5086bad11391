"""The processes of a run as threads of this one: what they exchange, without jax."""

import threading
from collections.abc import Callable
from typing import TypeVar

from gru_mem_jax.hosts.processes import Hosts

T = TypeVar("T")
_SECONDS = 60.0


def as_hosts(count: int, work: Callable[[Hosts], T]) -> list[T]:
    """What each of so many processes gives.

    Args:
      count: of processes.
      work: what each does with its `Hosts`; they run at once.

    Raises:
      Exception: the first that one of them raised.
    """
    store: dict[tuple[str, int], dict[int, bytes]] = {}
    changed = threading.Condition()
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    class Threads(Hosts):
        def _exchange(self, name: str, value: bytes) -> list[bytes]:
            call = self._calls[name] = self._calls.get(name, -1) + 1
            with changed:
                given = store.setdefault((name, call), {})
                given[self.index] = value
                changed.notify_all()
                if not changed.wait_for(
                    lambda: len(given) == count or errors, _SECONDS
                ):
                    raise TimeoutError(f"{name}: {sorted(given)} of {count} came")
                if len(given) < count:
                    raise errors[0]
            return [given[i] for i in range(count)]

    def run(index: int) -> None:
        try:
            results[index] = work(Threads(index, count))
        except BaseException as error:
            with changed:
                errors.append(error)
                changed.notify_all()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[i] for i in range(count)]
