"""Exports: whole or not at all (fault C13), and what is in them."""

import json
import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_checkpoints
from safetensors import safe_open

from gru_mem_jax.agent.config import AgentConfig, config_from_json
from gru_mem_jax.errors import InputError, PolicyError, RunError
from gru_mem_jax.policy import hf_export
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.policy.hf_export import export_policy


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    config = small_checkpoints.CONFIG | {
        "tie_word_embeddings": False,
        "eos_token_id": [1, 2],
    }
    small_checkpoints.write(directory, config)
    return load_policy(directory)


@pytest.mark.parametrize("shard_bytes", [1 << 30, 4000, 1])
def test_what_is_exported_is_loaded_again(loaded, tmp_path, shard_bytes):
    policy, params = loaded
    target = tmp_path / "new" / "policy"
    export_policy(policy, params, target, shard_bytes=shard_bytes)
    again, same = load_policy(target)
    assert again == policy
    jax.tree.map(np.testing.assert_array_equal, params, same)
    weights = sorted(target.glob("*.safetensors"))
    if shard_bytes == 1 << 30:
        assert [file.name for file in weights] == ["model.safetensors"]
        assert not (target / "model.safetensors.index.json").exists()
    else:
        assert weights[0].name == f"model-00001-of-{len(weights):05d}.safetensors"
        index = json.loads((target / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {file.name for file in weights}
        size = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
        assert index["metadata"] == {"total_size": size}
        assert shard_bytes == 1 or len(weights) == pytest.approx(size / 4000, abs=2)
    with safe_open(weights[0], framework="np") as file:
        assert file.metadata() == {"format": "pt"}  # transformers asks for it
    generation = json.loads((target / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1, 2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_can_be_narrowed(loaded, tmp_path, dtype):
    policy, params = loaded
    export_policy(policy, params, tmp_path / "p", dtype=dtype)
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    assert config["dtype"] == dtype
    _, narrow = load_policy(tmp_path / "p")
    for exact, stored in zip(jax.tree.leaves(params), jax.tree.leaves(narrow)):
        np.testing.assert_array_equal(exact.astype(dtype), stored)


def test_tokenizer_files_and_settings_come_along(loaded, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    settings = AgentConfig(chunk_size=64)
    files = [tmp_path / "tokenizer.json", str(tmp_path / "chat_template.jinja")]
    target = tmp_path / "p"
    target.mkdir()  # an empty directory may be there
    export_policy(*loaded, target, tokenizer_files=files, agent_settings=settings)
    assert (target / "tokenizer.json").read_text() == '{"a": 1}'
    assert (target / "chat_template.jinja").read_text() == "{{ messages }}"
    assert config_from_json((target / "gru_mem.json").read_text()) == settings
    mode = stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    assert mode == 0o777 & ~umask
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"tokenizer.json", "chat_template.jinja", "p"}


def test_tokenizer_files_may_be_given_by_their_contents(loaded, tmp_path):
    extra = "additional_chat_templates/tool_use.jinja"
    files = {"tokenizer.json": b"{}", "../chat_template.jinja": b"", extra: b"x"}
    export_policy(*loaded, tmp_path / "p", tokenizer_files=files)
    assert (tmp_path / "p" / "chat_template.jinja").read_bytes() == b""
    assert (tmp_path / "p" / extra).read_bytes() == b"x"
    export_policy(*loaded, tmp_path / "r", tokenizer_files=[tmp_path / "p" / extra])
    assert (tmp_path / "r" / extra).read_bytes() == b"x"
    assert (tmp_path / "p" / "tokenizer.json").read_bytes() == b"{}"
    with pytest.raises(PolicyError, match="not a tokenizer file; expected"):
        export_policy(*loaded, tmp_path / "q", tokenizer_files={"../x": b""})
    assert not (tmp_path / "q").exists()
    assert not (tmp_path / "x").exists()


def test_nothing_is_written_over(loaded, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name, message in {
        "full": "not empty; nothing is overwritten",
        "file": "expected an empty or a new directory",
        "link": "expected an empty or a new directory",
        "dangling": "leads nowhere",
        "file/below": "file exists|not a directory|File exists|Not a directory",
    }.items():
        with pytest.raises((InputError, RunError), match=message):
            export_policy(*loaded, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "full" / "mine").read_text() == "kept"


@pytest.mark.parametrize("name", ["config.json", "evil.py", "model.safetensors"])
def test_only_tokenizer_files_are_copied(loaded, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(PolicyError, match="not a tokenizer file; expected"):
        export_policy(*loaded, tmp_path / "p", tokenizer_files=[tmp_path / name])
    with pytest.raises(PolicyError, match=r"tokenizer\.json: missing"):
        export_policy(
            *loaded, tmp_path / "p", tokenizer_files=[tmp_path / "tokenizer.json"]
        )
    os.mkfifo(tmp_path / "vocab.json")
    with pytest.raises(PolicyError, match="got a FIFO"):
        export_policy(
            *loaded, tmp_path / "p", tokenizer_files=[tmp_path / "vocab.json"]
        )
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["é" * 120, "a [b] ** 50%41 'q' #1\n", "b\udcff"])
def test_a_target_of_any_name(loaded, tmp_path, name):
    policy, params = loaded
    export_policy(policy, params, tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    _, same = load_policy(tmp_path / name)
    jax.tree.map(np.testing.assert_array_equal, params, same)


def test_an_export_that_fails_leaves_nothing(loaded, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_export, "save_file", full)
    with pytest.raises(RunError, match="no space left"):
        export_policy(*loaded, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_dtype_is_refused(loaded, tmp_path):
    with pytest.raises(InputError, match="dtype must be one of"):
        export_policy(*loaded, tmp_path / "p", dtype=jnp.int8)
    assert list(tmp_path.iterdir()) == []
