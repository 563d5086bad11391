"""Small files as several families have them, and what a directory consists of."""

import dataclasses
from typing import Any

import hub_tokenizers as hub


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A family's directory.

    Attributes:
      tokenizer: the contents of tokenizer.json.
      files: the other small files; objects are written as JSON.
      stops: the tokens at which transformers' `generate` stops.
      prefix: whether a text alone begins with a space that nobody wrote.
      opened: what of an assistant's text the template has begun.
    """

    tokenizer: dict[str, Any]
    files: dict[str, Any]
    stops: tuple[str, ...]
    prefix: bool = False
    opened: str = ""


def config(model_type: str, architecture: str, tokenizer, *, bos, eos, **changes):
    """A config.json of two layers, with a row for each token and some to spare."""
    ids = hub.ids(tokenizer)
    eos = [ids[e] for e in eos] if isinstance(eos, list) else ids[eos]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "vocab_size": 16 * -(-(max(ids.values()) + 1) // 16),
        "bos_token_id": ids[bos] if bos else None,
        "eos_token_id": eos,
        **changes,
    }


def generation(tokenizer, stops: list[str], **more) -> dict[str, Any]:
    ids = [hub.ids(tokenizer)[token] for token in stops]
    return {"eos_token_id": ids[0] if len(ids) == 1 else ids, **more}


def bos_first(tokenizer, bos: str) -> dict[str, Any]:
    """A post-processor that puts the first token before a text."""
    return {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {
            bos: {"id": bos, "ids": [hub.ids(tokenizer)[bos]], "tokens": [bos]}
        },
    }
