"""How a run ends: what it came to, and the lines that say so."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import jax

from gru_mem_jax.errors import RunError
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.train.footprint import describe_memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a call of `train` or `sft` came to.

    Attributes:
      run_dir: the run folder.
      step: steps that are done.
      finished: false if it was asked to stop before the last step.
      skipped: optimiser steps that were skipped in all.
    """

    run_dir: pathlib.Path
    step: int
    finished: bool
    skipped: int


def last_line(result: RunResult, folder: RunFolder, steps: int) -> str:
    """Where the run stands, and how it is resumed if it is not finished."""
    skipped = f", {result.skipped} optimiser steps skipped" if result.skipped else ""
    if result.finished:
        return f"finished at step {result.step}{skipped}; run folder: {folder.path}"
    command = folder.resume_command or "the same call"
    return (
        f"stopped and saved at step {result.step} of {steps}{skipped}; run folder: "
        f"{folder.path}; resume with: {command}"
    )


@contextlib.contextmanager
def runtime_told(memory: Mapping[str, int], hosts: Hosts) -> Iterator[None]:
    """What to tell where the accelerator's runtime failed, or memory ran out.

    Args:
      memory: by formula, of `Plan`.
      hosts: the processes of the run.

    Raises:
      RunError: it did; or another process has ended, which is why.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        cause = hosts.explain(error)
        if cause is not error:
            raise cause from error
        text = str(error)
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise RunError(
                f"the accelerator's runtime failed: {text.splitlines()[0]}"
            ) from error
        raise RunError(
            f"out of memory (by formula, {describe_memory(memory)}); lower row_tokens, "
            "rows_per_device or the engine's slots, set remat, or spread the "
            "policy over more devices (MeshConfig.fsdp)"
        ) from error
