"""Write a training run's policy as a Hugging Face directory.

--out gets config.json, safetensors, the tokenizer, gru_mem.json and a model card, for
transformers and `gru-mem ask`. A run that trained adapters (LoRA) needs --policy, the
directory that it began with, to merge them; --adapters writes only them, for PEFT.
The directory's path goes to stdout.
"""

import argparse

from gru_mem_jax.cli import arguments, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add(
        "run",
        type=arguments.path,
        metavar="RUN",
        help="a run folder; the run may still be in progress",
    )
    add(
        "--out",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="folder to create",
    )
    add(
        "--step",
        type=arguments.integer(least=1),
        metavar="N",
        help="a saved step; default: the newest",
    )
    add(
        "--policy",
        type=arguments.path,
        metavar="DIR",
        help="the policy that a LoRA run began with",
    )
    add("--adapters", action="store_true", help="only the adapters of a LoRA run")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the stored weights; default float32, as in training",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import runtime

    arguments.check_folder("--out", args.out, new=True)
    runtime.start()
    from gru_mem_jax.runs.export import export_run

    step = export_run(
        args.run,
        args.out,
        step=args.step,
        policy_dir=args.policy,
        adapters=args.adapters,
        dtype=args.dtype,
    )
    terminal.note(f"exported step {step}")
    print(args.out)
    return 0
