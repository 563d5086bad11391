"""Directories as the hub has them, against transformers: which tensors are taken, and
where generation stops; the same of what is exported from them."""

import json
import warnings

import hub_weights
import numpy as np
import pytest
from decoding import whole_rows
from hub_weights import LAYOUTS, values_of, write, write_weights

from gru_mem_jax.policy.files import open_policy_dir, tokenizer_files
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.tokenization import TextTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

LIMIT = 1e-5
ROWS = np.random.default_rng(0).integers(3, 280, (1, 90))  # beyond every window
QWEN3, GEMMA = LAYOUTS["qwen3_0.6b"], LAYOUTS["gemma3_4b_it"]
LLAMA = LAYOUTS["llama3_8b_instruct"]


def theirs(directory, dtype=torch.float32):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    with torch.no_grad():
        logits = model(torch.from_numpy(ROWS)).logits.float().numpy()
    return model, logits


def is_tied(model):
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def ours(directory):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[^ ]* config.json says tie_word_embeddings")
        policy, params = load_policy(directory)
    return policy, params, whole_rows(policy, params, ROWS)


QUICK = ("qwen3_0.6b", "llama3_8b_instruct", "mistral_nemo", "gemma3_4b_it")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS],
)
def test_a_directory_and_its_export(tmp_path, name):
    layout = LAYOUTS[name]
    source, out = tmp_path / "p", tmp_path / "x"
    write(source, layout, values=values_of(layout, layout.config_json()))
    model, logits = theirs(source)
    policy, params, got = ours(source)
    assert np.abs(got - logits).max() <= LIMIT
    assert policy.config.tie_word_embeddings is is_tied(model)
    files = tokenizer_files(open_policy_dir(source))
    export_policy(policy, params, out, tokenizer_files=files)
    again, same = theirs(out)
    np.testing.assert_allclose(same, logits, atol=1e-6)
    assert is_tied(again) is is_tied(model)
    # Where generation stops and how it samples.
    both = [m.generation_config.to_dict() for m in (model, again)]
    if layout.generation is None:  # then it is made of what config.json says
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        both = [{name: config[name] for name in ids} for config in both]
    assert both[0] == both[1]
    stops = model.generation_config.eos_token_id
    stops = set(stops) if isinstance(stops, list) else {stops}
    for directory in (source, out):
        found = TextTokenizer.from_pretrained(directory).stop_ids
        turn = layout.id_of(layout.turn[1].strip())
        assert set(found) == stops | {turn}  # what ends a turn in the template is ours


@pytest.mark.parametrize(
    "name",
    [
        "qwen2.5_0.5b_instruct",
        pytest.param("qwen3_0.6b", marks=pytest.mark.slow),
        pytest.param("llama3.2_1b_instruct", marks=pytest.mark.slow),
        pytest.param("mistral_nemo", marks=pytest.mark.slow),
        "gemma3_1b_it",
        pytest.param("gemma3_4b_it", marks=pytest.mark.slow),
    ],
)
def test_another_head(tmp_path, name):
    layout, tied = LAYOUTS[name], {"tie_word_embeddings": True}
    values = values_of(layout, layout.config_json())
    values[layout.head] = np.roll(values[f"{layout.prefix}embed_tokens.weight"], 7, 0)
    write(tmp_path / "p", layout, values=values, config=tied)
    model, logits = theirs(tmp_path / "p")
    policy, params, got = ours(tmp_path / "p")
    assert np.abs(got - logits).max() <= LIMIT
    assert not policy.config.tie_word_embeddings
    assert not is_tied(model)
    export_policy(policy, params, tmp_path / "x")
    again, same = theirs(tmp_path / "x")
    np.testing.assert_allclose(same, logits, atol=1e-6)
    assert not is_tied(again)


def _bare(values):
    return {name.removeprefix("model."): value for name, value in values.items()}


def _renamed(values, old, new):
    return {name.replace(old, new): value for name, value in values.items()}


_EMBEDDING = "model.embed_tokens.weight"
_WRAPPED = "language_model.model."
_QWEN3_VALUES = values_of(QWEN3, QWEN3.config_json())
_GEMMA_VALUES = values_of(GEMMA, GEMMA.config_json())
_OTHER = np.roll(_QWEN3_VALUES[_EMBEDDING], 3, axis=0)
_GEMMA_OTHER = np.roll(_GEMMA_VALUES[f"{_WRAPPED}embed_tokens.weight"], 3, axis=0)
_NEW = _renamed(_GEMMA_VALUES, _WRAPPED, "model.language_model.")
_MIXED = {
    name: value.astype(list(hub_weights.DTYPES.values())[i % 3])
    for i, (name, value) in enumerate(_QWEN3_VALUES.items())
}
_FREQUENCIES = {
    name: np.ones(3, np.float32)
    for name in (
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    )
}
NEIGHBOURS = {  # layout, tensors, changes of config.json
    "saved_by_the_heads_name": (
        QWEN3,
        {
            "lm_head.weight" if name == _EMBEDDING else name: value
            for name, value in _QWEN3_VALUES.items()
        },
        {},
    ),
    "saved_without_head": (
        QWEN3,
        _bare(_QWEN3_VALUES),
        {"architectures": ["Qwen3Model"]},
    ),
    "bare_names_and_another_head": (
        QWEN3,
        {**_bare(_QWEN3_VALUES), "lm_head.weight": _OTHER},
        {},
    ),
    "no_architectures": (QWEN3, _QWEN3_VALUES, {"architectures": None}),
    "frequencies_of_old": (QWEN3, _QWEN3_VALUES | _FREQUENCIES, {}),
    "mixed_dtypes": (QWEN3, _MIXED, {"dtype": "float32"}),
    "old_names_new_head": (
        GEMMA,
        {**_GEMMA_VALUES, "lm_head.weight": _GEMMA_OTHER},
        {},
    ),
    "new_names": (GEMMA, _NEW, {}),
    "new_names_another_head": (GEMMA, {**_NEW, "lm_head.weight": _GEMMA_OTHER}, {}),
    "wrapper_saved_without_head": (
        GEMMA,
        _renamed(_GEMMA_VALUES, _WRAPPED, "language_model."),
        {"architectures": ["Gemma3Model"]},
    ),
    "untied_inside_tied_outside": (
        GEMMA,
        _GEMMA_VALUES,
        {"text_config": {**GEMMA.config["text_config"], "tie_word_embeddings": False}},
    ),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours(tmp_path, name):
    layout, values, changes = NEIGHBOURS[name]
    write(tmp_path, layout, values=_QWEN3_VALUES, config=changes)
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    write_weights(tmp_path, dict(values), layout.shards)
    model, logits = theirs(tmp_path)
    policy, _, got = ours(tmp_path)
    assert np.abs(got - logits).max() <= LIMIT
    assert policy.config.tie_word_embeddings is is_tied(model)


@pytest.mark.parametrize("stated", ["float32", "float16", "bfloat16", None])
@pytest.mark.parametrize("head", ["float16", "bfloat16"])
def test_a_head_that_is_the_embeddings_rounding(tmp_path, head, stated):
    """As with the dtype that transformers takes if it is told none."""
    rounded = _QWEN3_VALUES[_EMBEDDING].astype(hub_weights.DTYPES[head])
    write(tmp_path, QWEN3, config={"dtype": stated})
    write_weights(tmp_path, {**_QWEN3_VALUES, "lm_head.weight": rounded})
    model, _ = theirs(tmp_path, "auto")
    assert ours(tmp_path)[0].config.tie_word_embeddings is is_tied(model)


def test_which_files_are_taken(tmp_path):
    """model.safetensors before an index; what config.json names before both."""
    values = values_of(LLAMA, LLAMA.config_json())
    write(tmp_path, LLAMA, values=values)
    write_weights(tmp_path, {name: value * 2 for name, value in values.items()})
    _, logits = theirs(tmp_path)
    assert np.abs(ours(tmp_path)[2] - logits).max() <= LIMIT
    tripled = {name: value * 3 for name, value in values.items()}
    hub_weights.save_file(tripled, tmp_path / "w.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["transformers_weights"] = "w.safetensors"
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, other = theirs(tmp_path)
    assert np.abs(other - logits).max() > 100 * LIMIT
    assert np.abs(ours(tmp_path)[2] - other).max() <= LIMIT
