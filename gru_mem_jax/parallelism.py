"""Work spread over devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from gru_mem_jax.errors import InputError

ROLLOUTS = "rollouts"


def pmap_groups(
    fn: Callable[..., Any],
    *,
    split: Literal["questions", "rollouts"] = "questions",
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """Maps a function of arrays `[P, G, ...]` over devices, with `jax.pmap`.

    With split "questions" each device has whole groups: P is padded (with copies of
    the last question) to a multiple of the number of devices, and cut again. With
    "rollouts" the rollouts of a group lie on different devices, on as many as divide G
    evenly: `fn` is called with `axis_name=ROLLOUTS`, for its means over a group.

    Args:
      fn: from trees of arrays [P, G, ...] to a tree of arrays [P, G, ...] (with
        "questions": of [P, ...]). Its own numbers of P and G are those of one device.
      split: what is spread.
      devices: which; None: all that this process has.

    Returns:
      A function of numpy or jax arrays that returns numpy arrays. It compiles once for
      each shape: make it once, and call it often.

    Raises:
      InputError: on a call without arrays, or with arrays that differ in P or G.
    """
    if split not in ("questions", "rollouts"):
        raise InputError(f"split must be questions or rollouts, got {split!r}")
    devices = tuple(jax.local_devices() if devices is None else devices)

    @functools.cache
    def mapped(count: int) -> Callable[..., Any]:
        # Devices are named, so that on many hosts each maps over its own.
        if split == "questions":
            return jax.pmap(fn, devices=devices[:count])
        shared = functools.partial(fn, axis_name=ROLLOUTS)
        return jax.pmap(shared, axis_name=ROLLOUTS, devices=devices[:count])

    def over_questions(*trees: Any) -> Any:
        questions, _ = _groups(trees)
        count = len(devices)
        padding = -questions % count

        def spread(x):
            x = np.asarray(x)
            x = np.concatenate([x, np.repeat(x[-1:], padding, axis=0)])
            return x.reshape(count, len(x) // count, *x.shape[1:])

        def gather(x):
            x = np.asarray(x)
            return x.reshape(count * x.shape[1], *x.shape[2:])[:questions]

        return jax.tree.map(gather, mapped(count)(*jax.tree.map(spread, trees)))

    def over_rollouts(*trees: Any) -> Any:
        questions, rollouts = _groups(trees)
        count = max(n for n in range(1, len(devices) + 1) if rollouts % n == 0)

        def spread(x):
            x = np.asarray(x)
            return x.reshape(
                questions, count, rollouts // count, *x.shape[2:]
            ).swapaxes(0, 1)

        def gather(x):
            x = np.asarray(x).swapaxes(0, 1)
            return x.reshape(questions, rollouts, *x.shape[3:])

        return jax.tree.map(gather, mapped(count)(*jax.tree.map(spread, trees)))

    return over_questions if split == "questions" else over_rollouts


def _groups(trees: Any) -> tuple[int, int]:
    """P and G, the leading sizes of all arrays."""
    sizes = {np.shape(leaf)[:2] for leaf in jax.tree.leaves(trees)}
    if len(sizes) != 1 or len(size := sizes.pop()) != 2 or 0 in size:
        raise InputError(
            "all arrays must begin with the same [P, G], neither of them 0"
        )
    return size
