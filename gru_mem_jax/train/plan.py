"""What can be known of a run before any weight is read: does it fit together?"""

import dataclasses
import os
from typing import NamedTuple

from jax.sharding import Mesh

from gru_mem_jax.agent.config import (
    PAPER_MODES,
    AgentConfig,
    check_budgets,
    longest_turn,
    replace_settings,
)
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import (
    MeshConfig,
    device_memory,
    fsdp_note,
    make_mesh,
    row_shards,
)
from gru_mem_jax.policy import kernels
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import PolicyDir, open_policy_dir
from gru_mem_jax.policy.functional import Policy, make_policy
from gru_mem_jax.policy.hf import load_config
from gru_mem_jax.rl.rollout import check_agent
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.footprint import engine_dtype
from gru_mem_jax.sampling.hand_over import group_mesh
from gru_mem_jax.sampling.prefix_store import with_trunks
from gru_mem_jax.sampling.programs import engine_attention
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train.config import LoopConfig, SFTConfig, TrainConfig
from gru_mem_jax.train.footprint import (
    check_memory,
    describe_memory,
    memory_estimate,
    planned_engine,
)

# What modes that read chunks more than once have besides their name.
_OF_PASSES = ("max_passes", "scan_chunks", "max_merged", "merge_until_exit")


class Plan(NamedTuple):
    """A run that fits together.

    Attributes:
      policy: without weights.
      encoder: its tokenizer.
      agent: how contexts are read, in rollouts or in supervised turns.
      engine: sizes of the sampler; None: nothing is sampled.
      mesh: of the learner.
      longest: tokens of the longest turn within the budgets.
      memory: bytes on the fullest device, by what they are for.
      attention: a line on the kernels that were chosen.
      notes: lines worth reading before a long run.
    """

    policy: Policy
    encoder: TextTokenizer
    agent: AgentConfig
    engine: EngineConfig | None
    mesh: Mesh
    longest: int
    memory: dict[str, int]
    attention: str
    notes: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What is said of memory and kernels at the start of a run."""
        return (f"memory by formula, {describe_memory(self.memory)}", self.attention)


def open_start(
    config: TrainConfig | SFTConfig, scratch: str | os.PathLike[str]
) -> PolicyDir:
    """The policy that a run begins with.

    Args:
      config: of the run.
      scratch: an empty folder; a policy from scratch is written there, the same for
        equal configurations.

    Raises:
      InputError: none is named, or there is none.
    """
    start = config.start if isinstance(config, SFTConfig) else None
    if start is None or config.loop.policy is not None:
        return named_policy(config.loop)
    if config.learner.lora is not None:
        raise InputError(
            "lora trains adapters of a policy, and a run from scratch has none: set "
            "LoopConfig.policy, or train without lora"
        )
    start.write(scratch, config.loop.seed)
    return open_policy_dir(scratch)


def named_policy(loop: LoopConfig) -> PolicyDir:
    """The policy that the loop's configuration names.

    Raises:
      InputError: none is named, or there is none.
    """
    if loop.policy is None:
        raise InputError(
            "no policy to begin with: set LoopConfig.policy, e.g. "
            "--gin.LoopConfig.policy='\"DIR\"'"
        )
    return open_policy_dir(loop.policy)


def policy_agent(directory: PolicyDir) -> AgentConfig:
    """How contexts are read in rollouts, if nothing else is said.

    The settings that the policy brings along, sampling from the whole distribution at
    temperature 1, gates too.
    """
    config = policy_settings(directory)
    sampling = dataclasses.replace(config.sampling, temperature=1.0, top_k=0, top_p=1.0)
    return dataclasses.replace(
        config, sampling=sampling, update_threshold=None, exit_threshold=None
    )


def settings_to_use(
    own: AgentConfig, trained: AgentConfig, *, supervised: bool
) -> AgentConfig:
    """How a trained policy is to be used: sampled from as it was before.

    It reads as its supervised turns did; after rollouts, whose budgets may have been
    tighter, within its own, unless it was trained to read otherwise.

    Args:
      own: settings of the policy that training began with.
      trained: how contexts were read in training.
      supervised: whether it learned from supervised turns.
    """
    # Thresholds are of the weights that they were calibrated with.
    own, trained = (
        dataclasses.replace(each, update_threshold=None, exit_threshold=None)
        for each in (own, trained)
    )
    same = (own.chunk_size, own.prompt) == (trained.chunk_size, trained.prompt)
    if supervised or not same:
        return dataclasses.replace(trained, sampling=own.sampling)
    changes = {"mode": trained.mode, "format": trained.format}
    if trained.mode not in PAPER_MODES:
        changes |= {name: getattr(trained, name) for name in _OF_PASSES}
    used = replace_settings(own, **changes)
    if trained.format == "free":
        return used
    # A form needs room, and its thought is no longer than it was trained to be.
    return dataclasses.replace(
        used,
        thought_tokens=trained.thought_tokens,
        completion_tokens=max(own.completion_tokens, trained.completion_tokens),
    )


def plan(config: TrainConfig | SFTConfig, directory: PolicyDir) -> Plan:
    """Checks a configuration against the policy; seconds, and no weights.

    Raises:
      InputError: something does not fit; says what and what to change.
    """
    for name in ("source", "turns"):
        if getattr(config, name, ...) is None:
            kind = type(config).__name__
            raise InputError(f"no {name}: set {kind}.{name}, e.g. in a gin file")
    policy = make_policy(load_config(directory))
    encoder = TextTokenizer.from_pretrained(directory.root)
    encoder.check_rows(policy.config.vocab_size)
    supervised = isinstance(config, SFTConfig)
    agent = config.agent
    if agent is None:
        agent = (policy_settings if supervised else policy_agent)(directory)
    if not supervised:
        check_agent(agent)
    longest = _longest_turn(config, encoder, agent)
    samples = not supervised or config.suite is not None
    limits = {
        "the policy's window of": (policy.config.max_position_embeddings, ""),
        "a row of row_tokens": (config.learner.row_tokens, "raise it or "),
    }
    if samples:
        limits["the engine's max_length"] = (config.engine.max_length, "raise it or ")
    for name, (limit, advice) in limits.items():
        if longest > limit:
            raise InputError(
                f"a turn may have {longest} tokens, more than {name} {limit}; "
                f"{advice}lower chunk_size or a budget"
            )
    mesh = make_mesh(config.mesh)
    rows = kernels.row_attention(config.learner.attention, mesh)
    learner = dataclasses.replace(config.learner, attention=rows.name)
    engine = config.engine.lowered_to(longest) if samples else None
    if engine is not None and engine.trunks:
        engine = with_trunks(engine, PromptBuilder(encoder, agent.prompt), agent)
    overlap = not supervised and config.rollouts.overlap
    if overlap and not config.engine.resident:
        raise InputError(
            "overlap samples while the policy is updated, and an engine that is not "
            "resident is freed then: set RolloutConfig.overlap or "
            "EngineConfig.resident otherwise"
        )

    def estimate(engine: EngineConfig | None) -> dict[str, int]:
        return memory_estimate(
            policy,
            learner,
            MeshConfig(**mesh.shape),
            engine,
            reference=not supervised and config.objective.beta > 0,
            behaviour=overlap,
        )

    devices = list(mesh.devices.flat)
    sampler = None
    limit = device_memory(devices[0])
    if engine is not None:
        engine = planned_engine(engine, devices, estimate, limit)
        # Raises where devices are no whole groups.
        groups = group_mesh(mesh, engine.tensor)
        one = Mesh(groups.devices[:1], groups.axis_names)
        sampler = engine_attention(policy, engine, engine_dtype(engine), one)
    memory = estimate(engine)
    doubt = check_memory(memory, limit)
    notes = [] if supervised else _notes(config, agent, mesh, engine)
    split = fsdp_note(policy.config.hidden_size, mesh)
    return Plan(
        policy=policy,
        encoder=encoder,
        agent=agent,
        engine=engine,
        mesh=mesh,
        longest=longest,
        memory=memory,
        attention=kernels.describe(mesh, rows, sampler),
        notes=(*notes, *filter(None, [split, doubt])),
    )


def _longest_turn(
    config: TrainConfig | SFTConfig, encoder: TextTokenizer, agent: AgentConfig
) -> int:
    """Tokens of the longest turn of any mode that the run may need."""
    builder = PromptBuilder(encoder, agent.prompt)
    longest = 0
    for mode in (agent.mode, *config.loop.eval_modes):
        each = dataclasses.replace(agent, mode=mode)
        check_budgets(builder, each)
        longest = max(longest, longest_turn(builder, each))
    return longest


def _notes(
    config: TrainConfig, agent: AgentConfig, mesh: Mesh, engine: EngineConfig
) -> list[str]:
    notes = []
    engines = mesh.size // engine.tensor
    rewards = config.rewards
    rollouts = config.rollouts.questions_per_step * config.rollouts.group_size
    if rollouts < engines * engine.slots:
        slots = f"the engine's {engine.slots} slots"
        if engines > 1:
            slots = f"the {engine.slots} slots of each of {engines} engines"
        notes.append(f"{rollouts} rollouts of a step leave some of {slots} idle")
    if rewards.overlong_weight > 0 and rewards.overlong_limit > agent.completion_tokens:
        notes.append(
            f"overlong_limit {rewards.overlong_limit} is above completion_tokens "
            f"{agent.completion_tokens}: the full penalty is never reached"
        )
    if agent.format == "constrained" and agent.mode != "memagent":
        notes.append(
            "format constrained forces the form of turns: the format reward is that of "
            "a well-formed one by construction, and teaches nothing"
        )
    if agent.mode == "memagent" and config.advantages.alpha != 1:
        notes.append(
            "mode memagent has no gates to reward by turn: it is trained with alpha 1"
        )
    micro_batch = config.learner.rows_per_device * row_shards(mesh)
    if micro_batch > 1 and rollouts < micro_batch:
        notes.append(
            f"micro-batches of {micro_batch} rows are partly empty with {rollouts} "
            "rollouts"
        )
    return notes
