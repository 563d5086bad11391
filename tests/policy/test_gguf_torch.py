"""Imported policies against transformers' own reading of the same GGUF files."""

import pathlib

import gguf_files
import numpy as np
import pytest
from decoding import whole_rows
from safetensors.numpy import load_file

from gru_mem_jax.policy.gguf import import_gguf
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.tokenization.text_tokenizer import TextTokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*"),  # theirs, of other libraries
]

KINDS = dict(zip(gguf_files.CONFIGS, ("Q4_1", "F16", "BF16", "Q8_0", "Q5_1")))
TEXTS = [
    "the thing in there, and THE other; don't",
    "  two  spaces,\n\n\ta tab 1212 12 1 ½ ",
    "naïve café 東京 🙂",
    "▁▁ the▁ <s> <0x0A> [INST] <unk>",
    " lead",
    "",
]


def reading(path: pathlib.Path):
    """transformers' model of a GGUF file, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


def check_weights(model, directory: pathlib.Path) -> None:
    theirs = model.state_dict()
    ours = load_file(directory / "model.safetensors")
    assert ours.keys() | {"lm_head.weight"} == theirs.keys() | {"lm_head.weight"}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name].numpy(), err_msg=name)


def check_logits(model, directory: pathlib.Path, rows: np.ndarray) -> None:
    with torch.no_grad():
        theirs = model(torch.from_numpy(rows)).logits.numpy()
    ours = whole_rows(*load_policy(directory), rows)
    assert np.abs(theirs).max() > 0.5
    assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, np.abs(theirs).max())


def check_ids(path: pathlib.Path, directory: pathlib.Path, texts: list[str]) -> None:
    """In transformers with and without special tokens, and in TextTokenizer."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = AutoTokenizer.from_pretrained(directory)
    tokenizer = TextTokenizer.from_pretrained(directory)
    first = theirs.convert_ids_to_tokens(theirs.encode("t", add_special_tokens=False))
    prefixed = first[0].startswith("▁")
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for text in texts:
        expected = theirs.encode(text)
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == theirs.decode(expected), text
        ids = theirs.encode(text, add_special_tokens=False)
        assert tokenizer.encode_control(text, start=True) == ids, text
        # Text within a prompt has no space before it, and no control tokens.
        if not prefixed and not any(mark in text for mark in "<["):
            assert tokenizer.encode(text) == ids, text


def imported(tmp_path, family) -> tuple[pathlib.Path, pathlib.Path]:
    path, out = tmp_path / "file" / "m.gguf", tmp_path / "out"
    path.parent.mkdir()
    config = gguf_files.config_of(family)
    gguf_files.write(path, config, quantisation=KINDS[family])
    import_gguf(path, out)
    return path, out


@pytest.mark.parametrize("family", gguf_files.CONFIGS)
def test_weights_and_ids(tmp_path, family):
    path, out = imported(tmp_path, family)
    check_weights(reading(path), out)
    check_ids(path, out, TEXTS)


# From a Hugging Face directory the logits of each family are tested elsewhere.
SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in ("mistral", "qwen2", "qwen3")]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", *SLOW])
def test_logits(tmp_path, family):
    path, out = imported(tmp_path, family)
    size = gguf_files.vocabulary_size(family)
    rows = np.random.default_rng(1).integers(0, size, (2, 50))
    check_logits(reading(path), out, rows)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_k_quantisations(tmp_path, kind):
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    path, out = tmp_path / "file" / "m.gguf", tmp_path / "out"
    path.parent.mkdir()
    config = gguf_files.config_of("llama", **sizes, head_dim=64)
    gguf_files.write(path, config, quantisation=kind)
    import_gguf(path, out)
    check_weights(reading(path), out)
