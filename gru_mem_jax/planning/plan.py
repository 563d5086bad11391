"""A run on a topology: does it fit, and how long does a step take?"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, fsdp_note, make_mesh
from gru_mem_jax.planning.chips import GIB, Chip, chip_of
from gru_mem_jax.planning.measured import Measured, measure
from gru_mem_jax.planning.programs import Program, RunPrograms, run_programs
from gru_mem_jax.planning.steps import Phase, phases
from gru_mem_jax.planning.work import (
    TEMPLATE,
    Rows,
    Turns,
    longest_turn,
    rows_of_a_step,
    turns_of_a_step,
)
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import Policy, make_policy
from gru_mem_jax.policy.kernels import describe, row_attention
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.prefix_store import with_trunks
from gru_mem_jax.train.config import TrainConfig
from gru_mem_jax.train.footprint import memory_estimate, planned_engine

Measure = Callable[[Program, Chip], Measured]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """What the settings of a run do not say of its texts, in tokens.

    Attributes:
      document: of a source's documents.
      completion: that a turn samples; None: the budget.
      template: of a prompt around what is inserted.
    """

    document: int
    completion: int | None = None
    template: int = TEMPLATE

    # As those of a `PromptBuilder`, whose tokenizer is not needed then.
    def overhead_tokens(self, kind: str) -> int:
        """Tokens of any prompt's template."""
        return self.template

    def no_memory_tokens(self) -> int:
        """Tokens of an empty memory; less than any budget."""
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run takes of a topology.

    Attributes:
      config: of the run, as it was planned: what depends on the platform is set.
      chip, devices: of the topology.
      run: its programs.
      turns, rows: of a step.
      measured: the programs, in their order.
      phases: of a step; those of programs that did not compile are missing.
      formula: bytes by the formula of `train.footprint`, without devices.
      attention: a line on the kernels that were chosen.
      note: a line where the mesh does not split the weights well.
    """

    config: TrainConfig
    chip: Chip
    devices: int
    run: RunPrograms
    turns: Turns
    rows: Rows
    measured: tuple[Measured, ...]
    phases: tuple[Phase, ...]
    formula: dict[str, int]
    attention: str
    note: str | None

    @property
    def fits(self) -> bool:
        """Whether sampler and learner fit, as they are held together."""
        return all(found.fits(self.chip) for found in self.measured)

    @property
    def fullest(self) -> Measured:
        """The program that takes most, with what stays beside it."""
        return max(self.measured, key=lambda found: found.total)

    @property
    def roofline_seconds(self) -> float | None:
        """Of a step, at the chip's figures; None: a program did not compile."""
        if not all(found.compiled for found in self.measured):
            return None
        return sum(phase.roofline_seconds for phase in self.phases)

    @property
    def chips(self) -> int:
        """Chips of the topology."""
        return self.devices // self.chip.devices_per_chip

    def record(self, efficiency: float) -> dict[str, Any]:
        """JSON-ready; sizes are those of one device.

        Args:
          efficiency: share of the chip's figures that a step reaches.
        """
        least = self.roofline_seconds
        step = None if least is None else least / efficiency
        hours = None if step is None else self.chips * step / 3600
        num_steps = self.config.loop.num_steps
        return {
            "chip": self.chip.name,
            "chips": self.chips,
            "devices": self.devices,
            "mesh": dict(self.run.learner.mesh.shape),
            "engines": self.run.engines,
            "tensor": self.run.tensor,
            "attention": self.attention,
            "note": self.note,
            "hbm_gib": self.chip.memory / GIB,
            "fits": self.fits,
            "peak_gib": self.fullest.total / GIB,
            "fullest": self.fullest.name,
            "formula_gib": self.formula["total"] / GIB,
            "held_gib": {k: v / GIB for k, v in self.run.held.items()},
            "programs": [found.record(self.chip) for found in self.measured],
            "turns": dataclasses.asdict(self.turns),
            "rows": dataclasses.asdict(self.rows),
            "phases": [
                {
                    "name": phase.name,
                    "calls": phase.calls,
                    "seconds": phase.seconds,
                    "roofline_seconds": phase.roofline_seconds,
                    "binds": phase.binds,
                }
                for phase in self.phases
            ],
            "roofline_seconds": least,
            "efficiency": efficiency,
            "step_seconds": step,
            "chip_hours_per_step": hours,
            "num_steps": num_steps,
            "chip_hours": None if hours is None else num_steps * hours,
        }


def plan_run(
    config: TrainConfig,
    shape: PolicyConfig,
    devices: Sequence[Any],
    lengths: Lengths,
    measured_by: Measure = measure,
) -> RunPlan:
    """Compiles the programs of a run for a topology.

    Args:
      config: of the run, its agent given.
      shape: of the policy.
      devices: of the topology.
      lengths: of its texts.
      measured_by: compiles and measures a program.

    Raises:
      InputError: settings do not go together, or not with the devices.
    """
    if config.agent is None:
        raise InputError("no agent: set TrainConfig.agent")
    chip = chip_of(devices[0].device_kind)
    config = for_accelerators(config)
    engine = sizes_of_engine(config, shape, config.agent, lengths)
    turns = turns_of_a_step(
        config.agent,
        config.rollouts.questions_per_step,
        config.rollouts.group_size,
        lengths.document,
        lengths.completion,
        lengths.template,
    )
    policy = make_policy(shape)
    formula = functools.partial(_formula, config, policy, devices)
    engine = planned_engine(engine, devices, formula, chip.memory)
    filled = turns.own + turns.completion // 2 + (0 if engine.trunks else turns.shared)
    run = run_programs(config, policy, engine, devices, filled)
    rows = rows_of_a_step(turns, run.learner.packing)
    measured = tuple(measured_by(program, chip) for program in run.programs)
    compiled = {found.name: found for found in measured if found.compiled}
    return RunPlan(
        config=config,
        chip=chip,
        devices=len(devices),
        run=run,
        turns=turns,
        rows=rows,
        measured=measured,
        phases=tuple(phases(run, shape, compiled, turns, rows, chip)),
        formula=formula(engine),
        attention=describe(
            run.learner.mesh,
            row_attention(config.learner.attention, run.learner.mesh),
            run.sampler.attention,
        ),
        note=fsdp_note(shape.hidden_size, run.learner.mesh),
    )


def _formula(
    config: TrainConfig, policy: Policy, devices: Sequence[Any], engine: EngineConfig
) -> dict[str, int]:
    """Bytes on a device by the formula that needs none."""
    mesh = make_mesh(config.mesh, devices)
    attention = row_attention(config.learner.attention, mesh).name
    return memory_estimate(
        policy,
        dataclasses.replace(config.learner, attention=attention),
        MeshConfig(**mesh.shape),
        engine,
        reference=config.objective.beta > 0,
        behaviour=config.rollouts.overlap,
    )


def for_accelerators(config: TrainConfig) -> TrainConfig:
    """The configuration with the dtypes that it has on an accelerator."""
    learner, engine = config.learner, config.engine
    return dataclasses.replace(
        config,
        learner=dataclasses.replace(
            learner, compute_dtype=learner.compute_dtype or "bfloat16"
        ),
        engine=dataclasses.replace(engine, dtype=engine.dtype or "bfloat16"),
    )


def sizes_of_engine(
    config: TrainConfig, shape: PolicyConfig, agent: AgentConfig, lengths: Lengths
) -> EngineConfig:
    """Sizes of one engine, lowered to what the budgets need.

    Raises:
      InputError: the longest turn does not fit.
    """
    longest = longest_turn(agent, lengths.template)
    limits = {
        "the policy's window of": shape.max_position_embeddings,
        "a row of row_tokens": config.learner.row_tokens,
        "the engine's max_length": config.engine.max_length,
    }
    for name, limit in limits.items():
        if longest > limit:
            raise InputError(
                f"a turn may have {longest} tokens, more than {name} {limit}; raise it "
                "or lower chunk_size or a budget"
            )
    engine = config.engine.lowered_to(longest)
    return with_trunks(engine, lengths, agent) if engine.trunks else engine
