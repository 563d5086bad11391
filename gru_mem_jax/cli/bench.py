"""Measure tokens per second of the sampling engine, warm, on random prompts.

`gru-mem bench sampling` needs no tokenizer; without --policy it takes random weights
in a Qwen2 shape of 26.75M. `--peer huggingface` runs transformers' generate on the same
weights in turn, and prints the ratios. The compilation cache is not used, so that
compile_seconds is the time of compiling.
"""

import argparse
import sys
from typing import Any

from gru_mem_jax.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    count = arguments.integer(least=1)
    add("what", choices=("sampling",), help="what to measure")
    add(
        "--policy",
        type=arguments.path,
        metavar="DIR",
        help="a Hugging Face directory; default: random",
    )
    add("--batch", type=count, metavar="B", help="rows side by side; default 8")
    add("--prompt_tokens", type=count, metavar="P", help="of every row; default 512")
    add("--new_tokens", type=count, metavar="N", help="of every row; default 128")
    add("--dtype", choices=("float32", "bfloat16"), help="default float32")
    add("--peer", choices=("huggingface",), help="measure it too, on the same weights")
    add("--repeats", type=count, metavar="N", help="counted runs; default 3")
    add("--seed", type=arguments.integer(least=0), metavar="N")
    arguments.add_json(add, "the figures")


_SETTINGS = (
    "policy",
    "batch",
    "prompt_tokens",
    "new_tokens",
    "dtype",
    "peer",
    "repeats",
    "seed",
)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.bench import sampling as bench
    from gru_mem_jax.cli import json_output, platforms, terminal

    given = {n: getattr(args, n) for n in _SETTINGS if getattr(args, n) is not None}
    config = bench.BenchConfig(**given)
    target = json_output.open_target(args.json)
    platforms.devices()
    result = bench.measure(config, log=terminal.note)
    target.write(result)
    if not target.is_stdout:
        sys.stdout.write(table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The figures as lines of name and value, with the peer's and the ratio."""
    peer = result.get("peer") or {}
    rows = []
    for name, value in result.items():
        if name == "peer" or name.endswith("_ratio"):
            continue
        row = [name, _number(value)]
        if name in peer:
            row.append(f"{peer['name']} {_number(peer[name])}")
            ratio = result.get(name.removesuffix("_tokens_per_s") + "_ratio")
            row += [f"ratio {ratio:.2f}"] if ratio is not None else []
        rows.append(row)
    width = max(len(row[0]) for row in rows)
    return "".join(f"{row[0]:<{width}}  {'   '.join(row[1:])}\n" for row in rows)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
    return "-" if value is None else str(value)
