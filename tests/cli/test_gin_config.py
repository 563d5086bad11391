"""The gin layer: everything that gin takes silently is an error of one line here."""

import dataclasses
import sys
from typing import Literal

import pytest

from gru_mem_jax.cli.gin_config import GinConfig, check_type
from gru_mem_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 4
    name: str = "inner"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    rate: float = 0.5
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = dataclasses.field(default_factory=Inner)
    other: Inner = dataclasses.field(default_factory=lambda: Inner(width=1))

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unused:
    depth: int = 1


CLASSES = (Outer, Inner, Unused)
HEADER = "from __gin__ import dynamic_registration\n"


def build(*bindings, files=(), paths=(), default=None):
    config = GinConfig(
        CLASSES, files, [b.replace("=", " = ", 1) for b in bindings], paths
    )
    built = config.build(default or Outer())
    config.check_all_read()
    return config, built


@pytest.fixture
def gin_file(tmp_path):
    def write(text, name="a.gin"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_byte_order_mark_changes_nothing(gin_file):
    inner = gin_file("\ufeffInner.width = 7\n", "inner.gin")
    outer = gin_file(f"\ufeffinclude '{inner}'\nOuter.steps = 3\n")
    _, built = build(files=(outer,))
    assert (built.steps, built.inner.width) == (3, 7)


def test_nothing_bound_gives_the_default():
    default = Outer(steps=3, inner=Inner(width=7))
    assert build(default=default)[1] == default


def test_bindings_win_over_the_default():
    _, built = build(
        "Outer.steps=5",
        "Inner.width=9",
        "Outer.limit=3",
        "Outer.rate=1",
        default=Outer(steps=3, mode="slow", inner=Inner(name="mine")),
    )
    assert built == Outer(
        steps=5,
        mode="slow",
        limit=3,
        rate=1,
        inner=Inner(width=9, name="mine"),
        other=Inner(width=9),
    )


def test_a_field_is_a_scope():
    _, built = build("other/Inner.name='o'", "Inner.name='i'", "inner/Inner.width=5")
    assert built == Outer(
        inner=Inner(width=5, name="i"), other=Inner(width=1, name="o")
    )
    with pytest.raises(InputError, match=r"nothing reads othr/Inner.name"):
        build("othr/Inner.name='o'")
    with pytest.raises(InputError, match=r"nothing reads other/Outer.steps"):
        build("other/Outer.steps=3")


def test_files_then_bindings_with_macros(gin_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gin_test_module", sys.modules[__name__])
    path = gin_file(
        HEADER
        + "import gin_test_module\n"
        + "STEPS = %gin.REQUIRED\nWIDTH = 2\n"
        + "gin_test_module.Outer.steps = %STEPS\n"
        + "gin_test_module.Outer.inner = @gin_test_module.Inner()\n"
        + "gin_test_module.Inner.width = %WIDTH\n"
    )
    _, built = build("STEPS=8", files=[path])
    assert built == Outer(steps=8, inner=Inner(width=2), other=Inner(width=2))
    with pytest.raises(InputError, match=r"settings are missing: --gin.STEPS=\.\.\."):
        build(files=[path])
    with pytest.raises(InputError, match=r"nothing reads STEP .did you mean STEPS"):
        build("STEPS=8", "STEP=9", files=[path])
    # What a command does not need may stand in; what is given wins over it.
    for bindings, steps in (([], 7), (["STEPS = 8"], 8)):
        found = GinConfig(CLASSES, [path], bindings, stand_ins={"STEPS": 7, "OTHER": 1})
        assert found.build(Outer()).steps == steps
        found.check_all_read()


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("Outer.step=5", "named 'step'.* .did you mean steps"),
        ("Outr.steps=5", "'Outr'.* .did you mean Outer"),
        ("STEPS=5", "nothing reads STEPS .did you mean Outer.steps"),
        ("Unused.depth=5", "nothing reads Unused.depth"),
        ("Outer.steps='x'", "Outer.steps: expected int, got str 'x'"),
        ("Outer.steps=True", "Outer.steps: expected int, got bool"),
        ("Outer.steps=1.5", "Outer.steps: expected int, got float 1.5"),
        ("Outer.rate='x'", "Outer.rate: expected float, got str"),
        ("Outer.mode='sloe'", "Outer.mode: expected 'fast' or 'slow', got str 'sloe'"),
        ("Outer.limit='x'", "Outer.limit: expected int or None"),
        ("Outer.sizes=(1, 'a')", "Outer.sizes: expected tuple"),
        ("Outer.inner=3", "Outer.inner: expected Inner, got int 3"),
        ("Outer.steps=0", "steps must be at least 1, got 0"),
        ("Outer.steps=%MISSING", "%MISSING is used but never set"),
        ("Outer.inner=@Nobody()", "'@Nobody\\(\\)'"),
        ("Inner.name=plain words", "a string needs quotes of its own"),
        ("Outer.steps=(", "--gin.Outer.steps="),
    ],
)
def test_mistakes_are_one_line(binding, expected):
    with pytest.raises(InputError, match=expected) as e:
        build(binding)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "import no_such_module_here\n",
            "a.gin: cannot import no_such_module_here: no module named .*searched what",
        ),
        ("import os\nno_such.Outer.steps = 1\n", "'no_such' was not provided"),
        ("import os\nos.no_such.x = 1\n", "has no attribute no_such"),
        ("A = (1\n", "a.gin"),
        ("include 'missing.gin'\n", "missing.gin"),
        ("A = 1\n", "nothing reads A"),
    ],
)
def test_broken_files(gin_file, text, expected):
    with pytest.raises(InputError, match=expected) as e:
        build(files=[gin_file(HEADER + text)])
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_and_one_that_was_meant(
    gin_file, tmp_path, monkeypatch
):
    gin_file("", "tiny.gin")
    with pytest.raises(InputError, match=r"no file .*tny.gin .did you mean tiny.gin"):
        build(files=[str(tmp_path / "tny.gin")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no file x/tiny.gin; searched \."):
        build(files=["x/tiny.gin"])
    build(files=["tiny.gin"])


def test_search_paths_and_includes(gin_file, tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    gin_file("Outer.steps = 4\n", "base.gin")
    gin_file("include 'base.gin'\nOuter.limit = 2\n", "top.gin")
    _, built = build(files=["top.gin"], paths=[f"{other},{tmp_path}"])
    assert built == Outer(steps=4, limit=2)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        build(paths=["nowhere"])


def test_operative_text_gives_the_same_configuration(gin_file):
    config, built = build(
        "Outer.steps=5", "inner/Inner.width=9", "other/Inner.name='o'"
    )
    text = config.operative_text()
    assert "Outer.steps = 5" in text
    assert "Outer.rate = 0.5" in text
    assert "other/test_gin_config.Inner.width = 1" in text
    assert build(files=[gin_file(text)])[1] == built
    default = Outer(steps=2, other=Inner(width=3))
    text = build("Outer.rate=0.1", default=default)[0].operative_text()
    again = build(files=[gin_file(text)])[1]
    assert again == Outer(steps=2, rate=0.1, other=Inner(width=3))


def test_a_second_configuration_knows_nothing_of_the_first():
    build("Outer.steps=5")
    assert build()[1] == Outer()


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (1, float),
        (None, int | None),
        ([1, 2], tuple[int, ...]),
        ((1, "a"), tuple[int, str]),
        ("fast", Literal["fast", "slow"]),
        (object(), list),  # not a simple type: the class itself must check
    ],
)
def test_values_that_fit(value, hint):
    check_type("x", value, hint)
