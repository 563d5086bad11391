"""Mistral's large vocabularies, whose first conversions split text wrongly."""

from collections.abc import Mapping
from typing import Any

_MODELS = ("mistral", "mistral3", "voxtral", "ministral", "pixtral")
_LARGE = 100_000  # smaller vocabularies are older, and split text rightly
_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WARNING = (
    "tokenizer.json splits text differently from Mistral's own tokenizer, so that ids "
    "differ from those of training; set fix_mistral_regex to true in "
    "tokenizer_config.json"
)


def with_right_split(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[Mapping[str, Any], str | None]:
    """The tokenizer.json as transformers uses it, and its warning.

    Args:
      tokenizer: the parsed tokenizer.json.
      config: tokenizer_config.json; its fix_mistral_regex decides.
      model: config.json, which identifies such tokenizers; empty: none is.
    """
    size = len(tokenizer["model"]["vocab"])
    parts = tokenizer.get("pre_tokenizer")
    if not model or not parts or size <= _LARGE or _is_new(model):
        return tokenizer, None
    if model.get("model_type", "mistral") not in _MODELS:
        return tokenizer, None
    inner = parts.get("pretokenizers")
    if not inner or inner[0].get("pattern") == {"Regex": _SPLIT}:
        return tokenizer, None
    if config.get("fix_mistral_regex") is not True:
        return tokenizer, _WARNING
    first = {
        "type": "Split",
        "pattern": {"Regex": _SPLIT},
        "behavior": "Isolated",
        "invert": False,
    }
    parts = {**parts, "pretokenizers": [first, *inner[1:]]}
    return {**tokenizer, "pre_tokenizer": parts}, None


def _is_new(model: Mapping[str, Any]) -> bool:
    """Whether it was saved by a version of transformers that converts rightly."""
    major = str(model.get("transformers_version", "")).partition(".")[0]
    return major.isdecimal() and int(major) >= 5
