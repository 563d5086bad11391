"""Train a policy by reinforcement learning.

Policy, data and settings are set by gin: give --gin_file, and its macros as
--gin.NAME=VALUE. The same command again resumes the run in --run_dir from its newest
good checkpoint. --dry_run checks settings and data in seconds, and prints the
settings.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add_run_arguments(parser)
    add = parser.add_argument
    add(
        "--record",
        action="store_true",
        help="keep each step's rollouts in RUN/rollouts",
    )
    add(
        "--replay",
        type=arguments.path,
        metavar="DIR",
        help="train from recorded rollouts, without sampling",
    )
    arguments.add_gin_flags(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every command that trains."""
    add = parser.add_argument
    add(
        "--run_dir",
        type=arguments.path,
        metavar="RUN",
        help="folder of the run: a new one, or one to resume",
    )
    add("--dry_run", action="store_true", help="check and print, train nothing")
    add(
        "--resume_with_changes",
        action="store_true",
        help="resume although settings or data differ; the differences are printed",
    )
    add("--wandb", metavar="PROJECT", help="log to Weights & Biases too")
    add(
        "--profile_steps",
        type=arguments.steps,
        metavar="A:B",
        help="keep a profiler's trace of steps A to B in RUN/profile",
    )
    add(
        "--profile_everywhere",
        action="store_true",
        help="on each of several processes; else on the first",
    )
    arguments.add_host_flags(add)


def configurables() -> tuple[type, ...]:
    """The classes that gin can configure in a run of reinforcement learning."""
    from gru_mem_jax import rl, train

    return (
        *run_configurables(),
        rl.AdvantageConfig,
        rl.ObjectiveConfig,
        rl.RewardConfig,
        train.RolloutConfig,
        train.TrainConfig,
    )


def run_configurables() -> tuple[type, ...]:
    """The classes that gin can configure in every run."""
    from gru_mem_jax import (
        agent,
        data,
        evaluation,
        parallelism,
        rl,
        sampling,
        tiny,
        train,
    )

    return (
        agent.AgentConfig,
        agent.PromptConfig,
        agent.SamplingConfig,
        data.CurriculumSource,
        data.DatasetSource,
        data.HotpotQASource,
        data.JsonlSource,
        data.ListSource,
        data.MixedSource,
        data.SQuADSource,
        evaluation.DatasetSuite,
        evaluation.SourceSuite,
        parallelism.MeshConfig,
        rl.LearnerConfig,
        rl.LoraConfig,
        sampling.EngineConfig,
        tiny.SyntheticConfig,
        tiny.SyntheticSource,
        tiny.SyntheticSuite,
        train.LoopConfig,
    )


def settings_from(gin: Any, agent: Any = None) -> Any:
    """The run's TrainConfig, from a GinConfig.

    Args:
      gin: the parsed bindings.
      agent: how the policy reads contexts; None: as its directory says.

    Raises:
      InputError: no policy, or a setting that does not exist or is out of range.
    """
    from gru_mem_jax.train import config
    from gru_mem_jax.train.plan import named_policy, policy_agent

    loop = gin.build_field("loop", config.LoopConfig())
    if agent is None:
        agent = policy_agent(named_policy(loop))
    return gin.build(config.TrainConfig(agent=agent))


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import gin_config, runtime

    check_run_arguments(args)
    if args.record:
        args.gin_bindings.append("RolloutConfig.record = True")
    runtime.start(args)
    gin = gin_config.load(args, configurables())
    config = settings_from(gin)
    gin.check_all_read()
    if args.dry_run:
        dry_run(config, gin.operative_text())
        return 0
    from gru_mem_jax.train import train

    start_run(train, args, config, gin.operative_text(), replay=args.replay)
    return 0


def check_run_arguments(args: argparse.Namespace) -> None:
    """Raises InputError if a run has no folder, or flags do not go together."""
    if not args.dry_run and args.run_dir is None:
        raise InputError("--run_dir RUN is needed (or --dry_run)")
    if args.profile_everywhere and args.profile_steps is None:
        raise InputError("--profile_everywhere needs --profile_steps A:B")


def start_run(
    function: Any, args: argparse.Namespace, config: Any, text: str, **more: Any
) -> None:
    """Calls `train` or `sft` with the command line's settings."""
    from gru_mem_jax.train import ProfileSteps

    profile = None
    if args.profile_steps is not None:
        profile = ProfileSteps(*args.profile_steps, args.profile_everywhere)
    with listed_if_bad(20):
        function(
            config,
            args.run_dir,
            command=["gru-mem", *sys.argv[1:]],
            config_text=text,
            resume_with_changes=args.resume_with_changes,
            wandb_project=args.wandb,
            profile=profile,
            **more,
        )


@contextlib.contextmanager
def listed_if_bad(most: int | None) -> Iterator[None]:
    """Lists bad records, a line each, before the line of their error.

    Args:
      most: lines; None: all.
    """
    from gru_mem_jax.data.bad_records import BadRecordsError
    from gru_mem_jax.train.data_check import told

    try:
        yield
    except BadRecordsError as error:
        if len(error.records.bad) > 1:
            for line in told(error.records, error.listed, most):
                terminal.note(terminal.plain_line(line))
        raise


def dry_run(config: Any, text: str) -> None:
    """Checks a run; prints its settings to stdout, and a summary to stderr."""
    import tempfile

    from gru_mem_jax.train.plan import open_start

    # A policy from scratch is made in a temporary folder.
    with listed_if_bad(None), tempfile.TemporaryDirectory() as scratch:
        lines = _planned(config, open_start(config, scratch))
    print(text, end="")
    for line in [*lines, "dry run: all checks passed; nothing was trained"]:
        terminal.note(line)


def _planned(config: Any, directory: Any) -> list[str]:
    """The summary of a run, in lines."""
    from gru_mem_jax.train import SFTConfig
    from gru_mem_jax.train.data_check import check_data, make_judge
    from gru_mem_jax.train.plan import plan
    from gru_mem_jax.train.questions import QuestionStage, held_out_sets, held_out_turns

    planned = plan(config, directory)
    judge = make_judge(config, planned)
    data = check_data(config.source, judge, directory)
    supervised = isinstance(config, SFTConfig)
    # The questions of the first step, for sources without `records`.
    questions = QuestionStage(config.source, judge, data, terminal.note)
    questions.take(0, 1 if supervised else config.rollouts.questions_per_step)
    sets = held_out_sets(config, planned)
    held_out_turns(config, planned, judge)
    mesh = planned.mesh
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    if supervised:
        step = f"{config.rows} rows of {config.learner.row_tokens} tokens"
    else:
        questions_per_step = config.rollouts.questions_per_step
        step = f"{questions_per_step} questions x {config.rollouts.group_size} rollouts"
    return [
        f"policy: {config.loop.policy or 'from scratch'}, "
        f"{planned.policy.config.family}",
        f"devices: {mesh.size} ({axes})",
        f"mode: {planned.agent.mode}; longest turn: {planned.longest} tokens",
        f"a step: {step}",
        *planned.lines,
        *([] if data is None else data.lines()),
        *(f"evaluation: {line}" for each in sets for line in each.lines()),
        *(f"note: {note}" for note in planned.notes),
    ]
