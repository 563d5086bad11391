"""Train the gates of a policy by reinforcement learning.

What is trained, on what and how is gin's: give --gin_file, and its macros as
--gin.NAME=VALUE. The same command again goes on with the run in --run_dir from its
newest good checkpoint. --dry_run checks everything that can be known beforehand, in
seconds, and prints the settings.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add(
        "--run_dir",
        type=arguments.path,
        metavar="RUN",
        help="folder of the run: a new one, or one to go on with",
    )
    add("--dry_run", action="store_true", help="check and print, train nothing")
    add(
        "--record",
        action="store_true",
        help="keep each step's rollouts in RUN/rollouts",
    )
    add(
        "--replay",
        type=arguments.path,
        metavar="DIR",
        help="train from kept rollouts, sample nothing",
    )
    add(
        "--resume_with_changes",
        action="store_true",
        help="go on although settings or data differ; the differences are printed",
    )
    add("--wandb", metavar="PROJECT", help="log to Weights & Biases too")
    arguments.add_gin_flags(parser)


def configurables() -> tuple[type, ...]:
    """What gin can configure in a training run."""
    from gru_mem_jax import agent, data, parallelism, rl, sampling, tiny, train

    return (
        agent.AgentConfig,
        agent.PromptConfig,
        agent.SamplingConfig,
        data.HotpotQASource,
        data.JsonlSource,
        data.ListSource,
        data.SQuADSource,
        parallelism.MeshConfig,
        rl.AdvantageConfig,
        rl.LearnerConfig,
        rl.LoraConfig,
        rl.ObjectiveConfig,
        rl.RewardConfig,
        sampling.EngineConfig,
        tiny.SyntheticConfig,
        tiny.SyntheticSource,
        tiny.SyntheticSuite,
        train.LoopConfig,
        train.TrainConfig,
    )


def settings_from(gin: Any, agent: Any = None) -> Any:
    """The run's TrainConfig, from a GinConfig.

    Args:
      gin: what is bound.
      agent: how the policy wants contexts to be read; None: as its directory says.

    Raises:
      InputError: no policy, or a setting that does not exist or is out of range.
    """
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.tiny.sources import SyntheticSource, SyntheticSuite
    from gru_mem_jax.train import config
    from gru_mem_jax.train.plan import policy_agent

    train = gin.build_field("train", config.LoopConfig())
    if train.policy is None:
        raise InputError(
            "no policy to begin with: set LoopConfig.policy, e.g. "
            "--gin.LoopConfig.policy='\"DIR\"'"
        )
    if agent is None:
        agent = policy_agent(open_policy_dir(train.policy))
    suite = SyntheticSuite(chunk_tokens=min(agent.chunk_size, 64))
    default = dataclasses.replace(
        config.TrainConfig(source=SyntheticSource()), agent=agent, suite=suite
    )
    return gin.build(default)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import gin_config, runtime

    if not args.dry_run and args.run_dir is None:
        raise InputError("--run_dir RUN is needed (or --dry_run)")
    if args.record:
        args.gin_bindings.append("LoopConfig.record = True")
    runtime.start()
    gin = gin_config.load(args, configurables())
    settings = settings_from(gin)
    gin.check_all_read()
    text = gin.operative_text()
    if args.dry_run:
        with _listed_if_bad(None):
            _dry_run(settings, text)
        return 0
    from gru_mem_jax.train import train

    with _listed_if_bad(20):
        train(
            settings,
            settings.train.policy,
            args.run_dir,
            command=["gru-mem", *sys.argv[1:]],
            config_text=text,
            resume_with_changes=args.resume_with_changes,
            replay=args.replay,
            wandb_project=args.wandb,
        )
    return 0


@contextlib.contextmanager
def _listed_if_bad(most: int | None) -> Iterator[None]:
    """Lists bad records, a line each, before the line of the error that they are.

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


def _dry_run(settings: Any, text: str) -> None:
    """Checks, and prints the settings to stdout, what they come to to stderr."""
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.train.data_check import check_data, make_judge
    from gru_mem_jax.train.footprint import describe_memory
    from gru_mem_jax.train.plan import plan
    from gru_mem_jax.train.questions import QuestionStage

    directory = open_policy_dir(settings.train.policy)
    planned = plan(settings, directory)
    judge = make_judge(settings, planned)
    data = check_data(settings.source, judge, directory)
    # A first step's questions, from a source that can be judged no further.
    questions = QuestionStage(settings.source, judge, data, terminal.note)
    questions.take(0, settings.train.questions_per_step)
    config, mesh = settings.train, planned.mesh
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    lines = [
        f"policy: {settings.train.policy}, {planned.policy.config.family}",
        f"devices: {mesh.size} ({axes})",
        f"mode: {planned.agent.mode}; longest turn: {planned.longest} tokens",
        f"a step: {config.questions_per_step} questions x {config.group_size} rollouts",
        f"memory by formula, {describe_memory(planned.memory)}",
        *([] if data is None else data.lines()),
        *(f"note: {note}" for note in planned.notes),
        "dry run: all fits together; nothing was trained",
    ]
    print(text, end="")
    for line in lines:
        terminal.note(line)
