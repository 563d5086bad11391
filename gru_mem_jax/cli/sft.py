"""Train a tiny policy from scratch, by supervision, on oracle turns.

Leaves in --out: policy/ (a Hugging Face directory), checkpoints/ (Orbax),
metrics.jsonl and operative.gin (all settings; as a --gin_file it gives the same run).
--dry_run checks everything that can be known beforehand, and prints the settings.
"""

import argparse
import pathlib
from typing import Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add("--out", type=arguments.path, metavar="DIR", help="folder to make")
    add("--dry_run", action="store_true", help="check and print, train nothing")
    add(
        "--seed", type=arguments.integer(least=0), metavar="N", help="of start and data"
    )
    add("--steps", type=arguments.integer(least=1), metavar="N", help="optimizer steps")
    arguments.add_gin_flags(parser)


def configurables() -> tuple[type, ...]:
    """What gin can configure in a supervised run."""
    from gru_mem_jax import agent, sft, tiny

    return (
        agent.PromptConfig,
        sft.OptimizerConfig,
        sft.SFTConfig,
        sft.TinyModel,
        tiny.StructuredConfig,
        tiny.SyntheticConfig,
        tiny.TurnConfig,
    )


def configure(args: argparse.Namespace) -> tuple[Any, str]:
    """The run's SFTConfig, and all its settings as gin text.

    Raises:
      InputError: a setting that does not exist, or is out of range.
    """
    from gru_mem_jax.cli import gin_config
    from gru_mem_jax.sft import SFTConfig

    if args.seed is not None:
        args.gin_bindings.append(f"SFTConfig.seed = {args.seed}")
    if args.steps is not None:
        args.gin_bindings.append(f"SFTConfig.steps = {args.steps}")
    gin = gin_config.load(args, configurables())
    config = gin.build(SFTConfig())
    gin.check_all_read()
    return config, gin.operative_text()


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import runtime

    if not args.dry_run and args.out is None:
        raise InputError("--out DIR is needed (or --dry_run)")
    runtime.start()
    from gru_mem_jax.sft import train as sft

    config, operative = configure(args)
    if args.dry_run:
        lines = sft.plan(config)
        print(operative, end="")
        for line in [*lines, "dry run: all fits together; nothing was trained"]:
            terminal.note(line)
        return 0
    out = pathlib.Path(args.out)
    if not (out / sft.POLICY_FOLDER).exists():  # else run() says what is wrong
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "operative.gin").write_text(operative, encoding="utf-8")
        except OSError as e:
            raise InputError(f"--out: {out}: {e.strerror}") from None
    sft.run(config, out)
    return 0
