"""Flags: one line for every mistake, with the name that was probably meant."""

import argparse
import functools

import pytest

from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError


def parser() -> arguments.Parser:
    p = arguments.Parser(prog="gru-mem test")
    p.add_argument("--context", required=True)
    p.add_argument("--mode", choices=("with_exit_gate", "memagent"))
    p.add_argument("--chunk_size", type=arguments.integer(least=1))
    p.add_argument("--deadline_seconds", type=arguments.number(above=0))
    arguments.add_gin_flags(p)
    return p


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--context", "f", "--contxt", "g"],
            "unknown flag --contxt .did you mean --c",
        ),
        (
            ["--context=f", "--chunksize=3"],
            "unknown flag --chunksize .did you mean --ch",
        ),
        (["--context", "f", "--chunk", "3"], "unknown flag --chunk "),  # no prefixes
        (["--context", "f", "-x"], "unknown flag -x .*see gru-mem test --help"),
        (["--context", "f", "g"], "unexpected argument 'g'"),
        (["--context"], "argument --context: expected one argument"),
        ([], "required: --context"),
        (["--context=f", "--mode", "memagnt"], "--mode: .*'memagnt' .did you mean mem"),
        (["--context=f", "--mode", "q"], "choose from with_exit_gate, memagent"),
        (["--context=f", "--chunk_size", "0"], "chunk_size: must be at least 1, got 0"),
        (["--context=f", "--chunk_size", "1.5"], "'1.5' is not an integer"),
        (["--context=f", "--deadline_seconds", "0"], "must be above 0"),
        (["--context=f", "--deadline_seconds", "nan"], "must be finite"),
        (["--context=f", "--deadline_seconds", "soon"], "'soon' is not a number"),
    ],
)
def test_mistakes(words, expected):
    with pytest.raises(InputError, match=expected) as e:
        parser().parse(words)
    assert "\n" not in str(e.value)


def test_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert arguments.path("~/x y") == "/home/ada/x y"
    assert arguments.path("a/~/b") == "a/~/b"
    assert arguments.path("hf://org/name@main") == "hf://org/name@main"
    for nothing in ("", "  "):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a path"):
            arguments.path(nothing)


def test_folders_are_judged_without_being_made(tmp_path, monkeypatch):
    check = functools.partial(arguments.check_folder, "--out")
    check(tmp_path / "a" / "b")
    check(tmp_path)
    check(tmp_path, new=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for place, says in (("file", "is a file"), ("link", "is a dangling link")):
        with pytest.raises(InputError, match=f"--out: .*{place} .*{says}"):
            check(tmp_path / place / "x")
    with pytest.raises(InputError, match="is not empty; nothing is overwritten"):
        check(tmp_path, new=True)
    monkeypatch.setattr(arguments.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="/a cannot be written: no permission in"):
        check(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_good_flags():
    args = parser().parse(["--context=-", "--chunk_size", "5_000", "--mode=memagent"])
    assert (args.context, args.chunk_size, args.mode) == ("-", 5000, "memagent")


@pytest.mark.parametrize(
    ("argv", "rest", "bindings"),
    [
        (["--gin.A=1", "--x"], ["--x"], ["A = 1"]),
        (["--gin.A", "1", "--x"], ["--x"], ["A = 1"]),
        (["--gin.S.b='a=b'"], [], ["S.b = 'a=b'"]),
        (["--gin_file=f", "--gin.A=[1,\n2]"], ["--gin_file=f"], ["A = [1,\n2]"]),
    ],
)
def test_gin_flags_are_split_off(argv, rest, bindings):
    assert arguments.split_gin_flags(argv) == (rest, bindings)


@pytest.mark.parametrize("argv", [["--gin.A"], ["--gin.=1"], ["--gin.A="]])
def test_gin_flags_without_name_or_value(argv):
    with pytest.raises(InputError, match=r"write --gin\.NAME=VALUE"):
        arguments.split_gin_flags(argv)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("stepz", ["steps", "seed"], " (did you mean steps?)"),
        ("zzz", ["steps", "seed"], " (known: seed, steps)"),
        ("steps", ["SFTConfig.steps"], " (did you mean SFTConfig.steps?)"),
        ("zzz", [str(i) for i in range(20)], ""),
        ("zzz", [], ""),
    ],
)
def test_did_you_mean(name, known, hint):
    assert arguments.did_you_mean(name, known) == hint


def test_help_names_the_gin_flags(capsys):
    with pytest.raises(SystemExit):
        parser().parse(["--help"])
    out = capsys.readouterr().out
    assert "--gin_file" in out
    assert "--gin.NAME" in out
