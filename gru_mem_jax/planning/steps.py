"""The time of a step: how often each program runs, and what that takes.

Compute is counted for the lengths that the turns have, by formula (`work`); HBM and
network for the calls that these lengths need, at what the compiled programs move. What
is slowest of the three gives a phase its time, at the chip's figures: nothing waits
and nothing is lost between calls.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

from gru_mem_jax.planning import programs as names
from gru_mem_jax.planning.chips import Chip
from gru_mem_jax.planning.measured import COMPUTE, MEMORY, NETWORK, Measured
from gru_mem_jax.planning.programs import RunPrograms
from gru_mem_jax.planning.work import (
    Rows,
    Turns,
    head_flops,
    layers_flops,
    learner_flops,
    prefill_flops,
)
from gru_mem_jax.policy.config import PolicyConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a step.

    Attributes:
      name: of the phase.
      calls: of its programs on each device.
      seconds: by what it takes them for.
    """

    name: str
    calls: int
    seconds: dict[str, float]

    @property
    def roofline_seconds(self) -> float:
        """The longest of `seconds`."""
        return max(self.seconds.values())

    @property
    def binds(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def phases(
    run: RunPrograms,
    shape: PolicyConfig,
    measured: Mapping[str, Measured],
    turns: Turns,
    rows: Rows,
    chip: Chip,
) -> Iterator[Phase]:
    """The parts of a step, in order.

    Args:
      run: the programs.
      shape: of the policy.
      measured: by name of the program; what was not compiled has no part.
      turns: of a step.
      rows: that these are packed in.
      chip: that each device is.
    """
    devices = run.learner.mesh.size
    peak = devices * chip.flops

    def of(name: str, found: Measured, calls: float, compute: float | None) -> Phase:
        seconds = {kind: calls * each for kind, each in found.seconds.items()}
        if compute is not None:
            seconds[COMPUTE] = compute
        return Phase(name=name, calls=math.ceil(calls), seconds=seconds)

    if names.HAND_OVER in measured:
        yield of(names.HAND_OVER, measured[names.HAND_OVER], 1, None)
    reading = [
        measured[name]
        for name in (names.PREFILL_TRUNK, names.PREFILL)
        if name in measured
    ]
    if reading:
        yield _prefill(reading, turns, run.engines, prefill_flops(shape, turns) / peak)
    if names.DECODE in measured:
        yield of(
            names.DECODE,
            measured[names.DECODE],
            _decode_steps(run, turns) / measured[names.DECODE].tokens,
            None,
        )
    parts = run.learner.config.optimizer_steps_per_batch
    calls = rows.micro_batches(run.learner.packing, parts)
    trees = run.learner.packing.share_prefixes
    forward = learner_flops(shape, turns, rows, trees)
    if names.SCORE in measured:
        passes = _score_passes(run)
        for name in passes:
            yield of(name, measured[names.SCORE], calls, forward / peak)
    if names.UPDATE in measured:
        update = measured[names.UPDATE]
        ratio = update.flops * devices / _forward_of_call(run, shape)
        yield of(names.UPDATE, update, calls, ratio * forward / peak)
    if names.APPLY in measured:
        yield of(names.APPLY, measured[names.APPLY], parts, None)


def _prefill(
    reading: list[Measured], turns: Turns, engines: int, compute: float
) -> Phase:
    """Trunks are read by their own program where there are two."""
    tokens = [sum(n * new for n, new, _ in turns.prefilled())]
    if len(reading) == 2:
        shared = turns.questions * turns.chunks * turns.shared
        tokens = [shared, tokens[0] - shared]
    calls = [n / engines / found.tokens for n, found in zip(tokens, reading)]
    seconds = {COMPUTE: compute}
    for kind in (MEMORY, NETWORK):
        each = zip(calls, reading)
        seconds[kind] = sum(n * found.seconds[kind] for n, found in each)
    return Phase(name=names.PREFILL, calls=math.ceil(sum(calls)), seconds=seconds)


def _decode_steps(run: RunPrograms, turns: Turns) -> int:
    """Steps of an engine: its rollouts in waves that fill its slots."""
    rollouts = math.ceil(turns.rollouts / run.engines)
    waves = math.ceil(rollouts / run.engine.slots)
    return waves * (turns.chunks + 1) * turns.completion


def _score_passes(run: RunPrograms) -> tuple[str, ...]:
    objective = run.learner.spec.objective
    passes = []
    if run.learner.config.optimizer_steps_per_batch > 1:
        passes.append("old logprobs")
    if objective is not None and objective.beta > 0:
        passes.append("reference")
    return tuple(passes) or ("old logprobs",)


def _forward_of_call(run: RunPrograms, shape: PolicyConfig) -> float:
    """FLOPs of a forward pass of a micro-batch whose rows are one conversation each."""
    length = run.learner.config.row_tokens
    flops = layers_flops(shape, length) + head_flops(shape, length)
    return run.learner.packing.rows * flops
