"""Say what a training run takes of a TPU slice: memory, time and chip-hours.

The programs of the run (rollouts, update, hand-over of weights) are compiled for the
topology by libtpu, on this machine's CPU: no TPU is needed, and no weights. It takes
minutes for large policies. Settings are those of `gru-mem train`, by the same gin
files; --suggest changes them until the run fits.

Times are the least that the chips' figures allow, and those at --efficiency of them.
"""

import argparse
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError

if TYPE_CHECKING:
    from gru_mem_jax.planning.plan import Lengths, RunPlan
    from gru_mem_jax.train.config import TrainConfig

# libtpu compiles without looking for a TPU, and beside other processes that do; with
# these values it does not complain on stderr that there is none.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
# A plan reads neither of them.
_STAND_INS = {"POLICY": "", "DATA": "none", "EVAL_DATA": "none"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    count = arguments.integer(least=1)
    add(
        "--topology",
        required=True,
        metavar="CHIP:AxB[xC]",
        help="e.g. v5e:4x4, v5p:4x4x4, v6e:8x8",
    )
    add(
        "--model",
        type=arguments.path,
        metavar="NAME",
        help="shape of the policy: qwen2.5-7b, a config.json or a policy directory; "
        "default: the policy that the settings name",
    )
    add(
        "--document_tokens",
        type=count,
        metavar="N",
        help="of a document; default: as the source's settings tell",
    )
    add(
        "--completion_tokens",
        type=count,
        metavar="N",
        help="that a turn samples on average; default: its budget",
    )
    add(
        "--efficiency",
        type=arguments.number(above=0),
        default=0.4,
        metavar="E",
        help="share of the chips' figures that a step reaches; default 0.4",
    )
    add(
        "--suggest",
        action="store_true",
        help="where the run does not fit, change settings until it does",
    )
    arguments.add_json(add, "the plan")
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import gin_config, json_output, platforms
    from gru_mem_jax.cli.train import configurables

    target = json_output.open_target(args.json)
    # The process's own devices: those of the topology are none that it can use.
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    platforms.devices()
    from gru_mem_jax.planning.topologies import topology_devices

    gin = gin_config.load(args, configurables(), _STAND_INS)
    config, shape = _settings(gin, args.model)
    gin.check_all_read()
    lengths = _lengths(args, config)
    devices = topology_devices(args.topology)
    planned, lines = _plan(args.suggest, config, shape, devices, lengths)
    record = {"topology": args.topology, "model": args.model or config.loop.policy}
    record |= planned.record(args.efficiency) | {"gin": list(lines)}
    target.write(record)
    if not target.is_stdout:
        from gru_mem_jax.planning.text import describe

        sys.stdout.write("\n".join(describe(record)) + "\n")
    return 0


def _settings(gin: Any, model: str | None) -> tuple["TrainConfig", Any]:
    """The run's settings and the shape of its policy."""
    from gru_mem_jax.agent.config import AgentConfig, SamplingConfig
    from gru_mem_jax.cli.train import settings_from
    from gru_mem_jax.planning.models import model_shape, shipped
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.train.config import LoopConfig
    from gru_mem_jax.train.plan import policy_agent

    name = model or gin.build_field("loop", LoopConfig()).policy
    if not name:
        raise InputError(
            f"no policy to plan for: give --model, e.g. {shipped()[-1]}, or set "
            "LoopConfig.policy"
        )
    shape = model_shape(name)
    agent = AgentConfig(sampling=SamplingConfig(temperature=1.0, top_k=0, top_p=1.0))
    if pathlib.Path(name).is_dir():
        agent = policy_agent(open_policy_dir(name))
    return settings_from(gin, agent), shape


def _lengths(args: argparse.Namespace, config: "TrainConfig") -> "Lengths":
    """Lengths of the run's texts; says where they come from."""
    from gru_mem_jax.planning.plan import Lengths
    from gru_mem_jax.planning.work import TEMPLATE, document_tokens

    document = args.document_tokens or document_tokens(config.source)
    if document is None:
        raise InputError(
            "the source's settings do not tell how long documents are: give "
            "--document_tokens"
        )
    completion, budget = args.completion_tokens, config.agent.completion_tokens
    if completion is not None and completion > budget:
        raise InputError(
            f"--completion_tokens {completion} is more than the budget of {budget}"
        )
    template, whose = TEMPLATE, "no tokenizer is at hand"
    directory = args.model or config.loop.policy
    if pathlib.Path(directory, "tokenizer.json").is_file():
        from gru_mem_jax.agent.prompts import PROMPT_KINDS, PromptBuilder
        from gru_mem_jax.tokenization import TextTokenizer

        encoder = TextTokenizer.from_pretrained(directory)
        builder = PromptBuilder(encoder, config.agent.prompt)
        template = max(map(builder.overhead_tokens, PROMPT_KINDS))
        whose = "by its tokenizer"
    terminal.note(
        f"documents of {document} tokens, completions of {completion or budget}"
        f"{'' if completion else ' (the budget)'}, a template of {template} ({whose}); "
        "no early exit"
    )
    return Lengths(document=document, completion=completion, template=template)


def _plan(
    suggests: bool, config: "TrainConfig", shape: Any, devices: Any, lengths: "Lengths"
) -> tuple["RunPlan", tuple[str, ...]]:
    """Plans, with a line on each program as it is compiled."""
    from rich.console import Console

    from gru_mem_jax.planning.chips import GIB
    from gru_mem_jax.planning.measured import Measured, measure
    from gru_mem_jax.planning.plan import plan_run
    from gru_mem_jax.planning.suggest import suggest

    console = Console(stderr=True)

    def measured(program: Any, chip: Any) -> Measured:
        with console.status(f"compiling {program.name}"):
            found = measure(program, chip)
        size = f"{found.peak / GIB:.2f} + {found.held / GIB:.2f} GiB"
        if not found.compiled:
            size = found.error or "the compiler finds no room for it"
        terminal.note(f"compiled {found.name}: {found.compile_seconds:.0f} s, {size}")
        return found

    planned = plan_run(config, shape, devices, lengths, measured)
    if planned.fits or not suggests:
        return planned, ()
    return suggest(planned, shape, devices, lengths, terminal.note, measured)
