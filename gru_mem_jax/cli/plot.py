"""Plot a training run: gates, exits, rewards, lengths, evaluation.

Draws RUN/plots/overview.png and a PNG for each panel from RUN/metrics.jsonl, also
during the run. Several runs are drawn into the same plots; they, and read-only folders,
need --out. The paths of the plots go to stdout.
"""

import argparse

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "runs", type=arguments.path, metavar="RUN", nargs="+", help="a run folder"
    )
    parser.add_argument(
        "--out", type=arguments.path, metavar="DIR", help="folder for the plots"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.runs.folder import RunFolder
    from gru_mem_jax.runs.plots import plot_training

    folders = [RunFolder.read(path) for path in dict.fromkeys(args.runs)]
    if len(folders) > 1 and args.out is None:
        raise InputError("several runs: give --out DIR, the folder of the plots")
    rows = {}
    for folder in folders:
        rows[terminal.plain_line(str(folder.path))] = metrics_rows(folder)
    out = args.out if args.out is not None else folders[0].plots
    try:
        paths = plot_training(rows, out)
    except InputError as error:
        if args.out is None and "cannot be written" in str(error):
            raise InputError(f"{error}; give --out DIR") from error
        raise
    for path in paths:
        print(path)
    return 0


def metrics_rows(folder) -> list[dict]:
    """The rows of a RunFolder.

    Raises:
      InputError: there are none, or they cannot be read.
    """
    from gru_mem_jax.runs.metrics import read_metrics

    # Not e.g. a pipe: the folder is untrusted.
    rows = read_metrics(folder.metrics) if folder.metrics.is_file() else []
    if not rows:
        raise InputError(f"{folder.path}: has no rows in {folder.metrics.name} yet")
    return rows
