"""What is given in place of a policy directory gets a line that helps."""

import json

import pytest
from small_checkpoints import CONFIG

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.hf import load_policy


def says(location):
    with pytest.raises(PolicyError) as caught:
        open_policy_dir(location)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.gguf", b"x", "`gru-mem import {} --out DIR`"),
        ("sha256-abc", b"GGUF\3\0\0\0", "`gru-mem import {} --out DIR`"),
        ("pytorch_model.bin", b"x", "pickled weights can run code and are never"),
        ("consolidated.00.pth", b"x", "convert them to safetensors"),
        ("last.ckpt", b"x", "convert them to safetensors"),
        ("model.safetensors", b"x", "give the directory that it is in: "),
        ("config.json", b"{}", "give the directory that it is in: "),
        ("model.zip", b"PK", "unpack the archive"),
        ("model.tar.gz", b"x", "unpack the archive"),
        ("model.onnx", b"x", "weights of that kind cannot be read"),
        ("notes", b"x", "expected a policy directory, got a file"),
    ],
)
def test_files(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    assert expected.format(path) in says(path)
    assert str(path) in says(str(path))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["environment.json", "checkpoints/4/x"], "a run folder: `gru-mem export "),
        (["manifest.ocdbt", "d/x"], "an Orbax checkpoint: `gru-mem export RUN"),
        (["_CHECKPOINT_METADATA"], "an Orbax checkpoint"),
        (["12/x"], None),
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapters alone"),
        (["policy/config.json", "checkpoints/1/x"], "did you mean {}/policy?"),
        (["refs/main", "snapshots/ab/config.json"], "did you mean {}/snapshots/ab?"),
        (
            ["a.Q4.gguf", "README.md"],
            "got README.md, a.Q4.gguf; GGUF weights (llama.cpp, ollama): make a policy "
            "directory of them, `gru-mem import {}/a.Q4.gguf --out DIR`",
        ),
        (["pytorch_model.bin"], "weights without config.json (pytorch_model.bin)"),
        ([], None),
        (["config.json", "policy/config.json"], None),
    ],
)
def test_folders(tmp_path, files, expected):
    root = tmp_path / "x"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    if expected is None:  # left to those who miss a file in it
        assert open_policy_dir(root).root == root
    else:
        assert expected.format(root) in says(root)


def test_the_checkpoints_of_a_run(tmp_path):
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    assert "an Orbax checkpoint" in says(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "hf://Qwen/Qwen2.5-7B-Instruct@main"),
        ("Qwen/Qwen3-8B@v1", "hf://Qwen/Qwen3-8B@v1"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "hf://Qwen/Qwen3-8B@main"),
        ("https://huggingface.co/Qwen/Qwen3-8B/tree/main", "hf://Qwen/Qwen3-8B@main"),
        ("hf:Qwen/Qwen3-8B", "hf://Qwen/Qwen3-8B@main"),
        ("here ", "it has surrounding blanks: did you mean 'here'?"),
        ("hre", "did you mean 'here'?"),
        ("here/polcy", "did you mean 'here/policy'?"),
        ("far/away/from/all", "(a hub repository is given as hf://org/name@revision)"),
        ("a\0b", "no such policy directory"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, monkeypatch, location, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "policy").mkdir(parents=True)
    line = says(location)
    assert "no such policy directory" in line
    assert line.endswith(expected) or expected in line


def test_home_and_slashes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    for location in ("~/policy", "~/policy/", f"{tmp_path}/policy//"):
        assert open_policy_dir(location).read_json("config.json") == {}


def test_a_config_beside_gguf_weights_only(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        PolicyError,
        match=r"no model.safetensors .*`gru-mem import .*model.gguf --out DIR`",
    ):
        load_policy(tmp_path)
