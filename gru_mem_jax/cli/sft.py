"""Train a policy by supervision, on the turns of an oracle that knows the evidence.

The warm start before reinforcement learning. Policy, data and settings are set by gin:
give --gin_file, and its macros as --gin.NAME=VALUE. The same command again resumes the
run in --run_dir from its newest good checkpoint; `gru-mem export` writes its policy.
--dry_run checks settings and data before training, and prints the settings.
"""

import argparse
from typing import Any

from gru_mem_jax.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    from gru_mem_jax.cli.train import add_run_arguments

    add_run_arguments(parser)
    arguments.add_gin_flags(parser)


def configurables() -> tuple[type, ...]:
    """The classes that gin can configure in a supervised run."""
    from gru_mem_jax import data, tiny, train
    from gru_mem_jax.cli.train import run_configurables

    return (
        *run_configurables(),
        data.EvidenceTurns,
        tiny.StructuredConfig,
        tiny.TinyModel,
        tiny.TurnConfig,
        train.SFTConfig,
    )


def settings_from(gin: Any, agent: Any = None) -> Any:
    """The run's SFTConfig, from a GinConfig.

    Args:
      gin: the parsed bindings.
      agent: how the policy reads contexts; None: as its directory says.

    Raises:
      InputError: no policy, or a setting that does not exist or is out of range.
    """
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.train.config import LoopConfig, SFTConfig
    from gru_mem_jax.train.plan import named_policy

    loop = gin.build_field("loop", LoopConfig())
    if agent is None and loop.policy is not None:
        agent = policy_settings(named_policy(loop))
    return gin.build(SFTConfig(agent=agent))


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import gin_config, runtime
    from gru_mem_jax.cli.train import check_run_arguments, dry_run, start_run

    check_run_arguments(args)
    runtime.start(args)
    runtime.keep_freed_memory()
    gin = gin_config.load(args, configurables())
    config = settings_from(gin)
    gin.check_all_read()
    if args.dry_run:
        dry_run(config, gin.operative_text())
        return 0
    from gru_mem_jax.train import sft

    start_run(sft, args, config, gin.operative_text())
    return 0
