"""The package's inner order, from its syntax trees, and what importing it costs."""

import ast
import pathlib
import resource
import subprocess
import sys

import pytest

import gru_mem_jax

PACKAGE = pathlib.Path(gru_mem_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import from its own layer and from those above it in this list.
LAYERS = [
    {"errors", "shapes", "version", "records", "durable_files"},
    {"data.example"},
    {"agent"},
    {"data"},
    {"tokenization", "policy", "parallelism"},
    {"sampling"},
    {"rl"},
    {"runs"},
    {"evaluation"},
    {"train"},
    {"tiny"},
    {"sft"},
    {"bench"},
    {"cli"},
]
# A convenience for people who start in Python: builds everything below from a folder.
UPWARD = {
    ("agent.gru_mem_agent", layer) for layer in ("tokenization", "policy", "sampling")
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


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """(absolute module name, whether at the top level) of each import."""
    top = {id(node) for node in getattr(tree, "body", [])}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            found.append((module, id(node) in top))
            found += [
                (f"{module}.{alias.name}", id(node) in top) for alias in node.names
            ]
    return found


def inner_imports(tree: ast.AST) -> set[str]:
    """Names below gru_mem_jax that a file imports."""
    prefix = "gru_mem_jax."
    return {
        name.removeprefix(prefix)
        for name, _ in imports(tree)
        if name.startswith(prefix)
    }


def test_every_module_has_a_place():
    homeless = {
        module_name(f)
        for f in FILES
        if module_name(f)
        and layer_of(module_name(f)) is None
        and not module_name(f).startswith("testing")
    }
    assert homeless == set()


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_back(file):
    module = module_name(file)
    own = layer_of(module)
    wrong = []
    for name in inner_imports(ast.parse(file.read_text(encoding="utf-8"))):
        root, other = name.split(".")[0], layer_of(name)
        if module.startswith("testing"):
            allowed = root != "cli"
        elif (module, root) in UPWARD:
            allowed = True
        else:
            allowed = root != "testing" and (other or 0) <= (own or 0)
        if not allowed:
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_no_assert_and_only_cli_imports_gin(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # `python -O` drops assert statements: none may be a check.
    assert [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)] == []
    roots = {name.split(".")[0] for name, _ in imports(tree)}
    if not module_name(file).startswith("cli"):
        assert "gin" not in roots
    if module_name(file).startswith("agent"):
        assert roots & HEAVY == set()


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_files_stay_readable(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_agent_imports_nothing_heavy():
    code = f"import sys, gru_mem_jax.agent; print(sorted(set(sys.modules) & {HEAVY!r}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


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
