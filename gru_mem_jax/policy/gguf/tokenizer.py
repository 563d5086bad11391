"""The tokenizer of a GGUF file as tokenizer.json and the small files beside it.

| `tokenizer.ggml.model` | how it is read |
|---|---|
| gpt2 | byte-level BPE; `tokenizer.ggml.pre` names how text is split first |
| llama | SentencePiece: merges are given, or follow from the scores (Gemma's from the order of the words) |

`control` tokens become special ones, `user_defined` ones are found whole in a text.
"""  # noqa: E501  (a table)

import json
import re
from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import SIZE_LIMITS, TEMPLATE_FOLDER
from gru_mem_jax.policy.gguf.config import Metadata
from gru_mem_jax.policy.gguf.header import GGUFHeader
from gru_mem_jax.policy.gguf.merges import derived_merges, parsed_merges
from gru_mem_jax.policy.gguf.splits import byte_level_parts

# Kinds of tokens: `gguf.TokenType`.
_CONTROL, _USER_DEFINED = 3, 4
_MAX_TOKEN = 1024
_TEMPLATE = "tokenizer.chat_template"
_TEMPLATE_NAME = re.compile(r"[\w-][\w.-]{0,60}", re.ASCII)
_SPACE = "▁"
_ROLES = ("bos", "eos", "unk", "pad")
_SAMPLING = {"temp": ("temperature", float), "top_k": ("top_k", int)}
_SAMPLING["top_p"] = ("top_p", float)


def tokenizer_files(header: GGUFHeader, config: PolicyConfig) -> dict[str, bytes]:
    """The files of a policy directory that decide ids, roles, template and sampling.

    Args:
      header: of the file.
      config: of its policy.

    Returns:
      Contents by name: tokenizer.json, tokenizer_config.json, generation_config.json;
      chat_template.jinja and further templates, where the file has any.

    Raises:
      PolicyError: no tokenizer, one of another type, or one that does not fit.
    """
    meta = Metadata(header)
    tokens = _tokens(meta, config.vocab_size)
    kind = meta.get("tokenizer.ggml.model", str)
    if kind == "gpt2":
        parts = _byte_level(meta, tokens)
    elif kind == "llama":
        parts = _sentence_piece(meta, tokens, config.family)
    else:
        raise PolicyError(
            f"{meta.path}: tokenizer {kind[:60]!r} is not supported: expected gpt2 "
            "(byte pairs) or llama (SentencePiece)"
        )
    roles = _roles(meta, tokens, config)
    vocab = parts["model"]["vocab"]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(meta, tokens, vocab, {*roles.values()}),
        "normalizer": None,
        "pre_tokenizer": None,
        **parts,
        "post_processor": _post_processor(meta, kind, tokens, roles),
    }
    content = _json(tokenizer, None)
    _check(meta, content)
    files = {
        "tokenizer.json": content,
        "tokenizer_config.json": _json(_config(meta, kind, tokens, roles, config)),
        "generation_config.json": _json(_generation(meta, config)),
        **_templates(meta),
    }
    for name, content in files.items():
        if len(content) > SIZE_LIMITS.get(name, SIZE_LIMITS["chat_template.jinja"]):
            raise PolicyError(f"{meta.path}: {name} would have {len(content)} bytes")
    return files


def _tokens(meta: Metadata, rows: int) -> list[str]:
    tokens = meta.get("tokenizer.ggml.tokens", list, None)
    if not tokens or meta.get("tokenizer.ggml.model", str, None) in (None, "none"):
        raise PolicyError(
            f"{meta.path}: holds no tokenizer (tokenizer.ggml.model and .tokens): take "
            "a file that was converted with it"
        )
    if len(tokens) > rows:
        raise PolicyError(
            f"{meta.path}: {len(tokens)} tokens, but the embedding has {rows} rows"
        )
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or len(token) > _MAX_TOKEN:
            raise PolicyError(
                f"{meta.path}: token {index}: expected text of up to {_MAX_TOKEN} "
                f"characters, got {str(token)[:40]!r}"
            )
        if seen.setdefault(token, index) != index:
            raise PolicyError(
                f"{meta.path}: tokens {seen[token]} and {index} are both {token[:60]!r}"
            )
    return tokens


def _types(meta: Metadata, tokens: list[str]) -> list[int]:
    types = meta.get("tokenizer.ggml.token_type", list, None) or [1] * len(tokens)
    if len(types) != len(tokens) or {*map(type, types)} != {int}:
        raise PolicyError(
            f"{meta.path}: tokenizer.ggml.token_type: expected {len(tokens)} whole "
            f"numbers, one for each token, got {len(types)} items"
        )
    return types


def _byte_level(meta: Metadata, tokens: list[str]) -> dict[str, Any]:
    architecture = meta.get("general.architecture", str)
    pre = meta.get("tokenizer.ggml.pre", str, None)
    if pre is None:  # files from before the key
        pre = "qwen2" if architecture.startswith("qwen") else "default"
    prefix = meta.get("tokenizer.ggml.add_space_prefix", bool, False)
    parts, whole_words = byte_level_parts(pre, prefix, meta.path)
    if architecture == "qwen2" and parts["normalizer"] is None:
        # transformers splits as Qwen2 does for every model of this type.
        raise PolicyError(
            f"{meta.path}: a qwen2 whose text is split as {pre!r} is not supported: it "
            "would be loaded with Qwen2's splitting"
        )
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = meta.get("tokenizer.ggml.merges", list)
    options = {"ignore_merges": whole_words}
    model = _bpe(vocab, parsed_merges(merges, vocab, meta.path), **options)
    return {**parts, "model": model}


def _sentence_piece(meta: Metadata, tokens: list[str], family: str) -> dict[str, Any]:
    gemma = family == "gemma3_text"
    if gemma:  # runs of spaces are stored as such
        tokens = [_SPACE * len(t) if t.isspace() and " " in t else t for t in tokens]
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise PolicyError(f"{meta.path}: two tokens are the same run of spaces")
    given = meta.get("tokenizer.ggml.merges", list, None)
    if given:
        merges = parsed_merges(given, vocab, meta.path)
    else:
        scores = None
        if not gemma:  # whose scores are not in the order of merging
            scores = meta.get("tokenizer.ggml.scores", list)
            if len(scores) != len(tokens) or {*map(type, scores)} != {float}:
                raise PolicyError(
                    f"{meta.path}: tokenizer.ggml.scores: expected {len(tokens)} "
                    f"numbers, one for each token, got {len(scores)} items"
                )
        merges = derived_merges(vocab, scores, meta.path)
    unknown = _unknown(meta, tokens)
    model = _bpe(vocab, merges, fuse_unk=True, byte_fallback=True, unk_token=unknown)
    replaced = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders = [replaced, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if gemma:
        pattern = {"String": " "}
        return {
            "normalizer": {"type": "Replace", "pattern": pattern, "content": _SPACE},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": pattern,
                "behavior": "MergedWithPrevious",
                "invert": False,
            },
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": model,
        }
    prefix = meta.get("tokenizer.ggml.add_space_prefix", bool, True)
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": _SPACE,
            "prepend_scheme": "first" if prefix else "never",
            "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _bpe(vocab: dict[str, int], merges: list, **options: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": vocab,
        "merges": merges,
    }


def _unknown(meta: Metadata, tokens: list[str]) -> str | None:
    piece = meta.get("tokenizer.ggml.model", str) == "llama"
    number = meta.get("tokenizer.ggml.unknown_token_id", int, 0 if piece else None)
    return None if number is None else _token(meta, tokens, number, "unknown")


def _token(meta: Metadata, tokens: list[str], number: int, role: str) -> str:
    if not 0 <= number < len(tokens):
        raise PolicyError(
            f"{meta.path}: the id {number} of the {role} token is none of the "
            f"{len(tokens)} tokens"
        )
    return tokens[number]


def _roles(meta: Metadata, tokens: list[str], config: PolicyConfig) -> dict[str, str]:
    ends = [_token(meta, tokens, i, "end") for i in config.eos_token_ids]
    found = {"eos": ends[0] if ends else None, "unk": _unknown(meta, tokens)}
    for name, number in (("bos", config.bos_token_id), ("pad", config.pad_token_id)):
        found[name] = None if number is None else _token(meta, tokens, number, name)
    return {name: found[name] for name in _ROLES if found[name] is not None}


def _added(
    meta: Metadata, tokens: list[str], vocab: dict[str, int], roles: set[str]
) -> list[dict[str, Any]]:
    """Tokens that are found whole, in the order of their ids."""
    types = _types(meta, tokens)
    added = []
    for index, (token, kind) in enumerate(zip(tokens, types)):
        special = kind == _CONTROL or token in roles
        if token in vocab and (special or kind == _USER_DEFINED):
            options = ("single_word", "lstrip", "rstrip", "normalized")
            added.append(
                {
                    "id": index,
                    "content": token,
                    **dict.fromkeys(options, False),
                    "special": special,
                }
            )
    return added


def _adds(meta: Metadata, kind: str) -> tuple[bool, bool]:
    """Whether a text gets the beginning's and the end's token."""
    start = "tokenizer.ggml.add_"
    begins = meta.get(f"{start}bos_token", bool, kind == "llama")
    return begins, meta.get(f"{start}eos_token", bool, False)


def _post_processor(
    meta: Metadata, kind: str, tokens: list[str], roles: dict[str, str]
) -> dict[str, Any] | None:
    begins, ends = _adds(meta, kind)
    before = [roles["bos"]] if begins and "bos" in roles else []
    after = [roles["eos"]] if ends and "eos" in roles else []
    if not before and not after:
        return None

    def around(name: str, type_id: int) -> list[dict[str, Any]]:
        def special(token: str) -> dict[str, Any]:
            return {"SpecialToken": {"id": token, "type_id": type_id}}

        text = {"Sequence": {"id": name, "type_id": type_id}}
        return [*map(special, before), text, *map(special, after)]

    named = {
        token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]}
        for token in {*before, *after}
    }
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": named,
    }


def _config(
    meta: Metadata,
    kind: str,
    tokens: list[str],
    roles: dict[str, str],
    config: PolicyConfig,
) -> dict[str, Any]:
    begins, ends = _adds(meta, kind)
    return {
        # tokenizer.json as it is, with no class's own splitting.
        "tokenizer_class": "PreTrainedTokenizerFast",
        # null too, or else the class that goes with the model has one of its own.
        **{f"{name}_token": roles.get(name) for name in _ROLES},
        "add_bos_token": begins and "bos" in roles,
        "add_eos_token": ends and "eos" in roles,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
    }


def _generation(meta: Metadata, config: PolicyConfig) -> dict[str, Any]:
    ids = config.eos_token_ids
    found: dict[str, Any] = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ids[0] if len(ids) == 1 else list(ids) or None,
        "pad_token_id": config.pad_token_id,
    }
    for name, (ours, type_) in _SAMPLING.items():
        found[ours] = meta.get(f"general.sampling.{name}", type_, None)
        if type_ is float and found[ours] is not None:
            found[ours] = float(f"{found[ours]:.7g}")
    if found["temperature"] is not None:
        # Hugging Face has no temperature 0.
        found["do_sample"] = found["temperature"] > 0
        found["temperature"] = found["temperature"] or None
    return {name: value for name, value in found.items() if value is not None}


def _templates(meta: Metadata) -> dict[str, bytes]:
    files = {}
    default = meta.get(_TEMPLATE, str, None)
    if default:
        files["chat_template.jinja"] = default.encode()
    for key in sorted(meta.values):
        if not key.startswith(f"{_TEMPLATE}."):
            continue
        name = key.removeprefix(f"{_TEMPLATE}.")
        if not _TEMPLATE_NAME.fullmatch(name):
            raise PolicyError(
                f"{meta.path}: the chat template's name {name[:60]!r} is refused: "
                "expected letters, digits, '_', '-' and '.'"
            )
        files[f"{TEMPLATE_FOLDER}/{name}.jinja"] = meta.get(key, str).encode()
    return files


def _check(meta: Metadata, content: bytes) -> None:
    """Raises PolicyError unless the tokenizers library can use it."""
    import tokenizers

    try:
        tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises no narrower class
        raise PolicyError(
            f"{meta.path}: its tokenizer cannot be used: {error!s:.200}"
        ) from None


def _json(value: dict[str, Any], indent: int | None = 2) -> bytes:
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()
