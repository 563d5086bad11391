"""Print versions and devices, for a bug report or before a run.

All information is printed. Failures are marked in their place and repeated at the end,
with status 2: commands that need the failed part would end so too.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys

from gru_mem_jax import machine
from gru_mem_jax.cli import arguments

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
_PATIENCE = 60.0  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    arguments.add_json(parser.add_argument, "all of it")
    parser.add_argument(
        "--policy",
        metavar="DIR",
        help="print a policy directory's family, stop ids, roles and template",
    )


def environment() -> dict[str, object]:
    """Versions, machine and devices, JSON-ready.

    Returns:
      Name to value, None if it is missing; "warnings": JAX's log, e.g. on plug-ins that
      it ignores; "failed": name to error.
    """
    from gru_mem_jax.cli import runtime
    from gru_mem_jax.version import __version__

    memory = machine.memory()
    found = {
        "gru_mem_jax": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: machine.version(name) for name in _PACKAGES},
        "cores": machine.cores(),
        "memory_gib": memory and round(memory / 2**30, 1),
        "backend": None,
        "devices": [],
        "processes": None,
        "compilation_cache": str(runtime.cache_dir() or "off"),
        "warnings": [],
        "failed": {},
    }
    devices = _devices()
    if "failed" in devices:
        devices["failed"] = {"backend": devices["failed"]}
    return found | devices


def _devices() -> dict[str, object]:
    """The result of `find_devices` in its own process, or "failed" and why."""
    # -P: files beside the program, or in the working folder, hide no modules.
    program = pathlib.Path(__file__).with_name("find_devices.py")
    command = [sys.executable, "-P", str(program)]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"jax has found no devices within {_PATIENCE:.0f} s"}
    except OSError as error:
        return {"failed": f"{command[0]} cannot be started: {error.strerror}"}
    said = child.stdout.decode(errors="replace").strip().splitlines()
    if child.returncode == 0 and said:
        return json.loads(said[-1])
    last = _complaint(child.stderr.decode(errors="replace"))
    return {"failed": f"jax ended its process (status {child.returncode}): {last}"}


def _complaint(text: str) -> str:
    """The line that explains an abort: the first fatal one, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["silently"]
    fatal = [line for line in lines if line[0] == "F" and "] " in line[:120]]
    return fatal[0].split("] ", 1)[1] if fatal else lines[-1]


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import env_policy, json_output, terminal
    from gru_mem_jax.errors import InputError

    target = json_output.open_target(args.json)
    policy = env_policy.policy_environment(args.policy) if args.policy else None
    found = environment()
    failed = found["failed"]
    if not target.is_stdout:
        shown = {name: value for name, value in found.items() if name != "failed"}
        width = max(map(len, shown))
        for name, value in shown.items():
            for line in _lines(value, failed.get(name)):
                sys.stdout.write(f"{name:<{width}}  {terminal.plain_line(line)}\n")
                name = ""
        if policy is not None:
            for name, text in env_policy.lines(policy):
                sys.stdout.write(f"{name:<{width}}  {terminal.safe_text(text)}\n")
        sys.stdout.flush()
    if policy is not None:
        found["policy"] = policy
    target.write(found)
    if failed:
        raise InputError("; ".join(failed.values()))
    return 0


def _lines(value: object, failure: str | None) -> list[str]:
    if failure is not None:
        return [f"FAILED: {failure}"]
    if isinstance(value, list):
        return [str(item) for item in value] or ["none"]
    return ["not installed" if value is None else str(value)]
