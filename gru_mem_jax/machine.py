"""The machine: its cores and memory, what is installed, devices by name; no jax."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

# Linux: what the control group of a container may have, versions 2 and 1.
_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
_OWN_GROUPS = "/proc/self/cgroup"


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
    for file in [*_CONTAINER_LIMITS, *_limits_of_groups()]:
        with contextlib.suppress(ValueError, OSError):  # "max", or no such file
            limits.append(int(pathlib.Path(file).read_text()))
    return min(limits, default=None)


def _limits_of_groups() -> Iterator[pathlib.Path]:
    """Files with the limits of this process's group and of those that it is in.

    A batch system or a service manager gives a job a group below the root's.
    """
    with contextlib.suppress(ValueError, OSError):
        for line in pathlib.Path(_OWN_GROUPS).read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root = pathlib.Path(_CONTAINER_LIMITS[controllers == "memory"])
            group = pathlib.PurePosixPath(path.lstrip("/"))
            for each in (group, *group.parents):
                yield root.parent / each / root.name


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
