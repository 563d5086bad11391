"""Modules beside gin files, and bindings whose reader another setting has replaced."""

import dataclasses
import importlib.util
import random
import sys

import pytest

from gru_mem_jax.cli.gin_config import GinConfig
from gru_mem_jax.errors import InputError

HEADER = "from __gin__ import dynamic_registration\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    reward_fn: object = None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; modules that a test imports are forgotten after it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def reward_of(path, module, function="judge"):
    path.write_text(
        f"{HEADER}import {module}\nimport {__name__}\n"
        f"{__name__}.Settings.reward_fn = @{module}.{function}\n"
    )
    return GinConfig((), [str(path)]).build(Settings()).reward_fn


@pytest.mark.parametrize(
    ("where", "module"),
    [("", "a_1"), ("", "a_2.inner"), ("work", "a_3"), ("work", "a_4.inner")],
)
def test_modules_beside_the_file_and_in_the_working_folder(folder, where, module):
    code = folder / where / (module.replace(".", "/") + ".py")
    code.parent.mkdir(exist_ok=True)
    sibling = f"sibling_of_{module[:3]}"
    code.write_text(f"import {sibling}\ndef judge():\n    return {sibling}.VALUE\n")
    (folder / where / f"{sibling}.py").write_text("VALUE = 7\n")
    path = list(sys.path)
    assert reward_of(folder / "a.gin", module)() == 7
    assert sys.path == path


def test_a_module_beside_may_import_later(folder):
    code = "def judge():\n    import late_{0}\n    import importlib\n"
    code += "    return importlib.import_module('late_{0}').VALUE\n"
    (folder / "a_5.py").write_text(code.format("a_5"))
    (folder / "late_a_5.py").write_text("VALUE = 5\n")
    judge = reward_of(folder / "a.gin", "a_5")
    assert importlib.util.find_spec("late_a_5") is None  # not for others
    assert judge() == 5


def test_the_folder_of_an_included_file_counts_too(folder):
    inner = folder / "inner"
    inner.mkdir()
    (inner / "ours_4.py").write_text("def judge():\n    return 4\n")
    reward_of(inner / "in.gin", "ours_4")
    (folder / "out.gin").write_text("include 'inner/in.gin'\n")
    config = GinConfig((), [str(folder / "out.gin")], search_paths=[str(folder)])
    assert config.build(Settings()).reward_fn() == 4


def test_what_is_installed_is_not_hidden(folder):
    for name in ("random", "gin", "jax", "dataclasses"):
        (folder / f"{name}.py").write_text("raise SystemError\n")
    (folder / "work" / "wandb_of_ours").mkdir()  # as its runs leave a `wandb/` behind
    (folder / "work" / "torch_of_ours.py").write_text("raise SystemError\n")
    code = "import random\ndef judge():\n    return random\n"
    (folder / "ours_5.py").write_text(code)
    assert reward_of(folder / "a.gin", "ours_5")() is random
    for name in ("wandb_of_ours", "torch_of_ours"):
        assert importlib.util.find_spec(name) is None
    with pytest.raises(InputError, match=r"random.py is hidden by the installed"):
        reward_of(folder / "a.gin", "random")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1 +\n", r"ours_6.py, line 1: invalid syntax"),
        (
            "\nimport no_such\n",
            r"ours_6.py, line 2: ModuleNotFoundError: No mod",
        ),
        ("a = 1\nb\n", r"ours_6.py, line 2: NameError: name 'b' is not defined"),
        ("import sys\nsys.exit(3)\n", r"ours_6.py, line 2: SystemExit: 3"),
        ("raise KeyError\n", r"ours_6.py, line 1: KeyError In file"),
        (
            None,
            r"no module named 'ours_6' \(did you mean ours_66\?\); searched what",
        ),
    ],
)
def test_a_module_that_fails_is_named_with_its_own_error(folder, code, says):
    (folder / "ours_66.py").write_text("def judge():\n    pass\n")
    if code is not None:
        (folder / "ours_6.py").write_text(code)
    with pytest.raises(InputError, match="a.gin: cannot import ours_6: .*" + says) as e:
        reward_of(folder / "a.gin", "ours_6")
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 700


# -- settings that replace a reader ---------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    number: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic:
    words: Words = dataclasses.field(default_factory=Words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    path: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    source: object = dataclasses.field(default_factory=Synthetic)


BASE = "N = 3\nWords.number = %N\n"


def build(tmp_path, *texts, flags=()):
    files = []
    for i, text in enumerate(texts):
        files.append(str(tmp_path / f"{i}.gin"))
        (tmp_path / f"{i}.gin").write_text(text)
    config = GinConfig((Words, Synthetic, File, Run), files, flags)
    run = config.build(Run())
    config.check_all_read()
    return run, config


LINKED = f"Run.source = @Synthetic()\nSynthetic.words = @Words()\n{BASE}"


@pytest.mark.parametrize("base", [BASE, LINKED])
def test_bindings_of_a_source_that_is_not_used_are_told(base, tmp_path, capsys):
    assert build(tmp_path, base)[0] == Run(source=Synthetic(words=Words(number=3)))
    assert capsys.readouterr().err == ""
    own = "Run.source = @File()\nFile.path = 'x'\n"
    run, config = build(tmp_path, base, own)
    assert run == Run(source=File(path="x"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("note: Run.source is ")
    assert "File(" in said
    assert "not used: " in said
    assert {"N", "Words.number"} <= set(said.split("not used: ")[1].strip().split(", "))
    assert "number" not in config.operative_text()
    build(tmp_path, config.operative_text())


@pytest.mark.parametrize("flag", ["Words.number = 4", "N = 4"])
def test_what_was_typed_must_be_read(flag, tmp_path):
    own = "Run.source = @File()\n"
    name = flag.split(" = ")[0]
    with pytest.raises(
        InputError,
        match=rf"nothing reads {name}, because Run.source is .*File.*leave",
    ):
        build(tmp_path, BASE, own, flags=[flag])


def test_a_mistake_is_still_one(tmp_path):
    own = "Run.source = @File()\n"
    with pytest.raises(InputError, match=r"nothing reads other/Words.number"):
        build(tmp_path, BASE + "other/Words.number = 2\n", own)
    with pytest.raises(InputError, match=r"nothing reads M"):
        build(tmp_path, BASE + "M = 2\n", own)
    # The same kind of source, but made by gin without the words that are bound.
    for first in ("", "Run.source = @File()\n"):
        with pytest.raises(
            InputError, match=r"reads \S+, because Run.source is Synth.*; link it there"
        ):
            build(tmp_path, first + BASE + "Run.source = @Synthetic()\n")
