"""What a policy directory lets be opened."""

import json
import os

import pytest

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import (
    SIZE_LIMITS,
    is_tokenizer_file,
    lfs_pointer,
    open_policy_dir,
    tokenizer_files,
)

BOM = b"\xef\xbb\xbf"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11422654\n"


def test_files_are_read_and_missing_ones_are_none(tmp_path):
    (tmp_path / "gru_mem.json").write_text('{"é": 1}', encoding="utf-8")
    directory = open_policy_dir(tmp_path)
    assert directory.read_json("gru_mem.json") == {"é": 1}
    assert directory.path("gru_mem.json") == tmp_path / "gru_mem.json"
    assert directory.read_json("config.json") is None
    assert directory.path("model.safetensors") is None
    assert directory.commit is None


def test_links_are_followed_to_regular_files_as_in_a_hub_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_text("{}")
    snapshot = tmp_path / "snapshots" / "123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert open_policy_dir(snapshot).read_json("config.json") == {}


@pytest.mark.parametrize(
    "name",
    [
        "../config.json",
        "/etc/passwd",
        "evil.py",
        "pytorch_model.bin",
        "a/model.safetensors",
        "model.safetensors\n",
        "model\x00.safetensors",
        "mödel.safetensors",
        "",
        "..",
    ],
)
def test_no_other_name_is_opened(tmp_path, name):
    with pytest.raises(PolicyError, match="refused"):
        open_policy_dir(tmp_path).path(name)


@pytest.mark.parametrize("name", SIZE_LIMITS)
def test_a_size_is_checked_before_the_file_is_read(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        file.truncate(SIZE_LIMITS[name] + 1)  # sparse: takes no disk
    with pytest.raises(PolicyError, match=f"{name}: [0-9]+ bytes, at most"):
        open_policy_dir(tmp_path).read_bytes(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b'{"a": 1, "a": 2}', "name 'a' occurs twice"),
        (b'{"a": "\xff"}', "not UTF-8 text, at byte 7"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not JSON"),
        (b"\xef\xbb\xbf", "not JSON"),
        (LFS, r"config\.json: a Git LFS pointer, .* run `git lfs pull`"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_broken_json_is_an_error_of_one_line(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(PolicyError, match=message) as caught:
        open_policy_dir(tmp_path).read_json("config.json")
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_regular_files_are_opened(tmp_path):
    directory = open_policy_dir(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(PolicyError, match="expected a regular file, got a FIFO"):
        directory.read_json("config.json")
    (tmp_path / "vocab.json").mkdir()
    with pytest.raises(PolicyError, match="got a directory"):
        directory.read_json("vocab.json")
    (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(PolicyError, match="got a device"):
        directory.read_json("tokenizer.json")
    (tmp_path / "merges.txt").symlink_to("nowhere")
    with pytest.raises(PolicyError, match="leads nowhere"):
        directory.read_text("merges.txt")


def test_a_path_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match=r"no such policy directory.*hf://org/name"):
        open_policy_dir("org/name")
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyError, match="expected a policy directory, got a file"):
        open_policy_dir("file")
    with pytest.raises(PolicyError, match="no such policy directory"):
        open_policy_dir("nul\x00")


def test_weights_are_never_read_as_a_whole(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(PolicyError, match="not read as a whole"):
        open_policy_dir(tmp_path).read_bytes("model.safetensors")


def test_a_byte_order_mark_is_dropped_from_every_text(tmp_path):
    directory = open_policy_dir(tmp_path)
    (tmp_path / "config.json").write_bytes(BOM + '{"é": 1}'.encode())
    assert directory.read_json("config.json") == {"é": 1}
    (tmp_path / "chat_template.jinja").write_bytes(BOM + BOM + b"x")
    assert directory.read_text("chat_template.jinja") == "\ufeffx"  # the first alone
    (tmp_path / "merges.txt").write_bytes(b"x" + BOM)
    assert directory.read_text("merges.txt") == "x\ufeff"
    # What is kept and exported is read by others, who know no such mark.
    kept = {"chat_template.jinja": BOM + b"x", "merges.txt": b"x" + BOM}
    assert tokenizer_files(directory) == kept


def test_the_pointer_of_git_lfs_is_known_by_its_first_line():
    assert lfs_pointer(LFS)
    assert lfs_pointer(b"version https://hawser.github.com/spec/v1\n")
    assert not lfs_pointer(b"")
    assert not lfs_pointer(b'{"version": "https://git-lfs.github.com/spec/v1"}')


def test_templates_in_their_folder(tmp_path):
    directory = open_policy_dir(tmp_path)
    assert directory.extra_templates() == ()
    folder = tmp_path / "additional_chat_templates"
    folder.mkdir()
    for name in ("tool_use.jinja", "default.jinja", "notes.txt", ".hidden.jinja"):
        (folder / name).write_bytes(BOM + name.encode())
    names = directory.extra_templates()
    assert names == (
        "additional_chat_templates/default.jinja",
        "additional_chat_templates/tool_use.jinja",
    )
    assert directory.read_text(names[0]) == "default.jinja"
    assert all(map(is_tokenizer_file, names))
    assert tokenizer_files(directory) == {
        name: name.rpartition("/")[2].encode() for name in names
    }
    for name in ("additional_chat_templates/../config.json", f"x/{names[0]}"):
        assert not is_tokenizer_file(name)
        with pytest.raises(PolicyError, match="refused"):
            directory.path(name)
    for i in range(64):
        (folder / f"{i}.jinja").write_text("x")
    with pytest.raises(PolicyError, match="66 templates, at most 64"):
        directory.extra_templates()


def test_a_folder_of_templates_elsewhere_is_not_entered(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "default.jinja").write_text("x")
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "additional_chat_templates").symlink_to(elsewhere)
    assert open_policy_dir(policy).extra_templates() == ()
    (policy / "additional_chat_templates").unlink()
    (policy / "additional_chat_templates").write_text("")
    directory = open_policy_dir(policy)
    assert directory.extra_templates() == ()
    assert directory.read_text("additional_chat_templates/default.jinja") is None


def test_a_class_that_only_config_json_names_is_kept(tmp_path):
    def write(name, value):
        (tmp_path / name).write_text(json.dumps(value))

    write("tokenizer.json", {})
    write("config.json", {"tokenizer_class": "GPT2Tokenizer"})
    for config, kept in (
        (None, {"tokenizer_class": "GPT2Tokenizer"}),
        ({"a": 1}, {"a": 1, "tokenizer_class": "GPT2Tokenizer"}),
        ({"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "LlamaTokenizer"}),
    ):
        if config is not None:
            write("tokenizer_config.json", config)
        files = tokenizer_files(open_policy_dir(tmp_path))
        assert json.loads(files["tokenizer_config.json"]) == kept
