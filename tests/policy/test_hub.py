"""Hub locations (fault C12), on a fake hub: nothing here reaches the network."""

import fnmatch
import sys
import types

import numpy as np
import pytest
import small_checkpoints

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.hf import load_policy

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(types.ModuleType):
    """Has one repository, at one commit that `main` points to."""

    def __init__(self, cache):
        super().__init__("huggingface_hub")
        self.cache = cache
        self.calls = []
        self.files = ["config.json", "model.safetensors", "evil.py", "model.bin"]
        self.files += ["additional_chat_templates/tool_use.jinja", "other/x.jinja"]
        self.files += ["consolidated.safetensors", "onnx/model.safetensors"]
        self.files += ["tokenizer.model", "original/tokenizer.model"]

    def snapshot_download(self, repo, *, revision, allow_patterns, ignore_patterns):
        self.calls.append((repo, revision))
        if repo != "org/tiny" or revision not in ("main", COMMIT):
            raise OSError(f"404 Client Error:\n no {repo} at {revision}")
        snapshot = self.cache / "models--org--tiny" / "snapshots" / COMMIT
        small_checkpoints.write(snapshot)
        self.fetched = [
            file
            for file in self.files
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns)
            and not any(fnmatch.fnmatch(file, pattern) for pattern in ignore_patterns)
        ]
        return str(snapshot)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_location_is_fetched_at_its_revision_and_the_commit_is_kept(hub):
    directory = open_policy_dir("hf://org/tiny@main")
    assert directory.commit == COMMIT
    assert directory.root.name == COMMIT
    assert hub.calls == [("org/tiny", "main")]
    extra = "additional_chat_templates/tool_use.jinja"
    names = ["config.json", "model.safetensors", extra, "tokenizer.model"]
    assert hub.fetched == names


def test_a_policy_is_loaded_from_the_hub(hub):
    policy, params = load_policy(f"hf://org/tiny@{COMMIT}", "bfloat16")
    assert policy.config.vocab_size == 48
    embedding = params["ends"]["embedding"]
    expected = small_checkpoints.tensors(small_checkpoints.CONFIG)
    np.testing.assert_allclose(
        np.asarray(embedding, np.float32),
        expected["model.embed_tokens.weight"],
        rtol=1e-2,
    )


@pytest.mark.parametrize(
    "location",
    [
        "hf://org/tiny",
        "hf://org/tiny@",
        "hf://tiny@main",
        "hf://org/tiny/more@main",
        "hf://../tiny@main",
        "hf://org/..@main",
        "hf://org/tiny@../main",
        "hf://org/tiny@main/../..",
        "hf://org/tiny@-x y",
        "hf://",
    ],
)
def test_other_forms_are_refused_before_the_hub_is_asked(hub, location):
    with pytest.raises(PolicyError, match="expected hf://org/name@revision"):
        open_policy_dir(location)
    assert hub.calls == []


def test_an_error_of_the_hub_is_one_line(hub):
    with pytest.raises(PolicyError, match="OSError: 404 Client Error: no") as caught:
        open_policy_dir("hf://org/tiny@v2")
    assert "\n" not in str(caught.value)


def test_a_path_is_never_looked_up(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="no such policy directory"):
        load_policy("org/tiny")
    assert hub.calls == []
