"""The small files of a policy, with what decides them in as many files as can be."""

import json
import pathlib

TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.content }}<turn>{% endfor %}"
    "{% if add_generation_prompt %}<turn><think>{% endif %}"
)


def write(folder: pathlib.Path) -> None:
    """Writes them; there are no weights."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    # A mark of a private area for the places of content, and some letters.
    from tokenizers.pre_tokenizers import ByteLevel

    names = ("<unk>", "<turn>", "<end>", "<think>", "<eos>")
    entries = [*names, *sorted(ByteLevel.alphabet())]
    tokenizer = {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "added_tokens": [
            {"id": i, "content": name, "special": name != "<think>", **flags}
            for i, name in enumerate(names)
        ],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {entry: i for i, entry in enumerate(entries)},
            "merges": [],
        },
    }
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": len(entries),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 4,
    }
    for name, content in {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"pad_token": "<end>", "eos_token": "<turn>"},
        "special_tokens_map.json": {"eos_token": {"content": "<eos>"}},
        "generation_config.json": {"eos_token_id": [2]},
        "chat_template.json": {"chat_template": TEMPLATE},
        "gru_mem.json": {"prompt": {"template_variables": {"depth": 1}}},
    }.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
