"""How a text is split before byte pairs are merged, by the name that a file gives.

llama.cpp has a regular expression for each name of `tokenizer.ggml.pre`; these are
those of the models' tokenizer.json. Only names of the supported architectures' models
are listed.
"""

import pathlib
from typing import Any

from gru_mem_jax.errors import PolicyError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _by_letters(digits: str) -> str:
    """Llama 3's expression, and Qwen 2's, which has each digit alone."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
    )


def _by_case(digits: str, after: str) -> str:
    """GPT-4o's expression, and Mistral's, which has no contractions after a word."""
    begin = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{begin}[{_UPPER}]*[{_LOWER}]+{after}|{begin}[{_UPPER}]+[{_LOWER}]*{after}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
    )


_LLAMA3 = _by_letters(r"\p{N}{1,3}")
_QWEN2 = _by_letters(r"\p{N}")
_TEKKEN = _by_case(r"\p{N}", "")
_GPT4O = _by_case(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")
_GPT2 = "GPT-2"
_SPLITS = {
    # SmolLM's tokenizer.json splits digits off first, which the class that transformers
    # loads it with does not; the merges join no digits of ASCII, so it shows in others.
    **dict.fromkeys(("default", "gpt-2", "smollm"), _GPT2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}
# A word of the vocabulary is taken whole, whether merges lead to it or not.
_WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken"}


def byte_level_parts(
    name: str, prefix: bool, path: pathlib.Path
) -> tuple[dict[str, Any], bool]:
    """Parts of a byte-level tokenizer.json.

    Args:
      name: of `tokenizer.ggml.pre`.
      prefix: whether a text gets a space before it.
      path: of the file, for messages.

    Returns:
      normalizer, pre_tokenizer and decoder; and whether words are taken whole.

    Raises:
      PolicyError: the name is unknown.
    """
    split = _SPLITS.get(name)
    if split is None:
        raise PolicyError(
            f"{path}: pre-tokenizer {name[:60]!r} (tokenizer.ggml.pre) is not "
            f"supported: expected one of {', '.join(_SPLITS)}"
        )
    steps: list[dict[str, Any]] = []
    if split != _GPT2:
        steps.append(
            {
                "type": "Split",
                "pattern": {"Regex": split},
                "behavior": "Isolated",
                "invert": False,
            }
        )
    bytes_ = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True}
    steps.append({**bytes_, "use_regex": split == _GPT2})
    parts = {
        "normalizer": {"type": "NFC"} if split == _QWEN2 else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {**bytes_, "add_prefix_space": True, "use_regex": True},
    }
    return parts, name in _WHOLE_WORDS
