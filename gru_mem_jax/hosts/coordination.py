"""The key-value store of jax.distributed's coordination service, in process 0.

Also what values look like in it.
"""

import contextlib
import io
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gru_mem_jax.errors import InputError, RunError

RESUME = "give the same command again, to all, to go on from the last checkpoint"
_PART = 1 << 24  # bytes of a value; gRPC refuses messages of 2 GiB


def state() -> Any:
    """jax.distributed's state; None where jax is not loaded.

    The client of the store has no public name; Orbax takes it here too.
    """
    module = sys.modules.get("jax._src.distributed")
    return None if module is None else module.global_state


def put(key: str, value: bytes, *, again: bool = False) -> None:
    """Sets a key; one that is set already only with `again`."""
    state().client.key_value_set_bytes(key, value, allow_overwrite=again)


def get(key: str, seconds: float = 60.0) -> bytes | None:
    """The value of a key; None if it is not set within the time."""
    try:
        value: bytes = state().client.blocking_key_value_get_bytes(
            key, int(seconds * 1000)
        )
    except RuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        return None
    return value


def folder(key: str) -> dict[int, bytes]:
    """The values below a key, where the last words of theirs are numbers."""
    pairs = state().client.key_value_dir_get_bytes(key)
    return {int(name.rsplit("/", 1)[1]): value for name, value in pairs}


def delete(key: str) -> None:
    """Removes a key, and all below it."""
    state().client.key_value_delete(key)


def put_parts(key: str, value: bytes) -> int:
    """Sets a value of any size below a key; gives the number of its parts."""
    parts = [value[at : at + _PART] for at in range(0, len(value), _PART)] or [b""]
    for number, part in enumerate(parts):
        put(f"{key}/{number}", part)
    return len(parts)


def get_parts(key: str, count: int) -> bytes:
    """A value of `put_parts`."""
    return b"".join(get(f"{key}/{number}") or b"" for number in range(count))


@contextlib.contextmanager
def told(first: str) -> Iterator[None]:
    """Says where the store failed.

    Args:
      first: name of process 0.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except RuntimeError as error:
        raise RunError(
            f"{first} is lost (its coordination service does not answer: "
            f"{first_line(error)}); {RESUME}"
        ) from error


def first_line(error: BaseException) -> str:
    """Of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def encode_arrays(tree: Any) -> bytes:
    """The arrays of a tree; see `Hosts.gather_arrays`."""
    import numpy as np

    leaves: list[Any] = []
    _map(leaves.append, tree)
    buffer = io.BytesIO()
    np.savez(buffer, *map(np.asarray, leaves))
    return buffer.getvalue()


def decode_arrays(data: bytes, tree: Any) -> Any:
    """The arrays of `encode_arrays`, in a tree of the same structure."""
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = iter([file[f"arr_{i}"] for i in range(len(file.files))])
    return _map(lambda leaf: next(arrays), tree)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """A function of the leaves of a tree, in order."""
    if isinstance(tree, Mapping):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        items = [_map(function, item) for item in tree]
        if hasattr(tree, "_fields"):
            return type(tree)(*items)
        return tuple(items) if isinstance(tree, tuple) else items
    return function(tree)


def disagreement(
    given: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> str | None:
    """The first fact in which a process differs from the first, in words.

    Args:
      given: facts of each process.
      names: of the processes.
    """
    for key in dict.fromkeys(key for each in given for key in each):
        first = given[0].get(key)
        for each, name in zip(given, names, strict=True):
            if each.get(key) != first:
                return f"{key}: {differing(first, each.get(key), name)}"
    return None


def differing(first: Any, other: Any, name: str) -> str:
    """The two values; of long texts the first line that differs."""
    if isinstance(first, str) and isinstance(other, str) and "\n" in first + other:
        lines = first.splitlines(), other.splitlines()
        pairs = itertools.zip_longest(*lines, fillvalue="")
        first, other = next(((a, b) for a, b in pairs if a != b), (first, other))
    return f"process 0 has {first!r:.200}, {name} has {other!r:.200}"
