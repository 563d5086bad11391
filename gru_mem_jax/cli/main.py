"""The `gru-mem` command: dispatches to a subcommand, and returns an exit status.

Exit statuses: 0 done, 1 the run failed, 2 usage or input, 130 Ctrl-C, 143 SIGTERM.
Heavy modules are imported only after a subcommand is parsed.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from gru_mem_jax.cli import arguments, failures, signals, terminal
from gru_mem_jax.errors import GRUMemError
from gru_mem_jax.version import __version__

COMMANDS = {
    "ask": "answer a question from a text of any length",
    "sft": "train a policy on an oracle's turns: the warm start",
    "train": "train the gates of a policy by reinforcement learning",
    "data": "build, show and filter sets of questions on long documents",
    "plan": "say what a training run takes of a TPU slice, without one",
    "eval": "score a policy on questions whose answers are known",
    "calibrate": "say how far gates can be believed, and pick their thresholds",
    "report": "make a page of evaluations: tables, plots, trajectories",
    "quickstart": "train (if needed), ask and tabulate: what launch/quickstart.sh runs",
    "plot": "draw a training run's metrics",
    "show": "show a training run's trajectories and last rows",
    "export": "write a training run's policy as a Hugging Face directory",
    "import": "make a policy directory of a GGUF file (llama.cpp, ollama)",
    "bench": "measure tokens per second",
    "env": "print versions and devices",
}

_DESCRIPTION = (
    "GRU-Mem in JAX: a gated recurrent memory agent for texts of any length. "
    "Results go to stdout, everything else to stderr."
)


def _top_parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="gru-mem",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
        + "\n\n`gru-mem COMMAND --help` shows a command's flags.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "command", metavar="COMMAND", choices=COMMANDS, help="see below"
    )
    return parser


def _command_index(argv: Sequence[str]) -> int:
    """Index of the command: the first word that is not a flag."""
    for i, word in enumerate(argv):
        if not word.startswith("-"):
            return i
    return len(argv)


def _dispatch(argv: Sequence[str]) -> int:
    split = _command_index(argv)
    before = [word for word in argv[:split] if word != "--debug"]
    parser = _top_parser()
    command = parser.parse([*before, *argv[split : split + 1]]).command
    # By name: import.py could not be named in an import statement.
    module = importlib.import_module(f"gru_mem_jax.cli.{command}")
    sub = arguments.Parser(
        prog=f"gru-mem {command}",
        description=module.__doc__.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(sub)
    arguments.add_common_flags(sub)
    words = list(argv[split + 1 :])
    bindings: list[str] = []
    if "--gin.NAME" in sub.flags():
        words, bindings = arguments.split_gin_flags(words)
    args = sub.parse(words)
    args.gin_bindings = bindings
    return module.run(args)


def _report(error: BaseException, debug: bool) -> str:
    if debug:
        import traceback

        traceback.print_exception(error)
    line = failures.one_line(error)
    terminal.note(f"gru-mem: {failures.process_name()}{line}")
    return line


def _flush() -> bool:
    """Flushes both streams; False if stdout has no reader any more."""
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            whole = whole and stream is not sys.stdout
            terminal.silence(stream)
    return whole


def _say_stopping() -> None:
    terminal.note("stopping after the current step; a second signal stops at once")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments; sys.argv's if absent.

    Returns:
      The exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    terminal.prepare_streams()
    line = "ended"
    try:
        with signals.Handlers(on_wait=_say_stopping):
            status = _dispatch(argv)
    except SystemExit as e:  # argparse: --help, --version
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BrokenPipeError:
        terminal.silence(sys.stdout)
        status = 1
    except KeyboardInterrupt as e:
        line = "interrupted"
        terminal.note("gru-mem: interrupted" + (f": {e}" if e.args else ""))
        status = 130
    except signals.Terminated as e:
        line = "terminated"
        terminal.note("gru-mem: terminated" + (f": {e}" if e.args else ""))
        status = 143
    except Exception as e:
        e = failures.cause(e)
        line = _report(e, debug)
        status = e.exit_status if isinstance(e, GRUMemError) else 1
    if not _flush() and status == 0:
        status = 1
    return failures.leave_hosts(status, line)


if __name__ == "__main__":
    sys.exit(main())
