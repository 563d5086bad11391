"""Every gin file parses, binds what exists, and sets no macro that nothing uses."""

import pathlib
import re

import pytest

from gru_mem_jax.cli import gin_private
from gru_mem_jax.cli.gin_config import GinConfig
from gru_mem_jax.cli.gin_readers import MACRO, references

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "gin").rglob("*.gin"))
RUNNABLE = ("gin/runs", "gin/experiments")


def name(file: pathlib.Path) -> str:
    return str(file.relative_to(ROOT))


def required(file: pathlib.Path) -> set[str]:
    """Macros that a file, or one that it includes, leaves to the command line."""
    found: dict[str, bool] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("include "):
            inner = ROOT / line.removeprefix("include ").strip("' ")
            found |= dict.fromkeys(required(inner), True)
        elif "=" in line and not line.startswith("#"):
            macro, _, value = line.partition("=")
            found[macro.strip()] = "%gin.REQUIRED" in value
    return {macro for macro, is_required in found.items() if is_required}


def test_the_folder_does_not_hide_gin_config():
    assert not list((ROOT / "gin").rglob("__init__.py"))


def test_there_are_files():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=name)
def test_parses_from_anywhere(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bindings = [f"{macro} = 1" for macro in required(file)]
    GinConfig((), [name(file)], bindings)
    if name(file).startswith(RUNNABLE):
        bound = gin_private.bindings()
        used = {reference.config_key for reference in references(bound)}
        unused = {k for k in bound if k[1] == MACRO and k not in used}
        assert not unused


def test_imports_are_of_public_names():
    """`from gru_mem_jax import train`, whatever module a class lives in."""
    for file in FILES:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(("from", "import")):
                public = re.fullmatch(r"from (gru_mem_jax|__gin__) import \w+", line)
                assert public, f"{name(file)}: {line}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_header_says_how_it_is_run(file):
    """The exact command, the hardware, the time and score to expect."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line)
    header = "\n".join(header)
    assert header, "no header"
    if name(file) != "gin/models/tiny.gin":
        assert "gru-mem " in header
        assert name(file) in header
