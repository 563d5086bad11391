"""The machine: its cores and memory, what is installed, devices by name; no jax."""

import contextlib
import os
import pathlib
from collections.abc import Iterable
from typing import Any

# Linux: what the control group of a container may have, versions 2 and 1.
_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of memory, less where a container has less; None: unknown."""
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in _CONTAINER_LIMITS:
        with contextlib.suppress(ValueError, OSError):  # "max", or no such file
            limits.append(int(pathlib.Path(file).read_text()))
    return min(limits, default=None)


def version(package: str) -> str | None:
    """The version of an installed package; None: not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_names(devices: Iterable[Any]) -> list[str]:
    """Kind, platform and number of each device of JAX."""
    return [f"{d.device_kind} ({d.platform}:{d.id})" for d in devices]
