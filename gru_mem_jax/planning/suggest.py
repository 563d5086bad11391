"""What to change where a run does not fit, tried one change after the other."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gru_mem_jax.parallelism import DATA, FSDP, TENSOR
from gru_mem_jax.planning.chips import Chip
from gru_mem_jax.planning.measured import Measured, measure
from gru_mem_jax.planning.plan import Lengths, RunPlan, plan_run
from gru_mem_jax.planning.programs import APPLY, SCORE, UPDATE, Program
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.train.config import TrainConfig

_TILE = 16  # rows of a bfloat16 tile: D / fsdp is a multiple of it
_MOST = 8


class Change(NamedTuple):
    """A change of the settings.

    Attributes:
      lines: as a gin file has them.
      config: with it.
    """

    lines: tuple[str, ...]
    config: TrainConfig


def suggest(
    planned: RunPlan,
    shape: PolicyConfig,
    devices: Sequence[Any],
    lengths: Lengths,
    told: Callable[[str], None] = lambda line: None,
    measured_by: Callable[[Program, Chip], Measured] = measure,
) -> tuple[RunPlan, tuple[str, ...]]:
    """Changes settings until the run fits, or nothing is left to change.

    Programs that a change leaves alone are not compiled again.

    Args:
      planned: does not fit.
      shape, devices, lengths, measured_by: as of `plan_run`.
      told: is given a line on each change that is tried.

    Returns:
      The last plan, and all changes as lines of gin.
    """
    known = {
        program.key: found
        for program, found in zip(planned.run.programs, planned.measured, strict=True)
    }

    def once(program: Program, chip: Chip) -> Measured:
        if program.key not in known:
            known[program.key] = measured_by(program, chip)
        return dataclasses.replace(known[program.key], held=program.held)

    lines: dict[str, str] = {}
    for _ in range(_MOST):
        change = None if planned.fits else next(changes(planned, shape), None)
        if change is None:
            break
        told(f"trying {', '.join(change.lines)}")
        lines |= {line.split(" = ")[0]: line for line in change.lines}
        planned = plan_run(change.config, shape, devices, lengths, once)
    return planned, tuple(lines.values())


def changes(planned: RunPlan, shape: PolicyConfig) -> Iterator[Change]:
    """Changes that may help a plan that does not fit, the most promising first."""
    failing = [found for found in planned.measured if not found.fits(planned.chip)]
    learning = [found for found in failing if found.name in (SCORE, UPDATE, APPLY)]
    if any(found.error for found in learning):
        yield from _more_fsdp(planned, shape)
        yield from _more_tensor(planned, shape)
    elif learning:
        yield from _of_the_learner(planned, shape, learning)
    else:
        yield from _of_the_sampler(planned, shape)
        if all(found.peak <= planned.chip.memory for found in failing):
            yield from _of_the_learner(planned, shape, failing)


def _of_the_learner(
    planned: RunPlan, shape: PolicyConfig, failing: list[Measured]
) -> Iterator[Change]:
    config = planned.config
    learner = config.learner
    if not learner.remat:
        yield _changed(config, "learner", remat=True)
    sampler = sum(
        size for name, size in planned.run.held.items() if name.startswith("sampler_")
    )
    learns = all(found.name in (SCORE, UPDATE, APPLY) for found in failing)
    memory = planned.chip.memory
    beside = all(f.compiled and f.total - sampler <= memory for f in failing)
    if config.engine.resident and learns and beside:
        yield _changed(config, "engine", resident=False)
    if learner.rows_per_device > 1:
        yield _changed(config, "learner", rows_per_device=learner.rows_per_device // 2)
    yield from _more_fsdp(planned, shape)
    if config.engine.resident and learns:
        yield _changed(config, "engine", resident=False)
    if learner.logits_chunk > 128:
        yield _changed(config, "learner", logits_chunk=learner.logits_chunk // 2)
    yield from _more_tensor(planned, shape)


def _more_fsdp(planned: RunPlan, shape: PolicyConfig) -> Iterator[Change]:
    mesh = planned.run.learner.mesh.shape
    fsdp = 2 * mesh[FSDP]
    if mesh[DATA] % 2 == 0 and shape.hidden_size % (fsdp * _TILE) == 0:
        yield _changed(planned.config, "mesh", data=mesh[DATA] // 2, fsdp=fsdp)


def _more_tensor(planned: RunPlan, shape: PolicyConfig) -> Iterator[Change]:
    mesh = planned.run.learner.mesh.shape
    heads = shape.num_key_value_heads or shape.num_attention_heads
    if mesh[FSDP] % 2 == 0 and heads % (2 * mesh[TENSOR]) == 0:
        sizes = {"fsdp": mesh[FSDP] // 2, "tensor": 2 * mesh[TENSOR]}
        yield _changed(planned.config, "mesh", **sizes)


def _of_the_sampler(planned: RunPlan, shape: PolicyConfig) -> Iterator[Change]:
    config, run = planned.config, planned.run
    heads = shape.num_key_value_heads or shape.num_attention_heads
    wider = 2 * run.tensor
    if heads % wider == 0 and run.host_devices % wider == 0:
        yield _changed(config, "engine", tensor=wider)
    if config.engine.slots > 1:
        yield _changed(config, "engine", slots=config.engine.slots // 2)


_PUBLIC = {
    "learner": "rl.LearnerConfig",
    "engine": "sampling.EngineConfig",
    "mesh": "parallelism.MeshConfig",
}


def _changed(config: TrainConfig, part: str, **values: Any) -> Change:
    found = getattr(config, part)
    known = {field.name for field in dataclasses.fields(found)}
    values = {name: value for name, value in values.items() if name in known}
    lines = tuple(f"{_PUBLIC[part]}.{name} = {v}" for name, v in values.items())
    new = dataclasses.replace(found, **values)
    return Change(lines, dataclasses.replace(config, **{part: new}))
