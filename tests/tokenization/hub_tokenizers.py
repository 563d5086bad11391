"""Small tokenizers in the forms that conversions of the real ones have."""

import json
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

_TEXT = """\
The keeper wrote that 1,024 birds had left the valley in 1987, and 365 came back.
She put the amber lantern on the table; nobody (not even her brother) asked why.
"Which code belongs to the heron?" he said. It's not in the book, we'll have to look.
An article may hold the answer to the problem, or a memory of what was read before.
Read the section carefully, update the memory, then answer the problem in full.
the then there them this that with within without, and other words of one's own.
"""
_LINES = _TEXT.splitlines()
_MARKUP = "<section>\n{}\n</section>\n\n  \n\n"  # so that white space has merges too
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Token = tuple[str, bool]  # content, special


def _trained(
    pre_tokenizer, alphabet, texts: list[str]
) -> tuple[list[str], list[list[str]]]:
    """(entries, merges) that byte pairs of some texts give."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 260,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return list(model["vocab"]), [list(merge) for merge in model["merges"]]


def _added(content: str, id_: int, special: bool, **flags) -> dict[str, Any]:
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **options, "special": special, **flags}


def _file(entries, merges, added, **parts) -> dict[str, Any]:
    """A tokenizer.json; added tokens of the base vocabulary keep their ids there."""
    vocab = {entry: i for i, entry in enumerate(entries)}
    listed = []
    for content, special in added:
        id_ = vocab.get(content, len(vocab) + len([t for t in listed if t["new"]]))
        listed.append(_added(content, id_, special) | {"new": content not in vocab})
    for token in listed:
        del token["new"]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
        **parts.pop("model", {}),
    }
    keys = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor")
    return {
        "version": "1.0",
        **dict.fromkeys(keys),
        "added_tokens": sorted(listed, key=lambda token: token["id"]),
        **parts,
        "model": model,
    }


def state(part) -> dict[str, Any]:
    return json.loads(part.__getstate__())


def byte_level(added: list[Token], split, *, first=(), normalizer=None, **model):
    """As GPT-2's descendants have it: bytes, merges, added tokens behind or before."""
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    parts = [bytes_]
    if split is not None:
        parts = [pre_tokenizers.Split(Regex(split), "isolated"), bytes_]
    if not first or split is not None:
        pre_tokenizer = pre_tokenizers.Sequence(parts)
    else:  # SmolLM
        digits = pre_tokenizers.Digits(individual_digits=True)
        pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [_TEXT, *map(_MARKUP.format, _LINES)]
    entries, merges = _trained(pre_tokenizer, alphabet, texts)
    return _file(
        [*(content for content, _ in first), *entries],
        merges,
        [*first, *added],
        normalizer=normalizer,
        pre_tokenizer=state(pre_tokenizer),
        post_processor=None,
        decoder=state(decoders.ByteLevel()),
        model=model,
    )


def sentencepiece(first: list[Token], added: list[Token] = (), **parts):
    """As converted from sentencepiece: pieces with a lower line, bytes to fall to."""
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    letters = sorted({c for c in _TEXT if c > " "} | {"▁"})
    pieces, merges = _trained(metaspace, letters, _LINES)  # no line breaks
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    joined = [left + right for left, right in merges]
    base = [piece for piece in pieces if piece not in set(joined)]
    entries = [*(content for content, _ in first), *bytes_, *joined, *base]
    return _file(
        list(dict.fromkeys(entries)),
        merges,
        [*first, *added],
        model={"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
        **parts,
    )


def special(*contents: str) -> list[Token]:
    return [(content, True) for content in contents]


def plain(*contents: str) -> list[Token]:
    return [(content, False) for content in contents]


def ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return {**tokenizer["model"]["vocab"], **added}


def role(content: str, **flags) -> dict[str, Any]:
    """A role as an object, the way special_tokens_map.json has it."""
    options = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **options, **flags}


def decoder_of(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """added_tokens_decoder of tokenizer_config.json."""
    return {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"}
        for token in tokenizer["added_tokens"]
    }


STRIPPING_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
