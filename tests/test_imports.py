"""The package's inner order, from its syntax trees, and what importing it costs."""

import ast
import importlib
import pathlib
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

import gru_mem_jax

PACKAGE = pathlib.Path(gru_mem_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import from its own layer and from those above it in this list.
LAYERS = [
    {"errors", "shapes", "version", "records", "durable_files", "machine"}
    | {"buckets", "storage", "runs.lock", "runs.lease"},
    {"hosts"},
    {"data.example"},
    {"grammar"},
    {"agent"},
    {"data"},
    {"tokenization", "policy", "parallelism"},
    {"sampling"},
    {"rl"},
    {"runs"},
    {"evaluation"},
    {"train"},
    {"planning"},
    {"tiny"},
    {"bench"},
    {"cli"},
]
# A convenience for people who start in Python: builds everything below from a folder.
UPWARD = {
    (f"agent.{module}", layer)
    for module in ("gru_mem_agent", "parts")
    for layer in ("tokenization", "policy", "sampling")
}

# What the agent must run without: it is what other code imports.
HEAVY = {
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "optax",
    "orbax",
    "transformers",
    "gin",
    "torch",
}


def module_name(file: pathlib.Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int | None:
    """Index in LAYERS of the longest matching name; None for testing and the top."""
    matches = [
        (len(name), i)
        for i, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(matches)[1] if matches else None


def imports(tree: ast.AST) -> list[str]:
    """Absolute names of what is imported anywhere in a tree: modules and attributes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return found


def inner_imports(tree: ast.AST) -> set[str]:
    """Names below gru_mem_jax that a file imports."""
    prefix = "gru_mem_jax."
    return {
        name.removeprefix(prefix) for name in imports(tree) if name.startswith(prefix)
    }


TREES = {module_name(f): ast.parse(f.read_text(encoding="utf-8")) for f in FILES}


def test_every_module_has_a_place():
    homeless = {
        module
        for module in TREES
        if module and layer_of(module) is None and not module.startswith("testing")
    }
    assert homeless == set()


def named(offenders: dict[str, object]) -> str:
    """One line for each module that breaks a rule, and what in it does."""
    return "".join(f"\n  {name}: {what}" for name, what in offenders.items())


def test_imports_point_back():
    wrong = {}
    for module, tree in TREES.items():
        own = layer_of(module)
        for name in sorted(inner_imports(tree)):
            root, other = name.split(".")[0], layer_of(name)
            if module.startswith("testing"):
                allowed = root != "cli"
            elif (module, root) in UPWARD:
                allowed = True
            else:
                allowed = root != "testing" and (other or 0) <= (own or 0)
            if not allowed:
                wrong.setdefault(module, []).append(name)
    assert not wrong, named(wrong)


def test_no_assert_and_only_cli_imports_gin():
    wrong = {}
    for module, tree in TREES.items():
        # `python -O` drops assert statements: none may be a check.
        lines = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
        if lines:
            wrong[module] = f"assert in lines {lines}"
        roots = {name.split(".")[0] for name in imports(tree)}
        if "gin" in roots and not module.startswith("cli"):
            wrong[module] = "imports gin"
        if module.startswith("agent") and roots & HEAVY:
            wrong[module] = f"imports {sorted(roots & HEAVY)}"
    assert not wrong, named(wrong)


def test_files_stay_readable():
    lengths = {
        str(f.relative_to(PACKAGE)): len(f.read_text(encoding="utf-8").splitlines())
        for f in FILES
    }
    wrong = {name: f"{lines} lines" for name, lines in lengths.items() if lines > 400}
    assert not wrong, named(wrong)


# -- circles ---------------------------------------------------------------------------


def runs_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are executed when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from runs_at_import(child)


def needs(module: str, tree: ast.Module) -> set[str]:
    """Modules of the package that must be loaded to load this one.

    A module's packages are loaded before it: those of another package count, its own
    do not, for they are being loaded already.
    """
    found = set()
    for node in runs_at_import(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for name in imports(node):
            parts = name.split(".")[1:] if name.startswith("gru_mem_jax.") else []
            for end in range(1, len(parts) + 1):
                other = ".".join(parts[:end])
                if other in TREES and not f"{module}.".startswith(f"{other}."):
                    found.add(other)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Paths that lead back to their start, one for each module found to be on one."""
    found, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
            return
        if module in done:
            return
        for other in sorted(graph[module]):
            walk(other, [*path, module])
        done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_of_imports():
    graph = {module: needs(module, tree) for module, tree in TREES.items()}
    found = [" > ".join(circle) for circle in circles(graph)]
    assert not found, "\n" + "\n".join(found)


# -- the index of each package -------------------------------------------------------

PACKAGES = sorted(
    module_name(f)
    for f in FILES
    if f.name == "__init__.py" and module_name(f) not in ("", "cli")
)


# What is exported under the name of a module beside it.
HIDE_MODULES = {"train": {"sft"}}  # the function; like `train`, it is the whole run


def exported(package: str) -> list[str]:
    return importlib.import_module(f"gru_mem_jax.{package}").__all__


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_an_index_whose_names_are_there(package):
    module = importlib.import_module(f"gru_mem_jax.{package}")
    assert module.__doc__
    assert module.__all__ == sorted(set(module.__all__))
    for name in module.__all__:
        found = getattr(module, name)
        home = getattr(found, "__module__", "typing")  # of an alias of types
        if home != "typing" and not home.startswith(("builtins", "jax")):
            assert home.startswith(f"gru_mem_jax.{package}."), name
    # `from gru_mem_jax.a import b` should give the module b, where there is one.
    hidden = {n for n in module.__all__ if f"{package}.{n}" in TREES}
    assert hidden == HIDE_MODULES.get(package, set())


def test_no_name_is_exported_twice():
    homes: dict[str, list[str]] = {}
    for package in PACKAGES:
        for name in exported(package):
            homes.setdefault(name, []).append(package)
    twice = {name: where for name, where in homes.items() if len(where) > 1}
    assert not twice, named(twice)


# -- what importing costs --------------------------------------------------------------


def loaded_by(package: str, modules: set[str]) -> str:
    code = f"import sys, gru_mem_jax.{package}"
    code += f"; print(*sorted(set(sys.modules) & {modules!r}))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_agent_imports_nothing_heavy():
    assert loaded_by("agent", HEAVY) == ""


def test_light_packages_import_nothing_heavy():
    light = ("data", "runs.checkpoints", "policy", "sampling", "evaluation", "tiny")
    assert loaded_by(", gru_mem_jax.".join(("bench", *light)), HEAVY) == ""


def best_seconds(command: list[str], tries: int = 5) -> float:
    """Processor time of the quickest of several runs, which is all that they take.

    On an idle machine it is the wall-clock; a busy one would only make that longer.
    """
    best = float("inf")
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        best = min(best, used)
        if best < 0.5:
            break
    return best


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import gru_mem_jax"],
        ["-m", "gru_mem_jax.cli.main", "--help"],
        ["-m", "gru_mem_jax.cli.main", "ask", "--help"],
    ],
    ids=["import", "help", "ask_help"],
)
def test_starts_within_half_a_second(arguments):
    assert best_seconds([sys.executable, *arguments]) < 0.5
