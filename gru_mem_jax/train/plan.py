"""What can be known of a run before any weight is read: does it fit together?"""

import dataclasses
from typing import NamedTuple

from jax.sharding import Mesh

from gru_mem_jax.agent.config import (
    AgentConfig,
    check_budgets,
    longest_turn,
)
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import (
    MeshConfig,
    device_memory,
    make_mesh,
    row_shards,
)
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import PolicyDir
from gru_mem_jax.policy.functional import Policy, make_policy
from gru_mem_jax.policy.hf import load_config
from gru_mem_jax.rl.rollout import check_agent
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train.config import TrainConfig
from gru_mem_jax.train.footprint import check_memory, memory_estimate


class Plan(NamedTuple):
    """A run that fits together.

    Attributes:
      policy: without weights.
      encoder: its tokenizer.
      agent: how contexts are read in rollouts.
      engine: sizes of the sampler.
      mesh: of the learner.
      longest: tokens of the longest turn within the budgets.
      memory: bytes on the fullest device, by what they are for.
      notes: lines worth reading before a long run.
    """

    policy: Policy
    encoder: TextTokenizer
    agent: AgentConfig
    engine: EngineConfig
    mesh: Mesh
    longest: int
    memory: dict[str, int]
    notes: tuple[str, ...]


def policy_agent(directory: PolicyDir) -> AgentConfig:
    """How contexts are read in rollouts, if nothing else is said.

    The settings that the policy brings along, sampling from the whole distribution at
    temperature 1.
    """
    config = policy_settings(directory)
    sampling = dataclasses.replace(config.sampling, temperature=1.0, top_k=0, top_p=1.0)
    return dataclasses.replace(config, sampling=sampling)


def plan(settings: TrainConfig, directory: PolicyDir) -> Plan:
    """Checks settings against each other and the policy; seconds, and no weights.

    Raises:
      InputError: something does not fit; says what and what to change.
    """
    policy = make_policy(load_config(directory))
    encoder = TextTokenizer.from_pretrained(directory.root)
    encoder.check_rows(policy.config.vocab_size)
    agent = settings.agent or policy_agent(directory)
    check_agent(agent)
    builder = PromptBuilder(encoder, agent.prompt)
    longest = 0
    for mode in (agent.mode, *settings.train.eval_modes):
        each = dataclasses.replace(agent, mode=mode)
        check_budgets(builder, each)
        longest = max(longest, longest_turn(builder, each))
    window = policy.config.max_position_embeddings
    if longest > window:
        raise InputError(
            f"a turn may have {longest} tokens, but the policy's window is {window}; "
            "lower chunk_size or a budget"
        )
    if longest > settings.learner.row_tokens:
        raise InputError(
            f"a turn may have {longest} tokens, more than a row of row_tokens "
            f"{settings.learner.row_tokens}; raise it or lower a budget"
        )
    if longest > settings.engine.max_length:
        raise InputError(
            f"a turn may have {longest} tokens, more than the engine's max_length "
            f"{settings.engine.max_length}; raise it or lower a budget"
        )
    mesh = make_mesh(settings.mesh)
    engine = settings.engine.lowered_to(longest)
    memory = memory_estimate(
        policy,
        settings.learner,
        MeshConfig(**mesh.shape),
        engine,
        reference=settings.objective.beta > 0,
        behaviour=settings.train.overlap,
    )
    doubt = check_memory(memory, device_memory(mesh.devices.flat[0]))
    return Plan(
        policy=policy,
        encoder=encoder,
        agent=agent,
        engine=engine,
        mesh=mesh,
        longest=longest,
        memory=memory,
        notes=(*_notes(settings, agent, mesh), *filter(None, [doubt])),
    )


def _notes(settings: TrainConfig, agent: AgentConfig, mesh: Mesh) -> list[str]:
    notes = []
    config, rewards = settings.train, settings.rewards
    rollouts = config.questions_per_step * config.group_size
    if rollouts < settings.engine.slots:
        notes.append(
            f"{rollouts} rollouts of a step leave some of the engine's "
            f"{settings.engine.slots} slots idle"
        )
    if rewards.overlong_weight > 0 and rewards.overlong_limit > agent.completion_tokens:
        notes.append(
            f"overlong_limit {rewards.overlong_limit} is above completion_tokens "
            f"{agent.completion_tokens}: the full penalty is never reached"
        )
    if agent.mode == "memagent" and settings.advantages.alpha != 1:
        notes.append(
            "mode memagent has no gates to reward by turn: it is trained with alpha 1"
        )
    micro_batch = settings.learner.rows_per_device * row_shards(mesh)
    if micro_batch > 1 and rollouts < micro_batch:
        notes.append(
            f"micro-batches of {micro_batch} rows are partly empty with {rollouts} "
            "rollouts"
        )
    return notes
