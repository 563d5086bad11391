"""Make a page of evaluations: tables, plots, and every trajectory turn by turn.

Reads folders that `gru-mem eval --out` writes, also during the evaluation. Writes
DIR/report.html, one file that needs no network and nothing beside it, and the plots as
PNG and SVG into DIR/plots. Policies that were asked the same questions, in one folder
or in several, are compared and averaged. The page's path goes to stdout, and with
--table what was measured.
"""

import argparse
import sys

from gru_mem_jax.cli import arguments, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add(
        "results",
        type=arguments.path,
        metavar="RESULTS",
        nargs="+",
        help="folder of an evaluation",
    )
    add(
        "--out",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="folder for the page and its plots",
    )
    add("--title", metavar="TEXT", help="of the page; default: the evaluation's")
    add(
        "--stages",
        action="store_true",
        help="policies are stages of a training: compared with one another, not "
        "averaged",
    )
    add("--table", action="store_true", help="print the table to stdout, too")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import evaluating
    from gru_mem_jax.evaluation import ResultsFolder, table_rows
    from gru_mem_jax.evaluation.report import write_report_page

    arguments.check_folder("--out", args.out)
    folders = list(dict.fromkeys(args.results))
    averaged = not args.stages
    page = write_report_page(folders, args.out, title=args.title, averaged=averaged)
    print(terminal.plain_line(str(page)))
    if args.table:
        read = [ResultsFolder(folder) for folder in folders]
        if rows := table_rows(read, averaged=averaged):
            evaluating.print_rows(rows, sys.stdout)
    return 0
