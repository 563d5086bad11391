"""TextTokenizer: a Hugging Face fast tokenizer behind the agent's Encoder protocol."""

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.agent.parse import TAGS
from gru_mem_jax.agent.text import check_text
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.tokenization import chat_template
from gru_mem_jax.tokenization.control import (
    control_tokens,
    template_literals,
    vocabulary,
    with_fixed_ids,
    without_tokens,
)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# The date that Llama's templates name where they are told none.
DEFAULT_DATE = "2024-07-26"
# What looking into a hostile JSON file may raise.
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_MARK = "\ue000content\ue001"


class TextTokenizer:
    """Encodes text without control tokens, and our own templates with them.

    Two `tokenizers.Tokenizer` objects, built once and never changed, so that threads
    may share it: one as it came, for templates and decoding; one in which the control
    tokens do not exist, for text. Ordinary text gives the same ids in both, and in
    transformers.

    Args:
      tokenizer: a parsed tokenizer.json, of a BPE or word-level model.
      template: source of the chat template; None if there is none.
      special_tokens: tokens by role: {"eos_token": "<|im_end|>", ...}.
      stop_ids: ids that end a completion, beside eos_token and whatever the chat
        template puts after an assistant's text.
      date: what the chat template is told that today is, YYYY-MM-DD; a fixed one, for
        else prompts change at midnight.

    Raises:
      PolicyError: any of it cannot be used; says what.
    """

    def __init__(
        self,
        tokenizer: Mapping[str, Any],
        *,
        template: str | None,
        special_tokens: Mapping[str, str],
        stop_ids: Iterable[int] = (),
        date: str = DEFAULT_DATE,
    ):
        self._template, self._date = template, date
        self._special_tokens = dict(special_tokens)
        try:
            data = with_fixed_ids(tokenizer)
            vocab = vocabulary(data)
        except _BROKEN as error:
            raise PolicyError(
                f"tokenizer.json is no tokenizer with a vocabulary of words or byte "
                f"pairs ({type(error).__name__}: {error}); save a fast tokenizer"
            ) from None
        self._whole = _build(data)
        rendered = self._probe()
        says = (rendered, *template_literals(template or ""))
        used = {t for text in says for t in self._whole.encode(text).tokens}
        named = self._special_tokens.values()
        control = control_tokens(data, named, used, rendered)
        self.control_ids = frozenset(vocab[text] for text in control)
        self.format_ids = frozenset(vocab[text] for text in control & set(TAGS))
        self._plain = _build(without_tokens(data, control))
        self._strings = frozenset(vocab.values())
        self.vocab_size = 1 + max(self._strings, default=-1)
        self.stop_ids = self._find_stop_ids(stop_ids)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, date: str = DEFAULT_DATE
    ) -> "TextTokenizer":
        """Loads tokenizer.json, tokenizer_config.json and what belongs to them.

        Args:
          directory: a path, or `hf://org/name@revision`.
          date: see the class.

        Raises:
          PolicyError: a file is missing or broken; names it.
        """
        files = open_policy_dir(directory)
        tokenizer = files.read_json("tokenizer.json")
        if tokenizer is None:
            raise PolicyError(
                f"{files.root}: no tokenizer.json; save it with AutoTokenizer."
                f"from_pretrained(...).save_pretrained(...)"
            )
        config = files.read_json("tokenizer_config.json") or {}
        special_tokens = files.read_json("special_tokens_map.json") or {}
        generation = files.read_json("generation_config.json") or {}
        return cls(
            _with_added_tokens(tokenizer, config),
            template=files.read_text("chat_template.jinja") or _template_in(config),
            special_tokens=_special_tokens({**special_tokens, **config}),
            stop_ids=_as_ids(generation.get("eos_token_id")),
            date=date,
        )

    @classmethod
    def from_transformers(
        cls, tokenizer: Any, *, date: str = DEFAULT_DATE
    ) -> "TextTokenizer":
        """Wraps a fast tokenizer of transformers, with its chat template.

        Raises:
          PolicyError: it is no fast tokenizer, or cannot be used.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PolicyError(
                f"{type(tokenizer).__name__} is no fast tokenizer of transformers"
            )
        return cls(
            json.loads(backend.to_str()),
            template=_template_in({"chat_template": tokenizer.chat_template}),
            special_tokens=_special_tokens(tokenizer.special_tokens_map),
            date=date,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a control id.

        Raises:
          InputError: a character has no token but the unknown one, which is control;
            or it is a lone surrogate.
        """
        return self._encode(text).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """As `encode`, with each token's (start, end) in characters of `text`."""
        encoding = self._encode(text)
        return encoding.ids, encoding.offsets

    def _encode(self, text: str) -> tokenizers.Encoding:
        check_text(text, "the text")
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids = encoding.ids
        if not self.control_ids.isdisjoint(ids):
            at = next(i for i, token in enumerate(ids) if token in self.control_ids)
            start, end = encoding.offsets[at]
            raise InputError(
                f"characters {start} to {end}, {text[start:end]!r:.40}, have no token "
                f"but {encoding.tokens[at]!r}, which is control; remove them"
            )
        return encoding

    def encode_control(self, text: str) -> list[int]:
        """Ids of our own template text; control tokens are recognised."""
        return self._whole.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included; ids without a string give U+FFFD."""
        if self._strings.issuperset(ids):
            return self._whole.decode(ids, skip_special_tokens=False)
        runs = itertools.groupby(ids, self._strings.__contains__)
        return "".join(
            self._whole.decode(list(run), skip_special_tokens=False)
            if known
            else REPLACEMENT * len(list(run))
            for known, run in runs
        )

    def render_chat(self, messages: list[dict[str, str]]) -> str:
        """The chat template's text for `messages`, with the generation prompt.

        Raises:
          PolicyError: there is no template, or it fails.
        """
        return self._render(messages, generate=True)

    def check_rows(self, rows: int) -> None:
        """Raises PolicyError if text or template may give an id beyond the embedding.

        Control tokens that nothing uses may lie beyond it (Gemma 3 text models have
        such a one): no text gives them.
        """
        ids = set(self._plain.get_vocab().values()) | set(self.stop_ids)
        if self._template is not None:
            ids.update(self.encode_control(self._probe()))
        if (largest := max(ids, default=0)) >= rows:
            raise PolicyError(
                f"the tokenizer gives ids up to {largest}, but the policy's embedding "
                f"has {rows} rows; tokenizer and weights do not belong together"
            )

    def _render(self, messages: list[dict[str, str]], generate: bool) -> str:
        if self._template is None:
            raise PolicyError(
                "the tokenizer has no chat template; add a chat_template.jinja, or "
                "chat_template in tokenizer_config.json"
            )
        variables = chat_template.variables(messages, self._special_tokens, generate)
        return chat_template.render(self._template, variables, self._date)

    def _probe(self) -> str:
        """What the template makes of a message with nothing in it but a mark."""
        if self._template is None:
            return ""
        return self._render([{"role": "user", "content": _MARK}], generate=True)

    def _find_stop_ids(self, given: Iterable[int]) -> tuple[int, ...]:
        stops = [i for i in given if i in self._strings]
        eos = self._whole.token_to_id(self._special_tokens.get("eos_token", ""))
        if eos is not None:
            stops.append(eos)
        if self._template is not None:
            stops += self._end_of_turn()
        if not stops:
            raise PolicyError(
                "the tokenizer has no token that ends a completion; set eos_token in "
                "tokenizer_config.json"
            )
        return tuple(dict.fromkeys(stops))

    def _end_of_turn(self) -> list[int]:
        """The control token that the template puts after an assistant's text."""
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _MARK},
        ]
        try:
            _, found, after = self._render(messages, generate=False).partition(_MARK)
        except PolicyError:  # some templates refuse it; then eos_token has to do
            return []
        ids = self.encode_control(after) if found else []
        # Looked up in the text, for an unknown token would be control as well.
        written = (i for i in ids if self._whole.id_to_token(i) in after)
        return [i for i in written if i in self.control_ids][:1]


def _build(data: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer, after a check that added tokens have the ids that they say."""
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises no narrower class
        raise PolicyError(f"tokenizer.json cannot be used: {error!s:.200}") from None
    for token in data["added_tokens"]:
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise PolicyError(
                f"tokenizer.json: added token {token['content']!r} has id "
                f"{token['id']} in its list, but {found} in the vocabulary"
            )
    return tokenizer


def _text_of(token: Any) -> str | None:
    """A token in a configuration is a string, or an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {k: _text_of(v) for k, v in config.items() if k.endswith("_token")}
    return {k: v for k, v in tokens.items() if v is not None}


def _template_in(config: Mapping[str, Any]) -> str | None:
    """The chat template of a configuration: a string, or several by name."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if type(t) is dict}
        template = named.get("default")
    elif isinstance(template, dict):
        template = template.get("default")
    if template is not None and not isinstance(template, str):
        raise PolicyError("tokenizer_config.json: chat_template must be text")
    return template


def _as_ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int]


def _with_added_tokens(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The tokenizer.json with the added tokens that only tokenizer_config.json has."""
    listed = config.get("added_tokens_decoder") or {}
    try:
        known = {token["content"] for token in tokenizer["added_tokens"]}
        extra = [
            {**_TOKEN_OPTIONS, **token, "id": int(id_)}
            for id_, token in listed.items()
            if token["content"] not in known
        ]
        tokens = sorted([*tokenizer["added_tokens"], *extra], key=lambda t: t["id"])
    except _BROKEN as error:
        raise PolicyError(
            f"tokenizer.json or added_tokens_decoder of tokenizer_config.json is "
            f"broken: {type(error).__name__}: {error}"
        ) from None
    return {**tokenizer, "added_tokens": tokens}


_TOKEN_OPTIONS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": False,
}
