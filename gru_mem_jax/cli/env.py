"""Print versions and devices, for a bug report or before a run."""

import argparse
import os
import platform
import sys

_PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "transformers",
    "tokenizers",
    "safetensors",
    "gin-config",
    "torch",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", metavar="OUT", help="write it as JSON to a file, or to stdout with -"
    )
    parser.add_argument(
        "--policy",
        metavar="DIR",
        help="tell what a policy directory says: family, stop ids, roles, template",
    )


def environment() -> dict[str, object]:
    """Versions, machine and devices, JSON-ready."""
    import jax

    from gru_mem_jax.cli import runtime
    from gru_mem_jax.version import __version__

    devices = jax.devices()
    return {
        "gru_mem_jax": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in _PACKAGES},
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "backend": jax.default_backend(),
        "devices": [f"{d.device_kind} ({d.platform}:{d.id})" for d in devices],
        "processes": jax.process_count(),
        "compilation_cache": str(runtime.cache_dir() or "off"),
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _memory_gib() -> float | None:
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    return round(pages / 2**30, 1)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import env_policy, json_output, terminal

    target = None if args.json is None else json_output.open_target(args.json)
    policy = env_policy.policy_environment(args.policy) if args.policy else None
    found = environment()
    if target is None or not target.is_stdout:
        width = max(map(len, found))
        for name, value in found.items():
            for item in value if isinstance(value, list) else [value]:
                shown = "not installed" if item is None else item
                sys.stdout.write(f"{name:<{width}}  {shown}\n")
                name = ""
        if policy is not None:
            for name, text in env_policy.lines(policy):
                sys.stdout.write(f"{name:<{width}}  {terminal.safe_text(text)}\n")
    if policy is not None:
        found["policy"] = policy
    if target is not None:
        target.write(found)
    return 0
