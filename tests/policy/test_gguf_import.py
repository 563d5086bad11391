"""GGUF files as policy directories: weights, settings, and what is refused."""

import dataclasses
import json
import os

import gguf
import gguf_files
import numpy as np
import pytest
from safetensors.numpy import load_file

from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.checkpoint_files import find_tensors
from gru_mem_jax.policy.config import FULL, SLIDING
from gru_mem_jax.policy.files import PolicyDir, open_policy_dir
from gru_mem_jax.policy.gguf import import_gguf, read_header
from gru_mem_jax.policy.gguf.config import read_config
from gru_mem_jax.policy.gguf.rope import llama3_factors, llama3_rope
from gru_mem_jax.policy.gguf.weights import GGUFWeights
from gru_mem_jax.policy.hf import load_config, load_policy
from gru_mem_jax.tokenization.text_tokenizer import TextTokenizer

FAMILIES = list(gguf_files.CONFIGS)


def imported(tmp_path, config, values=None, **more):
    gguf_files.write(tmp_path / "m.gguf", config, values, **more)
    import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    return load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_settings_come_back(tmp_path, family):
    """What llama.cpp's converter makes of a checkpoint gives the checkpoint again."""
    config = gguf_files.config_of(family)
    values = gguf_files.values_of(config)
    found = imported(tmp_path, config, values)
    assert found.keys() == values.keys()
    for name, value in values.items():
        if family == "gemma3_text" and name.endswith("norm.weight"):
            # 1 + w, below 4, was rounded to float32.
            np.testing.assert_allclose(found[name], value, atol=2**-23, rtol=0)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    stated = load_config(PolicyDir(tmp_path / "out"))
    # The small file of a mistral without a window is a llama.
    family = "llama" if family == "mistral" else family
    assert stated.family == family
    for name, value in config.items():
        if name not in ("model_type", "rope_theta", "rope_local_base_freq"):
            assert getattr(stated, name) == value, name
    assert stated.rope.theta == config["rope_theta"]
    if family == "gemma3_text":
        assert stated.rope_local.theta == 10_000
        assert stated.layer_types == (SLIDING,) * 5 + (FULL, SLIDING)
        assert stated.eos_token_ids == (1, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_is_whole(tmp_path, family):
    """Policy and tokenizer load, and belong together."""
    values = imported(tmp_path, gguf_files.config_of(family))
    directory = open_policy_dir(tmp_path / "out")
    config = load_config(directory)
    assert {t.name for t in find_tensors(directory, config)} == values.keys()
    tokenizer = TextTokenizer.from_pretrained(tmp_path / "out")
    tokenizer.check_rows(config.vocab_size)
    assert tokenizer.decode(tokenizer.encode("the thing")).strip() == "the thing"


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantisations(tmp_path, kind):
    config = gguf_files.config_of("qwen2")
    stored = gguf_files.write(tmp_path / "m.gguf", config, quantisation=kind)
    found = import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert found.quantisations == tuple(sorted(("F32", kind)))
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert sum(value.size for value in weights.values()) == found.parameters
    for name, value in weights.items():
        expected = stored[gguf_files.gguf_name(name, False)]
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_k_quantisations(tmp_path, kind):
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    config = gguf_files.config_of("llama", **sizes, head_dim=64)
    stored = gguf_files.write(tmp_path / "m.gguf", config, quantisation=kind)
    import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
        expected = stored[gguf_files.gguf_name(name, False)]
        assert expected.std() > 0.01
        np.testing.assert_array_equal(weights[name], expected)
    name = "model.layers.0.self_attn.q_proj.weight"
    again = gguf_files.permuted(weights[name], 4)
    np.testing.assert_array_equal(again, stored["blk.0.attn_q.weight"])


def test_bfloat16_and_shards(tmp_path):
    """Blocks of rows, files of a bounded size, nearest bfloat16."""
    config = gguf_files.config_of("llama")
    values = gguf_files.values_of(config)
    gguf_files.write(tmp_path / "m.gguf", config, values)
    seen = []
    import_gguf(
        tmp_path / "m.gguf",
        tmp_path / "out",
        dtype="bfloat16",
        shard_bytes=40_000,
        on_tensor=lambda done, count: seen.append((done, count)),
    )
    assert seen == [(i + 1, len(values)) for i in range(len(values))]
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == values.keys()
    assert len({*index["weight_map"].values()}) > 3
    assert index["metadata"]["total_size"] == 2 * sum(v.size for v in values.values())
    _, params = load_policy(tmp_path / "out")
    embedding = params["ends"]["embedding"]
    assert embedding.dtype.name == "bfloat16"
    expected = values["model.embed_tokens.weight"].astype(embedding.dtype)
    np.testing.assert_array_equal(np.asarray(embedding), expected)


def test_blocks_of_rows_do_not_change_values(tmp_path, monkeypatch):
    config = gguf_files.config_of("llama")
    one = imported(tmp_path, config, quantisation="Q8_0")
    monkeypatch.setattr("gru_mem_jax.policy.gguf.weights._BLOCK_BYTES", 1000)
    import_gguf(tmp_path / "m.gguf", tmp_path / "again")
    for name, value in load_file(tmp_path / "again" / "model.safetensors").items():
        np.testing.assert_array_equal(value, one[name])


def test_biases_are_found_in_the_tensors(tmp_path):
    config = gguf_files.config_of("llama", attention_bias=True, mlp_bias=True)
    values = gguf_files.values_of(config)
    found = imported(tmp_path, config, values)
    assert found.keys() == values.keys()
    name = "model.layers.1.self_attn.k_proj.bias"
    np.testing.assert_array_equal(found[name], values[name])


def test_mistral(tmp_path):
    """A llama with a window, and the architecture of the newer ones."""
    config = gguf_files.config_of("mistral")
    window = {"llama.attention.sliding_window": ("add_uint32", 9)}
    found = imported(tmp_path, config, more=window)
    stated = load_config(PolicyDir(tmp_path / "out"))
    assert (stated.family, stated.windows) == ("mistral", (9, 9))
    header = read_header(tmp_path / "m.gguf")
    values = {
        key.replace("llama.", "mistral3."): value
        for key, value in header.metadata.items()
        if key != "llama.attention.sliding_window"
    }
    values["general.architecture"] = "mistral3"
    renamed = dataclasses.replace(header, metadata=values)
    stated = read_config(renamed)
    assert (stated.family, stated.sliding_window) == ("mistral", None)
    weights = GGUFWeights(renamed, stated)
    for name, value in found.items():
        (block,) = weights.blocks(name)
        np.testing.assert_array_equal(block, value)


def test_a_file_that_is_cut_meanwhile(tmp_path):
    path = tmp_path / "m.gguf"
    gguf_files.write(path, gguf_files.config_of("llama"))

    def cut(done, count):
        os.truncate(path, 20_000)

    with pytest.raises(PolicyError, match="has been cut while it was read"):
        import_gguf(path, tmp_path / "out", on_tensor=cut)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


# -- RoPE ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "low", "high", "context", "stated"),
    [
        (8.0, 1.0, 4.0, 8192, None),  # Llama 3.1
        (32.0, 1.0, 4.0, 8192, None),  # Llama 3.2
        (4.0, 1.0, 2.0, 4096, None),
        (8.0, 1.5, 6.0, 2048, 2048),
    ],
)
def test_llama3_scaling_is_found_again(factor, low, high, context, stated):
    """From the factors, as llama.cpp's converter computes them one by one."""
    theta, size = 5e5, 128
    factors = []
    for index in range(0, size, 2):
        wavelength = 2 * np.pi * theta ** (index / size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    factors = np.array(factors, np.float32)
    rope = llama3_rope(factors, theta, stated)
    assert (rope.type, rope.factor, rope.theta) == ("llama3", factor, theta)
    assert rope.low_freq_factor == pytest.approx(low, rel=1e-3)
    assert rope.high_freq_factor == pytest.approx(high, rel=1e-3)
    assert rope.original_max_position_embeddings == pytest.approx(context, rel=1e-3)
    again = llama3_factors(
        size,
        theta,
        rope.factor,
        rope.low_freq_factor,
        rope.high_freq_factor,
        rope.original_max_position_embeddings,
    )
    np.testing.assert_allclose(again, factors, rtol=1e-4)


def test_other_factors_are_no_llama3_scaling():
    assert llama3_rope(np.linspace(1, 40, 32), 5e5) is None
    assert llama3_rope(np.full(32, np.nan), 5e5) is None
    assert llama3_rope(np.ones(32), 5e5).type == "default"


def test_a_llama3_file(tmp_path):
    config = gguf_files.config_of("llama", head_dim=64)
    factors = llama3_factors(64, 1e4, 8.0, 1.0, 4.0, 8192).astype(np.float32)
    imported(tmp_path, config, tensors={"rope_freqs.weight": factors})
    rope = load_config(PolicyDir(tmp_path / "out")).rope
    assert (rope.type, rope.factor) == ("llama3", 8.0)
    gguf_files.write(
        tmp_path / "n.gguf",
        config,
        tensors={"rope_freqs.weight": np.arange(1, 33, dtype=np.float32)},
    )
    with pytest.raises(PolicyError, match="not those of Llama 3's scaling"):
        import_gguf(tmp_path / "n.gguf", tmp_path / "other")


def test_linear_and_yarn(tmp_path):
    scaling = "gemma3.rope.scaling."
    more = {
        f"{scaling}type": ("add_string", "linear"),
        f"{scaling}factor": ("add_float32", 8.0),
    }
    imported(tmp_path, gguf_files.config_of("gemma3_text"), more=more)
    config = load_config(PolicyDir(tmp_path / "out"))
    assert (config.rope.type, config.rope.factor) == ("linear", 8.0)
    assert config.rope_local.type == "default"
    scaling = "qwen2.rope.scaling."
    more = {
        f"{scaling}type": ("add_string", "yarn"),
        f"{scaling}factor": ("add_float32", 4.0),
        f"{scaling}original_context_length": ("add_uint32", 32768),
    }
    gguf_files.write(tmp_path / "q.gguf", gguf_files.config_of("qwen2"), more=more)
    import_gguf(tmp_path / "q.gguf", tmp_path / "yarn")
    rope = load_config(PolicyDir(tmp_path / "yarn")).rope
    assert (rope.type, rope.factor) == ("yarn", 4.0)
    assert rope.original_max_position_embeddings == 32768


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"llama.expert_count": ("add_uint32", 8)}, "expert_count.*not supported"),
        ({"llama.attention.causal": ("add_bool", False)}, "left to right"),
        ({"split.count": ("add_uint16", 3)}, "one of 3 parts: join them"),
        ({"llama.attention.value_length": ("add_uint32", 8)}, "values of 8 beside"),
        (
            {"llama.rope.scaling.type": ("add_string", "longrope")},
            "RoPE scaling 'longrope' is not supported",
        ),
        ({"tokenizer.chat_template.../x": ("add_string", "x")}, "name '../x' is ref"),
    ],
)
def test_unsupported_settings(tmp_path, more, expected):
    gguf_files.write(tmp_path / "m.gguf", gguf_files.config_of("llama"), more=more)
    with pytest.raises(PolicyError, match=expected) as caught:
        import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'm.gguf'}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_architectures_and_tensors(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "falcon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(PolicyError, match="architecture 'falcon' is not supported"):
        import_gguf(tmp_path / "a.gguf", tmp_path / "out")
    config = gguf_files.config_of("llama")
    extra = {"blk.0.ssm_a.weight": np.zeros(4, np.float32)}
    gguf_files.write(tmp_path / "b.gguf", config, tensors=extra)
    with pytest.raises(PolicyError, match=r"ssm_a.weight' is not part of a llama"):
        import_gguf(tmp_path / "b.gguf", tmp_path / "out")
    values = gguf_files.values_of(config)
    del values["model.layers.1.mlp.up_proj.weight"]
    gguf_files.write(tmp_path / "c.gguf", config, values)
    with pytest.raises(PolicyError, match=r"'blk.1.ffn_up.weight' of shape .* missing"):
        import_gguf(tmp_path / "c.gguf", tmp_path / "out")
    wide = gguf_files.config_of("llama", intermediate_size=128)
    values |= gguf_files.values_of(wide)
    values["model.layers.0.mlp.up_proj.weight"] = np.zeros((96, 64), np.float32)
    gguf_files.write(tmp_path / "d.gguf", wide, values)
    with pytest.raises(PolicyError, match=r"expected shape \(128, 64\) .* \(96, 64\)"):
        import_gguf(tmp_path / "d.gguf", tmp_path / "out")


def test_a_target_that_is_not_empty(tmp_path):
    gguf_files.write(tmp_path / "m.gguf", gguf_files.config_of("llama"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]


# -- the command -----------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    gguf_files.write(tmp_path / "m.gguf", gguf_files.config_of("llama"))
    out = tmp_path / "policy"
    assert main(["import", str(tmp_path / "m.gguf"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "imported llama, 0.1M weights from F32\n" in said.err
    assert f"next: gru-mem ask --policy {out} " in said.err
    assert open_policy_dir(out).read_json("config.json")["model_type"] == "llama"
    assert main(["import", str(tmp_path / "m.gguf"), "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_file_without_a_template_says_so(tmp_path, capsys):
    gguf_files.write(tmp_path / "m.gguf", gguf_files.config_of("llama"), template=None)
    out = str(tmp_path / "policy")
    assert main(["import", str(tmp_path / "m.gguf"), "--out", out]) == 0
    assert "no chat template" in capsys.readouterr().err


def test_without_the_package(tmp_path, monkeypatch, capsys):
    gguf_files.write(tmp_path / "m.gguf", gguf_files.config_of("llama"))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    out = str(tmp_path / "policy")
    assert main(["import", str(tmp_path / "m.gguf"), "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'gru_mem_jax[gguf]'" in line


def test_the_hint_is_the_command(tmp_path, capsys):
    """What `ask` says of the file works as it is."""
    file = tmp_path / "m.gguf"
    gguf_files.write(file, gguf_files.config_of("llama"))
    with pytest.raises(PolicyError) as caught:
        open_policy_dir(file)
    command = str(caught.value).split("`")[1]
    assert command == f"gru-mem import {file} --out DIR"
    with pytest.raises(PolicyError, match=f"`gru-mem import {file} --out DIR`"):
        open_policy_dir(tmp_path)
    out = str(tmp_path / "policy")
    assert main([*command.split()[1:-1], out]) == 0


# -- the header against the package's own reader ---------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_header_is_as_the_package_reads_it(tmp_path, family):
    path = tmp_path / "m.gguf"
    gguf_files.write(path, gguf_files.config_of(family), quantisation="Q8_0")
    header, reader = read_header(path), gguf.GGUFReader(path)
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert header.metadata.keys() == fields.keys()
    for key, field in fields.items():
        assert header.metadata[key] == field.contents(), key
    assert [*header.tensors] == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(tensor.shape.tolist()[::-1])
        assert ours.quantisation == tensor.tensor_type.name
        assert (ours.offset, ours.nbytes) == (tensor.data_offset, tensor.n_bytes)
    del reader
