"""The command itself: subcommands, statuses, and errors of any kind in one line."""

import json
import re
import sys
import types

import pytest
from jax.errors import JaxRuntimeError

from gru_mem_jax.cli import main as cli_main
from gru_mem_jax.cli.main import COMMANDS, main
from gru_mem_jax.errors import InputError, PolicyError, RunError
from gru_mem_jax.version import __version__


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "required: COMMAND; see gru-mem --help"),
        (["aks"], r"unknown value 'aks' \(did you mean ask\?\)"),
        (["frobnicate"], "choose from ask, sft"),
        (["--versoin"], r"unknown flag --versoin|required"),
        (["ask"], "required: --policy, --question, --context; see gru-mem ask"),
        (["env", "--jsn=x"], r"unknown flag --jsn \(did you mean --json\?\)"),
        (["env", "extra"], "unexpected argument 'extra'"),
        (["env", "--gin.A=1"], r"unknown flag --gin\.A"),
    ],
)
def test_usage_errors(argv, expected, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("gru-mem: ")
    assert re.search(expected, err), err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: gru-mem {command}")
    assert "--debug" in out


def failing(error):
    """A command that raises `error`."""

    def run(args):
        raise error

    def add_arguments(parser):
        pass

    return types.SimpleNamespace(__doc__="Fails.", run=run, add_arguments=add_arguments)


BUG = "this is a bug: please report it, with what --debug and `gru-mem env` print"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("bad input"), 2, "bad input"),
        (PolicyError("bad\npolicy \x1b[31mred"), 2, "bad policy red"),
        (RunError("it failed"), 1, "it failed"),
        (OSError(28, "No space left", "/x/y"), 1, "/x/y: No space left"),
        (OSError(24, "Too many open files", "/x"), 1,
         "/x: Too many open files (`ulimit -n` says how many may be open)"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (OSError("cannot map the file"), 1, "OSError: cannot map the file"),
        (ModuleNotFoundError("No module named 'optax'", name="optax"), 1,
         "No module named 'optax': the installation is incomplete or broken; install "
         "gru_mem_jax again (`gru-mem env` prints what is installed)"),
        (ImportError("no x", name="gru_mem_jax.cli"), 1, f"ImportError: no x ({BUG})"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 1,
         "text that is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: "
         "bad (--debug shows where)"),
        (JaxRuntimeError("INTERNAL: the link\nis down"), 1,
         "the accelerator's runtime failed: INTERNAL: the link is down"),
        (RuntimeError("can't start new thread"), 1,
         "can't start new thread: the system allows no more (`ulimit -u`, or a "
         "container's limit)"),
        (RuntimeError("odd"), 1, f"RuntimeError: odd ({BUG})"),
        (AssertionError(), 1, f"AssertionError: ({BUG})"),
        (MemoryError(), 1, "out of memory: MemoryError"),
        (RuntimeError("RESOURCE_EXHAUSTED"), 1, "out of memory: RESOURCE_EXHAUSTED"),
        (KeyError(1), 1, f"KeyError: 1 ({BUG})"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("3 turns"), 130, "interrupted: 3 turns"),
        (SystemExit(0), 0, None),
        (BrokenPipeError(), 1, None),
    ],
    ids=repr,
)  # fmt: skip
def test_statuses(error, status, line, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gru_mem_jax.cli.env", failing(error))
    # A broken pipe makes stdout go nowhere: not to be done to pytest's own.
    monkeypatch.setattr(cli_main.terminal, "silence", lambda stream: None)
    assert main(["env"]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ("" if line is None else f"gru-mem: {line}\n")


def test_debug_anywhere_shows_a_traceback(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gru_mem_jax.cli.env", failing(RunError("no")))
    for argv in (["--debug", "env"], ["env", "--debug"]):
        assert main(argv) == 1
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_env(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    names = {line.split()[0] for line in out.splitlines() if line[0] != " "}
    assert {"gru_mem_jax", "python", "jax", "devices", "cores"} <= names
    assert main(["env", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gru_mem_jax"] == __version__
    assert len(found["devices"]) == 8  # conftest's virtual ones
