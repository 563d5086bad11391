"""The tokenizer classes of transformers 5 that take only words from tokenizer.json.

By model_type and tokenizer_class transformers either uses tokenizer.json as it is, or
takes vocabulary, merges and added tokens from it into a class that splits and
normalises in its own way. Mostly both agree, but not always: SmolLM2's tokenizer.json
splits digits off, the class GPT2Tokenizer that its directory names does not. As in
transformers, the class has precedence.
"""

import json
from collections.abc import Mapping
from typing import Any

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The class that transformers registers for a model_type.
_REGISTERED = {
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "mistral": "TokenizersBackend",
}
# For these the class that the directory names is ignored.
_ALWAYS_REGISTERED = ("qwen2",)
# Default tokens by role, where no file gives the role.
ROLES = {
    "Qwen2Tokenizer": dict.fromkeys(("unk", "eos", "pad"), "<|endoftext|>"),
    "GPT2Tokenizer": dict.fromkeys(("unk", "bos", "eos"), "<|endoftext|>"),
    "LlamaTokenizer": {"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
    "GemmaTokenizer": {
        name: f"<{name}>" for name in ("unk", "bos", "eos", "pad", "mask")
    },
}


def tokenizer_class(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], model: Mapping[str, Any]
) -> str | None:
    """The class of ROLES that is used; None: tokenizer.json is used as it is.

    Args:
      tokenizer: the parsed tokenizer.json.
      config: tokenizer_config.json.
      model: config.json; without it no class is known.
    """
    if not isinstance(tokenizer["model"]["vocab"], dict):
        return None  # refused later
    registered = _REGISTERED.get(model.get("model_type"))
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    if not isinstance(named, str):
        return registered if registered in ROLES else None
    named = named.removesuffix("Fast")
    always = model.get("model_type") in _ALWAYS_REGISTERED
    if named == "LlamaTokenizer" and not always and '"ByteLevel"' in _text(tokenizer):
        return None
    if registered == "TokenizersBackend" and named != registered:
        return None
    found = registered if always else named
    return found if found in ROLES and model else None


def as_class(
    name: str, tokenizer: Mapping[str, Any], config: Mapping[str, Any], unk: str
) -> dict[str, Any]:
    """The tokenizer.json that a class makes of a vocabulary.

    Args:
      name: of ROLES.
      tokenizer: whose vocabulary, merges and added tokens are taken.
      config: tokenizer_config.json, whose options the class takes.
      unk: the unknown token.
    """
    parts, options = _MAKERS[name](config, unk)
    model = {
        **tokenizer["model"],
        "merges": tokenizer["model"].get("merges") or [],
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "type": "BPE",
    }
    return {**tokenizer, "normalizer": None, **parts, "model": model}


def _text(tokenizer: Mapping[str, Any]) -> str:
    parts = (tokenizer.get(name) for name in _PARTS)
    return json.dumps([*parts])


_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def _byte_level(prefix: Any, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": prefix is True,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _split(pattern: dict[str, str], behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def _sequence(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


def _qwen2(config: Mapping[str, Any], unk: str) -> tuple[dict, dict]:
    prefix = config.get("add_prefix_space")
    parts = {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": _sequence(
            "pretokenizers",
            _split({"Regex": _QWEN_SPLIT}, "Isolated"),
            _byte_level(prefix, use_regex=False),
        ),
        "decoder": _byte_level(True, use_regex=True),
    }
    return parts, {"continuing_subword_prefix": "", "end_of_word_suffix": ""}


def _gpt2(config: Mapping[str, Any], unk: str) -> tuple[dict, dict]:
    prefix = config.get("add_prefix_space")
    parts = {
        "pre_tokenizer": _byte_level(prefix, use_regex=True),
        "decoder": _byte_level(True, use_regex=True),
    }
    return parts, {"continuing_subword_prefix": "", "end_of_word_suffix": ""}


def _llama(config: Mapping[str, Any], unk: str) -> tuple[dict, dict]:
    prefix = config.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = "first" if not config.get("legacy", False) else "always"
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    parts = {
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": scheme if prefix else "never",
            "split": False,
        },
        "decoder": _sequence(
            "decoders",
            _replace("▁", " "),
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *([strip] if prefix else []),
        ),
    }
    return parts, {"fuse_unk": True, "byte_fallback": True}


def _gemma(config: Mapping[str, Any], unk: str) -> tuple[dict, dict]:
    parts = {
        "normalizer": _replace(" ", "▁"),
        "pre_tokenizer": _split({"String": " "}, "MergedWithPrevious"),
        "decoder": _sequence(
            "decoders", _replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}
        ),
    }
    return parts, {"fuse_unk": True, "byte_fallback": True, "unk_token": unk}


_MAKERS = {
    "Qwen2Tokenizer": _qwen2,
    "GPT2Tokenizer": _gpt2,
    "LlamaTokenizer": _llama,
    "GemmaTokenizer": _gemma,
}
