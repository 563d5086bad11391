"""The type checker is as strict as it says, on what it says, and CI runs it.

What the checker finds is not tested here: `launch/test.sh` runs it.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
STRICT = ("gru_mem_jax/agent", "gru_mem_jax/rl", "gru_mem_jax/records.py")


def files(*names):
    for path in (ROOT / name for name in names):
        yield from path.rglob("*.py") if path.is_dir() else [path]


@pytest.fixture(scope="module")
def mypy():
    """Sources and options by mypy's own reading of pyproject.toml, and its strict."""
    main = pytest.importorskip("mypy.main")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        sources, options = main.process_options([])
        bare = ["--config-file=", "-c", ""]
        _, default = main.process_options(bare)
        _, strict = main.process_options([*bare, "--strict"])
    flags = {
        name: value
        for name, value in strict.snapshot().items()
        if isinstance(value, bool) and value != getattr(default, name)
    }
    assert "disallow_untyped_defs" in flags
    return {source.path: source.module for source in sources}, options, flags


def test_the_checker_is_strict_on_all_of_these_modules(mypy):
    checked, options, flags = mypy
    assert not options.disable_error_code
    for file in files(*STRICT):
        module = checked[str(file.relative_to(ROOT))]
        own = options.clone_for_module(module)
        assert {name: getattr(own, name) for name in flags} == flags, module
        assert not own.ignore_errors, module
        assert not own.disabled_error_codes, module


def test_their_imports_have_types(mypy):
    """What is skipped would be Any, and fit everywhere."""
    _, options, _ = mypy
    for file in files("gru_mem_jax"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        own = options.clone_for_module(module.removesuffix(".__init__"))
        assert own.follow_imports in ("normal", "silent")
    assert not options.ignore_missing_imports


def test_errors_are_ignored_by_code_and_seldom(mypy):
    checked, options, _ = mypy
    assert "ignore-without-code" in options.enable_error_code
    text = "\n".join((ROOT / path).read_text(encoding="utf-8") for path in checked)
    assert len(re.findall(r"#\s*type:\s*ignore", text)) <= 5
    assert not re.findall(r"#\s*mypy:", text)  # options of a file's own


def test_ci_runs_the_linter_the_checker_and_the_tests():
    script = (ROOT / "launch" / "test.sh").read_text(encoding="utf-8")
    steps = re.findall(r'^(?:exec )?"\$VENV/bin/(\w+)"(?: -m (\w+))?', script, re.M)
    assert [module or name for name, module in steps] == [
        *("ruff", "ruff", "mypy", "pytest")
    ]
