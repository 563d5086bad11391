"""JAX for the command line: its devices, its compilation cache, freed memory."""

import argparse
import ctypes
import os
import pathlib
import tempfile

from gru_mem_jax.cli import arguments, platforms
from gru_mem_jax.errors import InputError

_OFF = ("", "0", "off", "none")


def cache_dir() -> pathlib.Path | None:
    """The folder of the compilation cache; None: no cache.

    GRU_MEM_CACHE_DIR ("off" for no cache), else JAX's own JAX_COMPILATION_CACHE_DIR,
    else `gru_mem_jax` in XDG_CACHE_HOME or ~/.cache.
    """
    chosen = os.environ.get("GRU_MEM_CACHE_DIR")
    if chosen is not None:
        return None if chosen.lower() in _OFF else _usable(pathlib.Path(chosen))
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return _usable(pathlib.Path(chosen))
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = pathlib.Path(base) if base else pathlib.Path.home() / ".cache"
    except RuntimeError:  # no HOME and no entry in the user database
        return None
    return _usable(root / "gru_mem_jax")


def _usable(path: pathlib.Path) -> pathlib.Path | None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path.resolve()
    except OSError:
        return None


def start(args: argparse.Namespace | None = None) -> None:
    """Sets JAX up for a command: starts its devices, and caches programs on disk.

    Args:
      args: with the flags of `arguments.add_host_flags`; None: the command has none.

    Raises:
      InputError: JAX, or the platform that is set, is not available; or the processes
        of the run do not go together.
      RunError: they did not all arrive.
    """
    if args is not None and arguments.check_host_flags(args):
        _join(args)
    platforms.devices()
    import jax

    path = cache_dir()
    if path is not None:
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _join(args: argparse.Namespace) -> None:
    try:
        import jax
    except Exception as error:  # of jax, or of any plug-in
        raise InputError(platforms.explain(error)) from error
    from gru_mem_jax.hosts import processes as hosts

    # Programs of several virtual devices that wait for one another at once can stop one
    # another on few cores.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    hosts.start(
        coordinator=args.coordinator,
        num_processes=args.num_processes,
        process_id=args.process_id,
        heartbeat_seconds=args.heartbeat_seconds or hosts.HEARTBEAT_SECONDS,
    )


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning it to the system.

    On CPU, XLA frees a step's work space after the step, and the system would clear
    its pages again: a fifth of the time of small steps. No effect on other devices or
    with other C libraries.
    """
    import jax

    if jax.default_backend() != "cpu":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4  # of malloc.h
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_mmap_max, 0)
