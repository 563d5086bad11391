"""Loading: what arrives, in which dtype and form, where; and what is refused."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_checkpoints
from safetensors.numpy import save_file

from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.parallelism import MeshConfig, make_mesh, param_shardings
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.hf import load_config, load_policy
from gru_mem_jax.policy.hf_names import tensor_table

CONFIG = small_checkpoints.CONFIG
GEMMA = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "vocab_size": 48,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "sliding_window": 8,
    },
}


def leaf(params, path):
    for name in path:
        params = params[name]
    return np.asarray(params)


def assert_holds(policy, params, stored, prefix="model."):
    """Every stored tensor is where the table says, and nothing else is there."""
    table = tensor_table(policy.config, prefix)
    for name, spec in table.items():
        value = leaf(params, spec.path)
        value = value if spec.layer is None else value[spec.layer]
        expected = stored[name].T if spec.transposed else stored[name]
        np.testing.assert_array_equal(value, expected.astype(value.dtype))
    abstract = policy.abstract_params()
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, abstract)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_arrives(tmp_path, shards, tied):
    config = CONFIG | {"tie_word_embeddings": tied}
    stored = small_checkpoints.write(tmp_path, config, shards=shards)
    policy, params = load_policy(tmp_path)
    assert ("head" in params["ends"]) is not tied
    assert_holds(policy, params, stored)


@pytest.mark.parametrize("dtype", [None, "float32", jnp.bfloat16, np.dtype("float16")])
@pytest.mark.parametrize("stored_dtype", small_checkpoints.DTYPES)
def test_dtypes(tmp_path, stored_dtype, dtype):
    stored = small_checkpoints.write(tmp_path, dtype=stored_dtype)
    policy, params = load_policy(tmp_path, dtype)
    found = {leaf.dtype for leaf in jax.tree.leaves(params)}
    assert found == {jnp.dtype(dtype or stored_dtype)}
    assert_holds(policy, params, stored)


def test_files_of_mixed_dtypes_are_widened(tmp_path):
    values = small_checkpoints.write(tmp_path, dtype="bfloat16")
    values["model.norm.weight"] = values["model.norm.weight"].astype(np.float32)
    save_file(values, tmp_path / "model.safetensors")
    _, params = load_policy(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_an_index_may_name_one_file_of_any_name(tmp_path):
    stored = small_checkpoints.write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    index = {"weight_map": dict.fromkeys(stored, "weights.safetensors")}  # no metadata
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert_holds(*load_policy(tmp_path), stored)


def test_the_file_that_config_json_names_goes_before_others(tmp_path):
    config = CONFIG | {"transformers_weights": "mine.safetensors"}
    stored = small_checkpoints.write(tmp_path, config)
    doubled = {name: value * 2 for name, value in stored.items()}
    save_file(doubled, tmp_path / "mine.safetensors")
    assert_holds(*load_policy(tmp_path), doubled)
    (tmp_path / "mine.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"mine\.safetensors: missing, config\.json"):
        load_policy(tmp_path)
    for name in ("../mine.safetensors", "model.safetensors.index.json", 7):
        record = config | {"transformers_weights": name}
        (tmp_path / "config.json").write_text(json.dumps(record))
        with pytest.raises(PolicyError, match=r"transformers_weights .* not supported"):
            load_policy(tmp_path)


def test_the_sampling_form_equals_the_one_made_from_params(tmp_path):
    small_checkpoints.write(tmp_path, CONFIG | {"tie_word_embeddings": False})
    policy, params = load_policy(tmp_path)
    _, sampling = load_policy(tmp_path, form="sampling")
    expected = policy.sampling_params(params)
    assert jax.tree.structure(sampling) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, sampling, expected)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_decoder_of_a_model_with_a_vision_tower(tmp_path, prefix):
    values = small_checkpoints.tensors(GEMMA, prefix)
    vision = {
        "vision_tower.vision_model.post_layernorm.weight": np.ones(3, np.float32),
        "model.multi_modal_projector.mm_soft_emb_norm.weight": np.ones(2, np.float32),
    }
    stored = small_checkpoints.write(tmp_path, GEMMA, values=values | vision)
    policy, params = load_policy(tmp_path)
    assert policy.config.family == "gemma3_text"
    assert_holds(policy, params, stored, prefix)


def test_tensors_that_say_nothing_new_may_be_there(tmp_path):
    values = small_checkpoints.tensors(CONFIG)
    extra = {
        "lm_head.weight": values["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
    }
    stored = small_checkpoints.write(tmp_path, values=values | extra)
    assert_holds(*load_policy(tmp_path), stored)


@pytest.mark.parametrize("form", ["stacked", "sampling"])
@pytest.mark.parametrize("sizes", [(1, 2, 4), (2, 4, 1), (1, 1, 2)])
def test_sharded_loading_equals_unsharded(tmp_path, form, sizes):
    """Each device reads its own part; 8 virtual devices."""
    config = CONFIG | {"tie_word_embeddings": False}
    small_checkpoints.write(tmp_path, config, shards=2)
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    policy, params = load_policy(tmp_path, form=form)
    _, sharded = load_policy(tmp_path, mesh=mesh, form=form)
    jax.tree.map(np.testing.assert_array_equal, params, sharded)
    leaves = jax.tree.leaves(sharded)
    assert all(len(leaf.sharding.device_set) == np.prod(sizes) for leaf in leaves)
    if form == "stacked":
        wanted = param_shardings(mesh, policy.logical_axes(), policy.abstract_params())
        same = jax.tree.map(
            lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, leaf.ndim),
            sharded,
            wanted,
        )
        assert all(jax.tree.leaves(same))
        gate = sharded["layers"]["mlp"]["gate"]["kernel"]
        assert gate.addressable_shards[0].data.shape == (
            2,
            16 // sizes[1],
            24 // sizes[2],
        )
    else:
        gate = sharded["layers"][0]["mlp"]["gate"]["kernel"]
        assert gate.addressable_shards[0].data.shape == (
            24 // sizes[2],
            16 // sizes[1],
        )


def test_a_sharded_policy_computes_the_same(tmp_path):
    small_checkpoints.write(tmp_path)
    policy, params = load_policy(tmp_path)
    _, sharded = load_policy(tmp_path, mesh=make_mesh(MeshConfig(fsdp=2, tensor=2)))
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (2, 6))
    apply = jax.jit(policy.apply)
    np.testing.assert_allclose(
        apply(params, tokens, positions), apply(sharded, tokens, positions), atol=1e-4
    )


def test_values_that_are_not_finite_are_named(tmp_path):
    """Fault C8."""
    values = small_checkpoints.tensors(CONFIG)
    values["model.layers.1.mlp.up_proj.weight"][3, 2] = np.nan
    values["model.norm.weight"][0] = np.inf
    small_checkpoints.write(tmp_path, values=values)
    with pytest.warns(UserWarning, match="not finite") as caught:
        load_policy(tmp_path)
    texts = sorted(str(warning.message) for warning in caught)
    assert len(texts) == 2
    assert "model.layers.1.mlp.up_proj.weight" in texts[0]
    assert "model.norm.weight" in texts[1]
    assert "model.safetensors" in texts[0]


def test_arguments_are_checked(tmp_path):
    small_checkpoints.write(tmp_path)
    with pytest.raises(InputError, match=r"dtype must be one of float32.*'int8'"):
        load_policy(tmp_path, "int8")
    with pytest.raises(InputError, match="form must be stacked or sampling"):
        load_policy(tmp_path, form="other")


def test_the_configuration_alone_can_be_loaded(tmp_path):
    small_checkpoints.write(tmp_path)
    assert load_config(open_policy_dir(tmp_path)).num_hidden_layers == 2
    (tmp_path / "config.json").unlink()
    with pytest.raises(PolicyError, match=r"config\.json: missing"):
        load_config(open_policy_dir(tmp_path))


_PEAK = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from gru_mem_jax.policy import hf
from gru_mem_jax.policy import loading as placement
def peak():  # getrusage would tell that of the process that started this one
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.zeros(3)))
before = peak()
policy, params = hf.load_policy(sys.argv[1], sys.argv[2])
jax.block_until_ready(params)
after = peak()
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(json.dumps([after - before, size]))
"""


def test_peak_memory_is_near_the_size_of_the_weights(tmp_path):
    """160 MB of float32 from 80 MB of bfloat16.

    Beside the weights the peak counts the largest tensor (17 MB), mapped pages of the
    file (16 MB and one tensor), and the programs that were compiled (about 50 MB).
    """
    config = CONFIG | {
        "vocab_size": 16384,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
    }
    names = tensor_table(load_config_of(config))
    values = {n: np.ones(spec.shape, np.float32) for n, spec in names.items()}
    small_checkpoints.write(tmp_path, config, values=values, dtype="bfloat16")
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path), "float32"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    grown, size = json.loads(run.stdout)
    assert size > 150e6
    assert grown < size + 100e6


def load_config_of(config):
    from gru_mem_jax.policy.config import PolicyConfig

    return PolicyConfig.from_hf(config)
