"""Tokenizers in which control tokens hide in more places than one."""

from typing import Any

from gru_mem_jax.tokenization import TextTokenizer

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + (m.role if m.role == 'user' else 'model') + '\n' "
    "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}### {{ m.role }}: [SEP]{{ m.content }}"
    "<|eot|>{% endfor %}{% if add_generation_prompt %}### assistant: [SEP]{% endif %}"
)


def _added(content: str, id_: int, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, "special": special, **flags}


def _file(added, model, **parts) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor")
    )
    return {"version": "1.0", **empty, "added_tokens": added, "model": model, **parts}


def gemma_like() -> dict[str, Any]:
    """As Gemma: byte fallback, turn markers in the base vocabulary too, line breaks and
    runs of spaces as added tokens, one special token beyond the model's vocabulary."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    plain_added = ("\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "<h1>", "[multimodal]")
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = [chr(c) for c in range(33, 127)] + ["▁", "é"]
    words = ["th", "the", "▁the", "▁t", "<s"]
    entries = dict.fromkeys([*special, *plain_added, *bytes_, *letters, *words])
    vocab = {entry: i for i, entry in enumerate(entries)}
    # A merge that would build a control token of the base vocabulary from text.
    vocab["<start_of_turn"] = len(vocab)
    merges = [["t", "h"], ["th", "e"], ["▁", "t"], ["▁", "the"], ["<", "s"]]
    merges += [[a, b] for a, b in _chain("<start_of_turn>", vocab)]
    added = [_added(t, vocab[t], True) for t in special]
    added += [_added(t, vocab[t], False) for t in plain_added]
    added.append(_added("<image_soft_token>", len(vocab), True))
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }
    return _file(
        added,
        model,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
    )


def _chain(token: str, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that build a token from its characters, left to right."""
    for i in range(2, len(token) + 1):
        vocab.setdefault(token[:i], len(vocab))
    return [(token[: i - 1], token[i - 1]) for i in range(2, len(token) + 1)]


def sentencepiece_like() -> dict[str, Any]:
    """As Llama 2: the space that begins a text is stripped, and a line break has no
    token but its byte's."""
    data = gemma_like()
    vocab = data["model"]["vocab"]
    for text in ("\n", "\n\n", "\n\n\n"):
        number = vocab.pop(text)
        vocab[f"unused{number}"] = number
    data["added_tokens"] = [t for t in data["added_tokens"] if "\n" not in t["content"]]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    data["decoder"]["decoders"].append(strip)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
    return {**data, "normalizer": None, "pre_tokenizer": {**metaspace, "split": False}}


def llama_like() -> dict[str, Any]:
    """Byte level, whole words taken from the vocabulary without merging (so that an
    entry that looks like a control token is found), added tokens that the template
    uses although nothing marks them, a normaliser that makes look-alikes real, and a
    post-processor that would add tokens and trim offsets."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {entry: i for i, entry in enumerate(sorted(ByteLevel.alphabet()))}
    for entry in ("Ġtext", "some", "<|bos|>", "<|eot|>", "Ġ<|eot|>", "[SEP]", "<|x|>"):
        vocab[entry] = len(vocab)
    added = [
        _added("<|bos|>", vocab["<|bos|>"], True),
        _added("<|eot|>", vocab["<|eot|>"], True),
        _added("###", len(vocab), False),  # used by the template
        _added("<tool_call>", len(vocab) + 1, False),
        _added("\n\n", len(vocab) + 2, False),  # text; its id follows control tokens
        _added("Kubernetes", len(vocab) + 3, False),  # text
    ]
    model = {
        "type": "BPE",
        "dropout": 0.5,  # a tokenizer that draws lots
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": vocab,
        "merges": [],
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": r"<\|\w+\|>|\[\w+\]| ?\w+|\s+|[^\s\w]+"},
        "behavior": "Isolated",
        "invert": False,
    }
    return _file(
        added,
        model,
        normalizer={"type": "NFKC"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [split, {**byte_level, "use_regex": False}],
        },
        post_processor=byte_level,
        decoder=byte_level,
    )


GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
LLAMA_TOKENS = {"bos_token": "<|bos|>", "eos_token": "<|eot|>"}


def gemma_like_encoder() -> TextTokenizer:
    """The encoder of the first."""
    return TextTokenizer(
        gemma_like(), template=GEMMA_TEMPLATE, special_tokens=GEMMA_TOKENS
    )


def sentencepiece_like_encoder() -> TextTokenizer:
    """The encoder of the one that is as the first, but strips a space."""
    return TextTokenizer(
        sentencepiece_like(), template=GEMMA_TEMPLATE, special_tokens=GEMMA_TOKENS
    )


def llama_like_encoder() -> TextTokenizer:
    """The encoder of the second."""
    return TextTokenizer(
        llama_like(), template=LLAMA_TEMPLATE, special_tokens=LLAMA_TOKENS
    )
