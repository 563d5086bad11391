"""Small GGUF files, written by the gguf package as llama.cpp's converter does."""

import pathlib
from collections.abc import Mapping

import gguf
import numpy as np

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.hf_names import tensor_table

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Sizes that every quantisation divides: 32 values a block, 256 for the K ones.
CONFIGS = {
    family: {
        "model_type": family,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        **more,
    }
    for family, more in {
        "llama": {"head_dim": 32, "tie_word_embeddings": True},
        "mistral": {"sliding_window": None},
        "qwen2": {"tie_word_embeddings": False},
        "qwen3": {"head_dim": 128, "tie_word_embeddings": True},
        "gemma3_text": {
            "head_dim": 256,
            "num_hidden_layers": 7,
            "sliding_window": 8,
            "query_pre_attn_scalar": 256,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
        },
    }.items()
}


def byte_tokens() -> tuple[list[str], list[int], list[str]]:
    """Tokens, their kinds and merges of a byte-level vocabulary with control tokens."""
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {code: chr(code) for code in codes}
    rest = (code for code in range(256) if code not in letters)
    letters |= {code: chr(256 + i) for i, code in enumerate(rest)}
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = ["t h", "th e", "Ġ the", "i n", "Ġ a", "1 2", "Ċ Ċ", "e r"]
    tokens = control + [letters[code] for code in range(256)]
    tokens += [merge.replace(" ", "") for merge in merges] + ["<think>"]
    kinds = [3] * 3 + [1] * (len(tokens) - 4) + [4]
    return tokens, kinds, merges


def piece_tokens(gemma: bool) -> tuple[list[str], list[int], list[float]]:
    """Tokens, kinds and scores of a SentencePiece vocabulary."""
    if gemma:
        heads = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    else:
        heads = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<x>"]
    kinds = [3] * len(heads)
    kinds[heads.index("<unk>")] = 2
    words = ["▁t", "he", "▁the", "▁a", "in", "ing", "er", "▁the▁", "\n\n"]
    letters = ["▁", *"theaingrsdo.,TIH\n"]
    runs = ["  ", "   "] if gemma else ["▁▁", "▁▁▁"]
    tokens = [*heads, *(f"<0x{code:02X}>" for code in range(256)), *runs]
    tokens += words + letters
    kinds += [6] * 256 + ([4] * 2 if gemma else [1] * 2) + [1] * len(words + letters)
    scores = [0.0] * (len(heads) + 256)
    scores += [-float(i) for i in range(len(tokens) - len(scores))]
    return tokens, kinds, scores


def vocabulary_size(family: str) -> int:
    """Rows of the embedding of the family's small file."""
    if family in ("llama", "qwen2", "qwen3"):
        return len(byte_tokens()[0])
    return len(piece_tokens(family == "gemma3_text")[0])


def config_of(family: str, **more) -> dict:
    return {**CONFIGS[family], "vocab_size": vocabulary_size(family), **more}


def values_of(config: Mapping, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights by Hugging Face's names."""
    rng = np.random.default_rng(seed)
    table = tensor_table(PolicyConfig.from_hf(dict(config)))
    return {
        name: (0.3 * rng.normal(size=spec.shape)).astype(np.float32)
        for name, spec in table.items()
    }


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of query and key."""
    shape = values.shape
    halves = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)


def gguf_name(name: str, gemma: bool) -> str:
    stem, _, ending = name.rpartition(".")
    names = NAMES | GEMMA_NAMES if gemma else NAMES
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{names[part]}.{ending}"
    return f"{names[stem]}.{ending}"


def converted(config: Mapping, values: Mapping[str, np.ndarray]) -> dict:
    """Tensors as llama.cpp stores them, float32, by GGUF's names."""
    family = config["model_type"]
    gemma = family == "gemma3_text"
    policy = PolicyConfig.from_hf(dict(config))
    found = {}
    for name, value in values.items():
        if family in ("llama", "mistral") and ".q_proj." in name:
            value = permuted(value, policy.num_attention_heads)
        elif family in ("llama", "mistral") and ".k_proj." in name:
            value = permuted(value, policy.num_key_value_heads)
        if gemma and name.endswith("norm.weight"):
            value = value + np.float32(1)
        found[gguf_name(name, gemma)] = value
    return found


def add_tokenizer(writer: gguf.GGUFWriter, family: str, template: str | None) -> None:
    if family in ("llama", "qwen2", "qwen3"):
        tokens, kinds, merges = byte_tokens()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2" if family != "llama" else "smollm")
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
    else:
        gemma = family == "gemma3_text"
        tokens, kinds, scores = piece_tokens(gemma)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        writer.add_bos_token_id(2 if gemma else 1)
        writer.add_eos_token_id(1 if gemma else 2)
        writer.add_unk_token_id(3 if gemma else 0)
        if gemma:
            writer.add_pad_token_id(0)
            writer.add_eot_token_id(5)
    if template is not None:
        writer.add_chat_template(template)


def write(
    path: pathlib.Path,
    config: Mapping,
    values: Mapping[str, np.ndarray] | None = None,
    *,
    quantisation: str = "F32",
    template: str | None = TEMPLATE,
    tensors: Mapping[str, np.ndarray] | None = None,
    tokenizer: bool = True,
    more: Mapping[str, tuple[str, object]] | None = None,
) -> dict[str, np.ndarray]:
    """Writes a file; returns the stored values, dequantised, by GGUF's names.

    Args:
      path: of the file.
      config: as in config.json, with vocab_size.
      values: by Hugging Face's names; None: random ones.
      quantisation: of matrices; vectors are always float32.
      template: the chat template; None: there is none.
      tensors: further tensors, as float32.
      tokenizer: whether there is one.
      more: further metadata: key -> (method of the writer, value).
    """
    family = config["model_type"]
    architecture = ARCHITECTURES[family]
    policy = PolicyConfig.from_hf(dict(config))
    writer = gguf.GGUFWriter(path, architecture)
    if family == "mistral":
        writer.add_name("Mistral 7B Instruct")
    writer.add_context_length(policy.max_position_embeddings)
    writer.add_embedding_length(policy.hidden_size)
    writer.add_block_count(policy.num_hidden_layers)
    writer.add_feed_forward_length(policy.intermediate_size)
    writer.add_head_count(policy.num_attention_heads)
    writer.add_head_count_kv(policy.num_key_value_heads)
    writer.add_layer_norm_rms_eps(policy.rms_norm_eps)
    writer.add_rope_freq_base(policy.rope.theta)
    if architecture == "llama":
        writer.add_rope_dimension_count(policy.head_dim)
    else:
        writer.add_key_length(policy.head_dim)
        writer.add_value_length(policy.head_dim)
    if policy.family == "gemma3_text":
        writer.add_sliding_window(policy.sliding_window)
    for key, (method, value) in (more or {}).items():
        getattr(writer, method)(key, value)
    if tokenizer:
        add_tokenizer(writer, family, template)
    values = values_of(config) if values is None else values
    stored = {}
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, value in {**converted(config, values), **(tensors or {})}.items():
        used = kind if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = quantised(value, used)
        stored[name] = gguf.dequantize(data, used)
        writer.add_tensor(name, data, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def quantised(value: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """As gguf does, or, of kinds that it cannot make, random blocks of sound scales."""
    if kind.name not in ("Q4_K", "Q6_K"):
        return gguf.quantize(value, kind)
    items, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(value.size)
    blocks = rng.integers(0, 256, (value.size // items, nbytes), np.uint8)
    scale = np.full((len(blocks), 1), 0.01, np.float16).view(np.uint8)
    if kind.name == "Q4_K":
        blocks[:, :2] = blocks[:, 2:4] = scale
    else:
        blocks[:, -2:] = scale
    return blocks.reshape(value.shape[0], -1)
