"""Errors that end a command, in one line: their cause, and what to do."""

import errno
import sys
from typing import Any

from gru_mem_jax.cli import platforms, terminal
from gru_mem_jax.errors import GRUMemError

_REPORT = "this is a bug: please report it, with what --debug and `gru-mem env` print"
_HINTS = {
    errno.EMFILE: " (`ulimit -n` says how many may be open)",
    errno.ENFILE: " (of all processes)",
}


def one_line(error: BaseException) -> str:
    """An error as a line to print.

    Errors of this package are unchanged. Others are explained if a machine, an
    installation or a file can cause them; the rest are reported as bugs.
    """
    text = terminal.plain_line(str(error))
    name = type(error).__name__
    if isinstance(error, GRUMemError):
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"out of memory: {text[:300] or name}"
    if isinstance(error, OSError):
        return _system_error(error)
    if platforms.is_platform_error(error):
        return platforms.explain(error)
    if name in ("JaxRuntimeError", "XlaRuntimeError"):
        return f"the accelerator's runtime failed: {text[:300]}"
    if isinstance(error, ImportError) and not _is_ours(error):
        return (
            f"{text[:300] or name}: the installation is incomplete or broken; install "
            "gru_mem_jax again (`gru-mem env` prints what is installed)"
        )
    if isinstance(error, UnicodeError):
        return f"text that is not UTF-8: {text[:300]} (--debug shows where)"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return (
            f"{text}: the system allows no more (`ulimit -u`, or a container's limit)"
        )
    return " ".join([f"{name}:", *text[:500].split(), f"({_REPORT})"])


def process_name() -> str:
    """Which process this is, to begin a line with; "" if it is the only one."""
    hosts = _hosts()
    return "" if hosts is None else f"process {hosts.index}: "


def cause(error: Exception) -> Exception:
    """The error, or that of another process of the run that caused it."""
    hosts = _hosts()
    return error if hosts is None else hosts.explain(error)


def leave_hosts(status: int, line: str) -> int:
    """Ends this process's part in a run of several, whose others end with it.

    Args:
      status: exit status of the command; this process ends here if it is not 0.
      line: what went wrong.

    Returns:
      The status.
    """
    hosts = _hosts()
    if hosts is None:
        return status
    try:
        hosts.leave(status, line)
    except GRUMemError as error:
        terminal.note(f"gru-mem: {process_name()}{error}")
        hosts.leave(error.exit_status, str(error))
    return status


def _hosts() -> Any:
    """The processes of the run, if it has several; loads nothing."""
    module = sys.modules.get("gru_mem_jax.hosts")
    hosts = None if module is None else module.current()
    return hosts if hosts is not None and hosts.count > 1 else None


def _system_error(error: OSError) -> str:
    if not error.strerror:
        return terminal.plain_line(f"{type(error).__name__}: {error}")[:500]
    where = f"{error.filename}: " if error.filename else ""
    return terminal.plain_line(f"{where}{error.strerror}{_HINTS.get(error.errno, '')}")


def _is_ours(error: ImportError) -> bool:
    """Whether the missing module is one of this package."""
    return (error.name or "").split(".")[0] == "gru_mem_jax"
