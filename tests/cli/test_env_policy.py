"""`gru-mem env --policy`: what a directory says, and which file says it."""

import json

import pytest
import small_layout

from gru_mem_jax.cli.env_policy import lines, policy_environment
from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import PolicyError


@pytest.fixture
def policy(tmp_path):
    small_layout.write(tmp_path)
    return tmp_path


def test_each_thing_has_its_file(policy):
    found = policy_environment(policy)
    assert found["family"] == "qwen2"
    assert found["files"] == [
        "chat_template.json",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    told = found["tokenizer"]
    assert {s["token"]: s["from"] for s in told["stop_ids"]} == {
        "<end>": ["generation_config.json"],
        "<eos>": ["eos_token of special_tokens_map.json"],
        "<turn>": ["chat_template.json ends an assistant's text with it"],
    }
    assert told["roles"] == {
        "eos_token": {"token": "<eos>", "from": "special_tokens_map.json"},
        "pad_token": {"token": "<end>", "from": "tokenizer_config.json"},
    }
    assert told["template"]["from"] == "chat_template.json"
    assert told["opened"] == "<think>"
    assert told["template_variables"] == {"depth": 1}
    assert told["warnings"] == []
    assert json.loads(json.dumps(found)) == found


def test_it_is_printed_beside_the_environment(policy, capsys):
    assert main(["env", f"--policy={policy}"]) == 0
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"policy {policy}" in out
    assert "family qwen2" in out
    assert "stop id 4 '<eos>' (eos_token of special_tokens_map.json)" in out
    assert "role pad_token '<end>' (tokenizer_config.json)" in out
    assert "template chat_template.json" in out
    assert "opened '<think>'" in out
    assert "variables {'depth': 1}" in out
    assert any(line.startswith("jax ") for line in out)
    assert main(["env", f"--policy={policy}", "--json=-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"] == policy_environment(policy)
    assert main(["env", "--json=-"]) == 0
    assert "policy" not in json.loads(capsys.readouterr().out)


def test_what_fails_stands_in_its_place_and_the_rest_is_told(policy, capsys):
    (policy / "config.json").write_text('{"model_type": "mamba"}')
    found = policy_environment(policy)
    assert "mamba" in found["family"]["error"]
    assert found["tokenizer"]["opened"] == "<think>"
    (policy / "tokenizer.json").unlink()
    found = policy_environment(policy)
    assert "no tokenizer.json" in found["tokenizer"]["error"]
    assert "tokenizer_config.json" in found["files"]
    (policy / "tokenizer_config.json").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
    )
    text = dict(lines(policy_environment(policy)))
    assert "git lfs pull" in text["files"]
    assert text["tokenizer"].startswith("failed: ")
    assert main(["env", f"--policy={policy}"]) == 0
    capsys.readouterr()


def test_without_a_template(policy):
    (policy / "chat_template.json").unlink()
    told = policy_environment(policy)["tokenizer"]
    assert told["warnings"] == ["no chat template: no prompt can be made"]
    assert dict(lines(policy_environment(policy)))["template"] == "none"


def test_no_such_directory(tmp_path, capsys):
    with pytest.raises(PolicyError, match="no such policy directory"):
        policy_environment(tmp_path / "none")
    assert main(["env", f"--policy={tmp_path / 'none'}"]) == 2
    assert "no such policy directory" in capsys.readouterr().err
