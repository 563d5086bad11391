"""What can be judged without weights is judged before they are read, in one line."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from cli_helpers import environment
from run_folders import make_run

from gru_mem_jax.agent.config import config_from_dict
from gru_mem_jax.cli import platforms
from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy import loading
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.sampling import footprint
from gru_mem_jax.tiny import tokenizer as word_tokenizer

SETTINGS = {
    "chunk_size": 64,
    "question_tokens": 32,
    "memory_tokens": 32,
    "completion_tokens": 24,
    "prompt_tokens": 256,
    "prompt": {"style": "compact"},
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    names = word_tokenizer.save(folder)
    made = make_policy(
        PolicyConfig(
            vocab_size=word_tokenizer.build().get_vocab_size(),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
        )
    )
    export_policy(
        made,
        made.init(jax.random.key(0)),
        folder / "policy",
        tokenizer_files=[folder / name for name in names],
        agent_settings=config_from_dict(SETTINGS),
    )
    return folder / "policy"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a text to ask about, a run, and shipped gin files."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("text.txt").write_text("The heron is in the garden. " * 10)
    make_run(tmp_path / "run", rows=[{"step": 1, "exact": 1.0}])
    return tmp_path


def command(name, policy):
    """A command's words, all of them good."""
    tiny = ["--gin_file=gin/experiments/tiny.gin", f"--gin.POLICY={str(policy)!r}"]
    return {
        "ask": ["ask", f"--policy={policy}", "--question=Why?", "--context=text.txt"],
        "eval": ["eval", f"--policy={policy}"],
        "bench": ["bench", "sampling", f"--policy={policy}"],
        "sft": ["sft", "--gin_file=gin/runs/sft.gin", "--run_dir=out"],
        "train": ["train", *tiny, "--run_dir=out"],
        "dry_run": ["train", *tiny, "--dry_run"],
        "export": ["export", "run", "--out=out"],
        "quickstart": ["quickstart", "--out=out"],
        "plot": ["plot", "run"],
        "show": ["show", "run"],
    }[name]


def fails(words, capsys, status=2):
    """The one line that a command fails with; nothing is printed or left behind."""
    before = set(os.listdir())
    assert main(words) == status
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("gru-mem: ")
    assert "this is a bug" not in line
    assert set(os.listdir()) == before
    return line


@pytest.fixture
def no_weights(monkeypatch):
    """Reading a weight is an error."""

    def read(self, tensor, read):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(loading.ParamsLoader, "add", read)


# -- the platform ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ask", "eval", "bench", "sft", "train", "dry_run", "export", "quickstart"]
)
def test_commands_that_need_a_device_look_for_it_first(
    name, policy, here, capsys, monkeypatch, no_weights
):
    def devices(*args):
        raise RuntimeError(
            "Unable to initialize backend 'tpu': INTERNAL: Failed to open libtpu.so "
            "(set JAX_PLATFORMS='' to automatically choose an available backend)"
        )

    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr(jax, "devices", devices)
    line = fails(command(name, policy), capsys)
    assert line.startswith(
        "gru-mem: JAX_PLATFORMS=tpu: the platform tpu is not available (INTERNAL: "
        "Failed to open libtpu.so); it needs libtpu (pip install 'jax[tpu]')"
    )
    assert line.endswith(
        "set JAX_PLATFORMS=cpu, or unset it to use any that is available"
    )


@pytest.mark.parametrize("name", ["plot", "show"])
def test_commands_that_need_none_do_not(name, policy, here, capsys, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: 1 / 0)
    assert main(command(name, policy)) == 0


ABSENT = "Backend 'nonsense' is not in the list of known backends: ['cpu', 'tpu']."


@pytest.mark.parametrize(
    ("asked", "error", "expected"),
    [
        ("cuda", AssertionError(), "cuda is not available; it needs jax's CUDA"),
        (
            "nonsense",
            RuntimeError(f"Unable to initialize backend 'nonsense': {ABSENT}"),
            "platform nonsense is not available (Backend 'nonsense' is not in the list "
            "of known backends: ['cpu', 'tpu']); it needs a plug-in of jax of that "
            "name",
        ),
        ("cpu,cuda", RuntimeError("Unable to initialize backend 'cuda': no driver"),
         "JAX_PLATFORMS=cpu,cuda: the platform cuda is not available (no driver)"),
        ("CPU", RuntimeError("Unable to initialize backend 'CPU': unknown"),
         "there is no platform 'CPU': cpu?"),
        ("", RuntimeError("no driver"), "jax cannot start its devices: no driver ("),
        ("cpu", RuntimeError("Unable to initialize backend 'cpu': index"),
         "jax cannot start its devices: index"),
        ("cpu", ModuleNotFoundError("No module named 'jaxlib'", name="jaxlib"),
         "jax cannot be imported: No module named 'jaxlib'; install gru_mem_jax again"),
        ("cpu", ValueError('Invalid value "abc" for JAX flag jax_num_cpu_devices'),
         "JAX_NUM_CPU_DEVICES='abc' is refused by jax: Invalid value \"abc\""),
    ],
)  # fmt: skip
def test_whatever_jax_raises_is_explained(asked, error, expected, monkeypatch):
    def devices():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", asked)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "abc")
    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError) as caught:
        platforms.devices()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "status", "expected"),
    [
        ({"JAX_PLATFORMS": "cuda"}, 2, "the platform cuda is not available; it needs"),
        ({"XLA_FLAGS": "--xla_nonsense=1"}, 2, "Unknown flag in XLA_FLAGS: --xla_non"),
        ({"JAX_ENABLE_X64": "maybe"}, 2, "JAX_ENABLE_X64='maybe' is refused by jax"),
        ({"PYTHONPATH": "plug"}, 0, "jax_plugins.broken.initialize(): no driver"),
    ],
)
def test_env_prints_all_it_can(env, status, expected, tmp_path):
    """Also where XLA aborts the process that asks it."""
    plugin = tmp_path / "plug" / "jax_plugins" / "broken"
    plugin.mkdir(parents=True)
    text = 'def initialize():\n    raise RuntimeError("no driver")\n'
    (plugin / "__init__.py").write_text(text)
    paths = [env.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
    env = env | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-m", "gru_mem_jax.cli.main", "env", "--json=env.json"],
        cwd=tmp_path,
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    found = json.loads((tmp_path / "env.json").read_text())
    assert found["jax"]
    assert found["cores"] >= 1
    names = {line.split()[0] for line in done.stdout.splitlines() if line[0] != " "}
    assert names == set(found) - {"failed"}
    if status:
        assert done.stderr.count("\n") == 1
        assert expected in done.stderr
        assert expected in found["failed"]["backend"]
        assert f"backend{' ' * 12}FAILED: " in done.stdout
    else:
        assert (found["failed"], found["backend"]) == ({}, "cpu")
        assert expected in found["warnings"][0]


# -- budgets, questions, memory -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("ask", ["--chunk_size=1000000"], "the gated prompt may need 1000"),
        ("ask", ["--chunk_size=2000000000"], "prompt_tokens is 256"),
        ("ask", [f"--question={'heron ' * 40}"], "the question has 41 tokens, more"),
        ("eval", ["--gin.AgentConfig.chunk_size=1000"], "prompt_tokens is 256"),
        ("eval", ["--gin.AgentConfig.question_tokens=3"], "the question has"),
        ("dry_run", ["--gin.AgentConfig.chunk_size=1000"], "prompt_tokens is 256"),
    ],
)
def test_budgets(name, more, expected, policy, here, capsys, no_weights):
    assert expected in fails([*command(name, policy), *more], capsys)


@pytest.mark.parametrize("name", ["ask", "eval", "bench", "train", "dry_run"])
def test_what_no_memory_holds_is_told_by_formula(
    name, policy, here, capsys, monkeypatch, no_weights
):
    """A machine of 10 MB; the cache of so many slots takes far more."""
    for module in (footprint, importlib.import_module("gru_mem_jax.train.plan")):
        monkeypatch.setattr(module, "device_memory", lambda *device: 10_000_000)
    more = {
        "ask": ["--gin.EngineConfig.slots=100000"],
        "eval": ["--slots=100000"],
        "bench": ["--batch=100000"],
        "train": ["--gin.EngineConfig.slots=100000"],
        "dry_run": ["--gin.EngineConfig.slots=100000"],
    }[name]
    budgets = []
    if name in ("train", "dry_run"):
        chosen = ("chunk_size=64", "prompt_tokens=256")
        budgets = [f"--gin.AgentConfig.{setting}" for setting in chosen]
    line = fails([*command(name, policy), *budgets, *more], capsys)
    assert "9.5 MiB" in line
    assert "lower" in line
    if name in ("train", "dry_run"):
        assert "sampler_cache" in line
    else:
        # Keys and values of one layer with two heads of size 8, in float32.
        assert "2 x 1 layers x 2 heads x 8 x 100000 slots x" in line


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("eval", [], "8 slots, not the default, which takes too much (weights "),
        ("eval", ["--slots=16"], ": 16 slots of 192 tokens"),
        ("ask", ["--gin.EngineConfig.slots=16"], ": 16 slots of 192 tokens"),
    ],
)
def test_a_large_cache_is_told_and_default_slots_fit(
    name, given, told, policy, here, capsys, monkeypatch
):
    """Eight devices of one memory; an eval may have a quarter of it for its cache."""

    def stop(self, tensor, read):
        raise InputError("a weight is read")

    monkeypatch.setattr(loading.ParamsLoader, "add", stop)
    memory = {"eval": 8 * 1_250_000, "ask": 1_000_000}[name]
    monkeypatch.setattr(footprint, "device_memory", lambda device: memory)
    words = [*command(name, policy), *given, "--gin.EngineConfig.tensor=1"]
    assert main(words) == 2
    *notes, last = capsys.readouterr().err.splitlines()
    assert last == "gru-mem: a weight is read"
    sizes = [x for x in notes if re.search(r"weights .* KiB, cache .* of memory", x)]
    assert [told in line for line in sizes] == [True]


# -- paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["export", "run", "--out=run"], "--out: run is not empty"),
        (["export", "run", "--out=text.txt"], "--out: text.txt is a file, expected a"),
        (["export", "run", "--out=text.txt/x"], "text.txt is a file, expected a fo"),
        (["sft", "--dry_run", "--gin_file=run"], "run is a folder, expected a file"),
        (["sft", "--dry_run", "--gin_file=bytes.gin"], "no UTF-8 text, at byte 1"),
        (["sft", "--dry_run", "--gin_file="], "--gin_file: expected a path, got ''"),
        (["sft", "--dry_run", "--gin_file=gin/runs/sf.gin"], "did you mean sft.gin?"),
        (["ask", "--policy=run", "--question=q", "--context=text.txt"],
         "got a run folder: `gru-mem export run --out DIR` writes one"),
    ],
)  # fmt: skip
def test_wrong_paths(words, expected, here, capsys):
    pathlib.Path("bytes.gin").write_bytes(b"a\x91\x00")
    assert expected in fails(words, capsys)


def test_the_evaluations_folder_is_judged_first(policy, here, capsys, no_weights):
    line = fails([*command("eval", policy), "--out=text.txt"], capsys)
    assert "--out: " in line


def test_a_tilde_is_the_home_directory_behind_an_equals_sign_too(
    policy, here, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(here))
    assert main(["show", "--limit=1", "~/run"]) == 0
    capsys.readouterr()
    assert "no such policy directory" in fails(
        ["ask", "--policy=~/none", "--question=q", "--context=~/text.txt"], capsys
    )
