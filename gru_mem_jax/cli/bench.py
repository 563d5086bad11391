"""Measure tokens per second of the sampling engine, warm, on random prompts.

`gru-mem bench sampling` needs no tokenizer; without --policy it takes random weights
in a Qwen2 shape of 26.75M. `--peer huggingface` runs transformers' generate on the same
weights in turn, and prints the ratios. `--groups G --prefix P` measures G requests that
share a prefix, with trunks and without, in turn. The compilation cache is not used, so
that compile_seconds is the time of compiling.
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
    add("--groups", type=count, metavar="G", help="requests that share a prefix")
    add("--prefix", type=count, metavar="P", help="tokens they share; default 900")
    add("--memory", type=count, metavar="M", help="tokens of their own; default 150")
    add("--completion", type=count, metavar="C", help="tokens each draws; default 60")
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
    "groups",
    "prefix",
    "memory",
    "completion",
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
    """The figures as lines of name and value, beside them another's and the ratio."""
    ours, theirs, name = result, result.get("peer") or {}, ""
    if "shared" in result:
        ours = result | result["shared"]
        theirs, name = result["unshared"], "without trunks"
    rows = []
    for key, value in ours.items():
        if isinstance(value, dict) or key.endswith("_ratio"):
            continue
        row = [key, _number(value)]
        if key in theirs:
            row.append(f"{name or theirs['name']} {_number(theirs[key])}")
            ratio = result.get(key.split("_")[0] + "_ratio")
            row += [f"ratio {ratio:.2f}"] if ratio is not None else []
        rows.append(row)
    width = max(len(row[0]) for row in rows)
    return "".join(f"{row[0]:<{width}}  {'   '.join(row[1:])}\n" for row in rows)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
    return "-" if value is None else str(value)
