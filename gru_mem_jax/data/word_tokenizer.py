"""A tokenizer for tiny policies: one token per word of the synthetic data.

A Hugging Face fast tokenizer like any other: a byte-level BPE without merges, with
whole words as added tokens. A word that it does not know falls to bytes, so that any
text comes back as it went in. Beside a qwen2 config.json, transformers takes
vocabulary, merges and added tokens from tokenizer.json and nothing else of it: the
words must be found by those three alone.
"""

import json
import pathlib

from gru_mem_jax.data import words

PROMPT_TAGS = (
    "<problem>",
    "</problem>",
    "<memory>",
    "</memory>",
    "<section>",
    "</section>",
    "<gated>",
    "<rewrite>",
    "<answer>",
)
FORMAT_TAGS = (
    "<think>",
    "</think>",
    "<check>",
    "</check>",
    "<update>",
    "</update>",
    "<next>",
    "</next>",
)
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Words without a space before them: answers of the gates, roles, starts of documents.
_BARE = ("yes", "no", "continue", "end", "boxed", "system", "user", "assistant")
_COMMON = (
    *("is", "was", "that", "of", "not", "yet", "found", "none", "code", "codes", "for"),
    *("Which", "belongs", "belong", "to", "linked", "and", "then"),
)


def _spaced_words() -> list[str]:
    starts = [d.capitalize() for d in words.DETERMINERS]
    noise = " ".join(words.NOISE).replace(".", "").split()
    pools = (
        *(words.KEYS, words.VALUES, words.ORDINALS, _COMMON, starts, noise),
        *(words.DETERMINERS, words.ADJECTIVES, words.NOUNS, words.VERBS),
        *(words.ADVERBS, words.PREPOSITIONS),
    )
    return list(dict.fromkeys(w for pool in pools for w in pool))


def build():
    """The tokenizer.

    Returns:
      A `tokenizers.Tokenizer`: bytes first, then words, then the added tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    spaced = _spaced_words()
    bare = [*_BARE, *(w for w in spaced if w[0].isupper())]
    entries = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(f" {w}" for w in spaced),
        *bare,
    ]
    # A one-letter word is a byte as well.
    vocab = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in (END_OF_TEXT, START, END)]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) for t in (*PROMPT_TAGS, *FORMAT_TAGS)]
    )
    tokenizer.add_tokens([AddedToken(f" {w}", normalized=False) for w in spaced])
    # These would be found inside other words.
    tokenizer.add_tokens(
        [AddedToken(w, normalized=False, single_word=True) for w in bare if len(w) > 1]
    )
    return tokenizer


def save(directory: str | pathlib.Path) -> tuple[str, ...]:
    """Writes tokenizer.json and tokenizer_config.json into an existing directory.

    Returns:
      The names of the files.
    """
    directory = pathlib.Path(directory)
    build().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return ("tokenizer.json", "tokenizer_config.json")
