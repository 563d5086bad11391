"""Which of gin's own names are used, where, and that they are still what they were."""

import ast
import dataclasses
import pathlib
from importlib.metadata import version

import pytest

import gin
import gru_mem_jax
from gru_mem_jax.cli import gin_private

CLI = pathlib.Path(gru_mem_jax.__file__).parent / "cli"

# Name to why there is no public one. Where a test here fails, gin has changed: see
# what took the name's place, in gin_private.py alone.
PRIVATE = {
    "_CONFIG": "to list bindings: the public config_str gives text",
    "_inverse_lookup": "class to selector: get_configurable gives only the wrapper",
    "_parse_scope": "a file's imports: parse_config handles whole files only",
    "_IMPORTS": "the imports that operative_config_str repeats",
}


def private_names(file):
    """Attributes with an underscore of anything that a file imports from gin."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                if (module or alias.name).split(".")[0] == "gin":
                    ours.add(alias.asname or alias.name.split(".")[0])
                    assert not alias.name.startswith("_"), f"{file.name}: {alias.name}"
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and ast.unparse(node.value).split(".")[0] in ours
    }


def test_one_module_uses_private_names_and_these_only():
    used = {file.name: private_names(file) for file in CLI.glob("*.py")}
    assert used.pop("gin_private.py") == set(PRIVATE)
    assert not any(used.values()), {k: v for k, v in used.items() if v}


def test_gin_still_has_them():
    missing = [name for name in PRIVATE if not hasattr(gin.config, name)]
    assert not missing, f"gin-config {version('gin-config')} has no {missing}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    width: int = 4


@pytest.fixture
def clear():
    gin.clear_config()
    yield
    gin.clear_config()


def test_they_mean_what_they_meant(clear):
    assert gin_private.selector_of(Settings) is None
    assert gin_private.bindings() == {}
    with gin_private.file_scope() as context:
        for line in (
            "from __gin__ import dynamic_registration",
            f"import {__name__}",
            "from gru_mem_jax import errors",
        ):
            (statement,) = gin.config.config_parser.ConfigParser(
                line, gin.config.ParserDelegate()
            )
            context.process_import(statement)
        gin.bind_parameter(("inner", f"{__name__}.Settings", "width"), 5)
    selector = f"{__name__}.Settings"
    assert gin_private.selector_of(Settings) == selector
    assert gin_private.bindings() == {("inner", selector): {"width": 5}}
    with gin.config_scope("inner"):
        assert gin.get_configurable(Settings)() == Settings(width=5)
    text = gin.operative_config_str()
    assert f"inner/{selector}.width = 5" in text
    assert f"import {__name__}" in text
    assert "gru_mem_jax" not in text  # not needed, so not repeated
