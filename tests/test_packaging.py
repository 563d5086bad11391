"""The wheel holds the package, typed, with its data, and nothing else."""

import configparser
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
    assert "dry run: all fits together" in done.stderr
    assert not list(empty.iterdir())


def test_metadata(wheel):
    info = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    text = wheel.read(info).decode()
    assert re.search(r"^License(-Expression)?: Apache-2.0$", text, re.MULTILINE)
    assert "\nRequires-Python: >=3.11\n" in text
    assert "/LICENSE" in " ".join(wheel.namelist())
    entry = next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "gru-mem = gru_mem_jax.cli.main:main" in wheel.read(entry).decode()


def requirements() -> dict[str, str]:
    """Name to specifier of each run-time requirement."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    return dict(re.match(r"([\w.-]+)(.*)", line).groups() for line in lines)


def test_neither_torch_nor_tensorflow_is_needed_to_run():
    assert not {"torch", "tensorflow"} & set(requirements())


def test_what_the_code_imports_is_required():
    """Top-level names of third-party imports, against the requirements."""
    import ast

    provided = {
        "jax": "jax",
        "flax": "flax",
        "optax": "optax",
        "orbax": "orbax-checkpoint",
        "numpy": "numpy",
        "gin": "gin-config",
        "rich": "rich",
        "jinja2": "jinja2",
        "tokenizers": "tokenizers",
        "safetensors": "safetensors",
        "transformers": "transformers",
        "matplotlib": "matplotlib",
        "ml_dtypes": "ml_dtypes",
        "tensorflow_datasets": "tensorflow-datasets",
        "absl": "absl-py",
    }
    optional = {"torch", "psutil", "tensorboardX", "wandb", "huggingface_hub"}
    imported = set()
    for file in (ROOT / "gru_mem_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    third = imported - set(sys.stdlib_module_names) - {"gru_mem_jax", "__future__"}
    assert third - set(provided) - optional == set()
    assert {provided[name] for name in third & set(provided)} <= set(requirements())
