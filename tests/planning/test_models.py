"""Shapes without weights."""

import json
import math

import jax
import pytest

from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.planning.models import model_shape, shipped
from gru_mem_jax.policy.functional import make_policy

# Parameters as Hugging Face counts them in the models' safetensors.
PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
}


def test_all_shipped_shapes_are_known():
    assert set(shipped()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shipped_shape_has_the_parameters_of_its_model(name):
    abstract = make_policy(model_shape(name)).abstract_params()
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract))
    assert count == PARAMETERS[name]


def test_a_config_and_its_directory(tmp_path):
    record = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    record |= {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 16}
    record |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    record["num_key_value_heads"] = 1
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record))
    assert model_shape(str(path)) == model_shape(str(tmp_path))
    assert model_shape(str(path)).hidden_size == 8


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("qwen2.5-7", InputError, r"neither one of .*did you mean qwen2.5-7b"),
        ("bad.json", PolicyError, "bad.json: not a config.json"),
        ("odd.json", PolicyError, "odd.json: unknown architecture"),
    ],
)
def test_what_is_no_model(name, error, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"architectures": ["Odd"]}')
    with pytest.raises(error, match=text):
        model_shape(name)
