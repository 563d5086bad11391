"""What one process of a run does for all, and failures that all hear of.

Where a call fails on one process alone, the others would wait for it: here every
process learns of it and raises the same error.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.hosts.processes import Hosts

T = TypeVar("T")
_KINDS: dict[str, type[Exception]] = {"input": InputError, "run": RunError}


def by_first(hosts: Hosts, name: str, function: Callable[[], Any]) -> Any:
    """Calls a function in the first process alone; all get its value.

    Args:
      hosts: all of them call this.
      name: of the exchange, as in `Hosts.gather`.
      function: gives a JSON value.

    Raises:
      InputError, RunError: on every process, as the function raised it.
    """
    if hosts.count == 1:
        return function()
    value = failure = None
    if hosts.is_first:
        value, failure = _tried(function)
    told = hosts.gather(name, {"value": value, "error": _told(failure)})[0]
    if told["error"] is not None:
        kind, text = told["error"]
        raise _KINDS[kind](text) from failure
    return told["value"]


def by_all(hosts: Hosts, name: str, function: Callable[[], T]) -> T:
    """Calls a function in every process; each gets its own value.

    Args:
      hosts: all of them call this.
      name: of the exchange, as in `Hosts.gather`.
      function: may fail anywhere.

    Raises:
      InputError, RunError: on every process, the first failure; names its process.
    """
    if hosts.count == 1:
        return function()
    value, failure = _tried(function)
    for index, error in enumerate(hosts.gather(name, _told(failure))):
        if error is not None:
            kind, text = error
            raise _KINDS[kind](f"{hosts.names[index]}: {text}") from failure
    return value


def _tried(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # whatever it is, the others must not wait
        return None, error


def _told(failure: Exception | None) -> tuple[str, str] | None:
    if failure is None:
        return None
    if isinstance(failure, InputError | RunError):
        return "input" if isinstance(failure, InputError) else "run", str(failure)
    return "run", f"{type(failure).__name__}: {failure}"
