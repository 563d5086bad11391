"""Build, show and filter sets of questions on long documents.

`gru-mem data build NAME` makes a folder of questions with evidence, on documents of any
length, from official files, your own, or a seed; `data show DIR` prints what is in it;
`data filter DIR` drops the questions that a policy answers without the document.
`train`, `sft` and evaluations read such a folder (docs/datasets.md).
"""

import argparse
import importlib

from gru_mem_jax.cli import arguments

_COMMANDS = {
    "build": "make a set, or go on with one that was interrupted",
    "show": "print what a set holds, and a question with its evidence marked",
    "filter": "copy a set without what a policy answers without the document",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    commands = parser.add_subparsers(
        dest="what", required=True, metavar="COMMAND", parser_class=arguments.Parser
    )
    for name, text in _COMMANDS.items():
        module = _module(name)
        sub = commands.add_parser(
            name,
            help=text,
            description=module.__doc__.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        arguments.add_common_flags(sub)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    return _module(args.what).run(args)


def _module(name: str):
    return importlib.import_module(f"gru_mem_jax.cli.data_{name}")
