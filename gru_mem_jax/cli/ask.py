"""Answer a question from a text of any length.

The text is read chunk by chunk; only a short memory is kept from one chunk to the
next. One gate decides whether a chunk changes it, another when to stop reading. Mode
reread begins again until a pass changes nothing; mode parallel reads all chunks side by
side, and merges those that matter in order.
The answer goes to stdout, progress to stderr, the whole trajectory to --json.
Settings: the policy's own (gru_mem.json in its folder), then gin, then flags.
"""

import argparse
import dataclasses
import os
from typing import Any

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError

# Flags that are settings of AgentConfig, PromptConfig or SamplingConfig by name.
_SETTINGS = (
    "mode",
    "chunk_size",
    "question_tokens",
    "memory_tokens",
    "completion_tokens",
    "prompt_tokens",
    "max_chunks",
    "deadline_seconds",
    "prefill_ahead",
    "max_passes",
    "scan_chunks",
    "max_merged",
    "merge_until_exit",
    "order",
    "style",
    "temperature",
    "seed",
    "top_k",
    "top_p",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    count = arguments.integer(least=1)
    path = arguments.path
    add(
        "--policy",
        type=path,
        metavar="DIR",
        required=True,
        help="a Hugging Face directory, or hf://org/name@revision",
    )
    add("--question", metavar="TEXT", required=True, help="what to answer")
    add(
        "--context",
        type=path,
        metavar="FILE",
        required=True,
        help="UTF-8 text to read: a file, a named pipe, or - for stdin",
    )
    add("--mode", choices=MODES, help="how to read, and when to stop")
    add(
        "--cache",
        type=path,
        metavar="DIR",
        help="folder that keeps keys and values of the context's chunks, so that the "
        "next question on it need not compute them (chunk_first prompts)",
    )
    add(
        "--cache_gib",
        type=arguments.number(above=0),
        metavar="N",
        help="most GiB of that folder; the least recently used leaves first; "
        "default 16",
    )
    arguments.add_json(add, "the trajectory")
    add("--trace", action="store_true", help="with token ids and logprobs in the JSON")
    add(
        "--resume",
        action="store_true",
        help="resume from the turns of an interrupted run in --json",
    )
    reading = parser.add_argument_group("reading")
    add = reading.add_argument
    add("--chunk_size", type=count, metavar="N", help="tokens of a chunk")
    add("--memory_tokens", type=count, metavar="N", help="the memory's budget")
    add("--completion_tokens", type=count, metavar="N", help="a completion's budget")
    add("--question_tokens", type=count, metavar="N", help="the question's budget")
    add("--prompt_tokens", type=count, metavar="N", help="a whole prompt's budget")
    add("--order", choices=("memory_first", "chunk_first"), help="layout of prompts")
    add("--style", choices=("full", "compact"), help="wording of prompts")
    arguments.add_template_variables(add)
    arguments.add_form_flags(add)
    add(
        "--max_chunks",
        type=count,
        metavar="N",
        help="read at most N chunks, then answer",
    )
    add(
        "--deadline_seconds",
        type=arguments.number(above=0),
        metavar="S",
        help="read for at most S seconds, even if the context stalls, then answer",
    )
    add(
        "--prefill_ahead",
        type=arguments.integer(least=0),
        metavar="N",
        help="prefill the next N chunks while a memory is written (chunk_first "
        "prompts)",
    )
    add(
        "--encoding_errors",
        choices=("strict", "replace"),
        default="strict",
        help="bytes that are not UTF-8: an error (default), or U+FFFD",
    )
    passes = parser.add_argument_group("passes", "of modes reread and parallel")
    add = passes.add_argument
    add("--max_passes", type=count, metavar="N", help="most passes over the text")
    add(
        "--scan_chunks",
        type=count,
        metavar="N",
        help="parallel: scan and merge so many chunks, then the next; for a stream "
        "whose end is not known",
    )
    add(
        "--max_merged",
        type=count,
        metavar="N",
        help="parallel: of the chunks of a scan whose gate is open merge the N most "
        "probable (constrained turns)",
    )
    add(
        "--merge_until_exit",
        action="store_true",
        default=None,
        help="parallel: end reading where a merged turn opens the exit gate",
    )
    add(
        "--slots",
        type=count,
        metavar="N",
        help="requests side by side; default 1, of parallel 32, or as many as fit",
    )
    sampling = parser.add_argument_group(
        "sampling",
        "by default as the policy's gru_mem.json says, else its generation_config.json",
    )
    add = sampling.add_argument
    add(
        "--temperature",
        type=arguments.number(),
        metavar="T",
        help="0 takes the likeliest token",
    )
    add("--seed", type=arguments.integer(), metavar="N", help="of all draws")
    add("--top_k", type=arguments.integer(), metavar="K", help="0 for all tokens")
    add("--top_p", type=arguments.number(), metavar="P", help="1 for all tokens")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and cache; default float32 on CPU, bfloat16 elsewhere",
    )
    arguments.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command: cheap checks first, then the policy, then the loop."""
    from gru_mem_jax.agent.text import open_context
    from gru_mem_jax.cli import ask_session, json_output
    from gru_mem_jax.policy.files import open_policy_dir

    # The bytes that were typed are UTF-8, whatever the locale says.
    args.question = os.fsencode(args.question).decode("utf-8", "surrogateescape")
    if not args.question.strip():
        raise InputError("--question: expected a question, got an empty one")
    target = json_output.open_target(args.json)
    if args.resume and not target.is_incremental:
        raise InputError("--resume needs --json FILE, the file of the interrupted run")
    if args.trace and args.json is None:
        raise InputError("--trace needs --json OUT, to write the trace to")
    if args.cache_gib is not None and args.cache is None:
        raise InputError("--cache_gib needs --cache DIR, the folder that it limits")
    pieces = open_context(args.context, args.encoding_errors)
    directory = open_policy_dir(args.policy)
    config, engine_config = configure(args, directory)
    if args.cache is not None and not config.chunk_first:
        raise InputError(
            "--cache: nothing of a context can be kept for the next question where "
            "prompts are memory_first; give --order=chunk_first, if the policy was "
            "trained so"
        )
    return ask_session.ask(args, directory, config, engine_config, pieces, target)


def configure(args: argparse.Namespace, directory: Any) -> tuple[Any, Any]:
    """The agent's and the engine's configuration, from policy, gin and flags.

    Raises:
      InputError: a value out of range, or a binding that nothing reads.
    """
    from gru_mem_jax.agent.config import AgentConfig, check_taught, replace_settings
    from gru_mem_jax.agent.prompts import PromptConfig
    from gru_mem_jax.agent.requests import SamplingConfig
    from gru_mem_jax.cli import gin_config
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.sampling.config import EngineConfig

    config = own = policy_settings(directory)
    gin = None
    if args.gin_file or args.gin_bindings:
        classes = (AgentConfig, PromptConfig, SamplingConfig, EngineConfig)
        gin = gin_config.load(args, classes)
        config = gin.build(config)
    given = {n: getattr(args, n) for n in _SETTINGS if getattr(args, n) is not None}
    given |= arguments.form_settings(args)
    if args.template_variable:
        known = config.prompt.template_variables
        given["template_variables"] = known | dict(args.template_variable)
    config = replace_settings(config, **given)
    check_taught(own, [config.mode])
    side_by_side = config.mode == "parallel"
    engine_config = EngineConfig() if side_by_side else EngineConfig(slots=1)
    if gin is not None:
        engine_config = gin.build(engine_config)
        gin.check_all_read()
    if args.slots:
        engine_config = dataclasses.replace(engine_config, slots=args.slots)
    if args.dtype:
        engine_config = dataclasses.replace(engine_config, dtype=args.dtype)
    return config, engine_config
