"""A tokenizer for tiny policies: one token per word of the synthetic data.

A Hugging Face fast tokenizer: a byte-level BPE without merges, with whole words as
added tokens. With a qwen2 config.json, transformers reads only vocabulary, merges and
added tokens from tokenizer.json: words must be found by these three.

The number of tokens does not depend on typesetting. Words and marks include the white
space before them (none, a space, a line end, a no-break space, any run of these), so
that wrapped text is cut into the same chunks as plain text. A word is the token " oak"
after a space; "oak" elsewhere, "Oak" and "OAK" are further tokens, whose canonical one
is " oak" (`canonical_ids`): policies write only that. Unknown words are encoded as
bytes.

So white space is not decoded exactly: a token decodes to one space or none. All other
characters of any text are, and plain synthetic documents decode to themselves.
"""

import json
import pathlib
import string

import numpy as np

from gru_mem_jax.tiny import words

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

# Words without a space before them: answers of the gates, and roles.
_BARE = ("yes", "no", "continue", "end", "boxed", "system", "user", "assistant")
_COMMON = (
    *("is", "was", "that", "of", "not", "yet", "found", "none", "code", "codes", "for"),
    *("which", "belongs", "belong", "to", "linked", "and", "then"),
)
# Marks beyond ASCII before, after and around sentences, and invisible characters (soft
# hyphen, zero-width space, byte order mark). None of Latin-1: in a byte-level
# vocabulary those letters stand for bytes.
_MARKS = (*"‘’‚“”„‹›–—…•‣◦▪●→✓\u00ad\u200b\ufeff", "**")


def _lower_words() -> list[str]:
    """The words of the synthetic data, in lower case."""
    noise = " ".join(words.NOISE).replace(".", "").lower().split()
    pools = (
        *(words.KEYS, words.VALUES, words.ORDINALS, _COMMON, noise),
        *(words.DETERMINERS, words.ADJECTIVES, words.NOUNS, words.VERBS),
        *(words.ADVERBS, words.PREPOSITIONS),
    )
    return list(dict.fromkeys(w for pool in pools for w in pool))


def _starts() -> list[str]:
    """Words that begin a plain sentence, in the middle of a text."""
    noise = [sentence.split()[0] for sentence in words.NOISE]
    determiners = [d.capitalize() for d in words.DETERMINERS]
    return list(dict.fromkeys((*determiners, *noise, "Which")))


def _forms() -> dict[str, str]:
    """Each further form of a word in a text, to its canonical one."""
    starts = tuple(_starts())
    forms = {f" {start}": f" {start.lower()}" for start in starts}
    for word in _lower_words():
        for form in (word, word.capitalize(), word.upper()):
            # "no" is a gate's word, and a single letter is a byte.
            if form not in _BARE and len(form) > 1:
                forms[form] = f" {word}"
            if form.startswith(starts):  # else " A" would be found in " APRON"
                forms[f" {form}"] = f" {word}"
    return forms


def build():
    """The tokenizer.

    Returns:
      A `tokenizers.Tokenizer`: bytes first, then canonical words, their further forms,
      marks, then the tags.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    spaced = [f" {word}" for word in _lower_words()]
    forms = list(_forms())
    entries = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(*spaced, *_BARE, *forms, *_MARKS),
    ]
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
    # After a space, tokens with a leading space are found inside of longer words too.
    tokenizer.add_tokens(
        [
            AddedToken(w, normalized=False, lstrip=True, single_word=w[0] != " ")
            for w in (*spaced, *_BARE, *forms)
        ]
    )
    marks = (*_MARKS, *string.punctuation, *string.digits, "a", "A")
    tokenizer.add_tokens(
        [
            AddedToken(m, normalized=False, lstrip=True, single_word=m.isalpha())
            for m in marks
        ]
    )
    return tokenizer


def canonical_ids() -> np.ndarray:
    """int32 [V]: for each token the canonical token of its word; mostly itself."""
    vocab = build().get_vocab()
    ids = np.arange(len(vocab), dtype=np.int32)
    for form, canonical in _forms().items():
        ids[vocab[form]] = vocab[canonical]
    return ids


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
