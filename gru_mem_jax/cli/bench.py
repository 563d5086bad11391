"""Measure the sampling engine or the learner's update, warm, on random tokens.

`gru-mem bench sampling`: tokens per second of the engine. `--peer huggingface` runs
transformers' generate on the same weights in turn, and prints the ratios;
`--constrained` measures rows that are held to the form of a turn too; `--groups G
--prefix P` measures G requests that share a prefix, with trunks and without; `--passes
K --prefix P` K passes over chunks of P tokens, whose keys are kept, or not.
`gru-mem bench update`: seconds of the learner's update and score, with prefixes shared
and without, on a group's turns or on recorded ones.

No tokenizer is needed; without --policy they take random weights in a Qwen2 shape of
26.75M. The compilation cache is not used: compile_seconds is the time of compiling.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    count = arguments.integer(least=1)
    add("what", choices=("sampling", "update"), help="what to measure")
    add(
        "--policy",
        type=arguments.path,
        metavar="DIR",
        help="a Hugging Face directory; default: random",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="default float32")
    add("--groups", type=count, metavar="G", help="requests that share a prefix")
    add("--prefix", type=count, metavar="P", help="tokens they share; default 900")
    add("--memory", type=count, metavar="M", help="tokens of their own; default 150")
    add("--completion", type=count, metavar="C", help="tokens each draws; default 60")
    add("--repeats", type=count, metavar="N", help="counted runs; default 3")
    add("--seed", type=arguments.integer(least=0), metavar="N")
    arguments.add_json(add, "the figures")
    add = parser.add_argument_group("sampling").add_argument
    add("--batch", type=count, metavar="B", help="rows side by side; default 8")
    add("--prompt_tokens", type=count, metavar="P", help="of every row; default 512")
    add("--new_tokens", type=count, metavar="N", help="of every row; default 128")
    true: dict[str, Any] = {"action": "store_true", "default": None}
    add(
        "--constrained", **true, help="measure rows held to a form, on the same prompts"
    )
    add("--passes", type=count, metavar="K", help="over --batch chunks of --prefix")
    add("--peer", choices=("huggingface",), help="measure it too, on the same weights")
    add = parser.add_argument_group("update").add_argument
    add("--equal_memories", **true, help="all rollouts have the same memory")
    add(
        "--replay",
        type=arguments.path,
        metavar="DIR",
        help="turns of RUN/rollouts (train --record) instead of random ones",
    )
    add("--replay_step", type=count, metavar="N", help="which step; default 1")
    add("--row_tokens", type=count, metavar="L", help="default: what pads least")
    add("--rows", type=count, metavar="B", help="of a micro-batch; default 1")
    add("--logits_chunk", type=count, metavar="N", help="default: what pads least")
    add("--remat", **true, help="compute layers again in the backward pass")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.bench import sampling, update
    from gru_mem_jax.cli import json_output, platforms, terminal

    kinds: dict[str, tuple[Any, Callable[..., dict[str, Any]]]] = {
        "sampling": (sampling.BenchConfig, sampling.measure),
        "update": (update.UpdateBenchConfig, update.measure),
    }
    settings, measure = kinds[args.what]
    own = {field.name for field in dataclasses.fields(settings)}
    every = {
        field.name for kind, _ in kinds.values() for field in dataclasses.fields(kind)
    }
    given = {n: v for n in every if (v := getattr(args, n, None)) is not None}
    for name in sorted(given.keys() - own):
        raise InputError(f"--{name} does not go with bench {args.what}")
    config = settings(**given)
    target = json_output.open_target(args.json)
    platforms.devices()
    result = measure(config, log=terminal.note)
    target.write(result)
    if not target.is_stdout:
        sys.stdout.write(table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The figures as lines of name and value, beside them another's and the ratio."""
    ours, theirs, name = result, result.get("peer") or {}, ""
    if "shared" in result:
        ours = result | result["shared"]
        theirs, name = result["unshared"], "unshared"
    rows = []
    for key, value in ours.items():
        if isinstance(value, dict) or key.endswith("_ratio"):
            continue
        row = [key, _number(value)]
        if key in theirs:
            row.append(f"{name or theirs['name']} {_number(theirs[key])}")
            what = key.split("_")[0]
            singular = result.get(what.removesuffix("s") + "_ratio")
            ratio = result.get(what + "_ratio", singular)
            row += [f"ratio {ratio:.2f}"] if ratio is not None else []
        rows.append(row)
    width = max(len(row[0]) for row in rows)
    return "".join(f"{row[0]:<{width}}  {'   '.join(row[1:])}\n" for row in rows)


def _number(value: Any) -> str:
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
    return "-" if value is None else str(value)
