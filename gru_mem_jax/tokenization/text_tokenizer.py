"""TextTokenizer: a Hugging Face fast tokenizer behind the agent's Encoder protocol."""

import itertools
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from gru_mem_jax.agent.encoding import PLACEHOLDER, Span
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
    without_prefix,
    without_tokens,
)
from gru_mem_jax.tokenization.directory import (
    BROKEN,
    TokenizerParts,
    default_template,
    read_parts,
    special_tokens,
)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# The date that Llama's templates use by default.
DEFAULT_DATE = "2024-07-26"


class TextTokenizer:
    """Encodes text without control tokens, and our own templates with them.

    Holds `tokenizers.Tokenizer` objects that never change, so that threads may share
    it: one for templates and decoding; one without the control tokens, for text.
    Ordinary text gives the same ids in both, and in transformers; but text always
    stands within a prompt, so it never gets the space that some tokenizers (Mistral's
    first) put before a text.

    Args:
      tokenizer: a parsed tokenizer.json, of a BPE or word-level model.
      template: source of the chat template; None if there is none.
      special_tokens: tokens by role: {"eos_token": "<|im_end|>", ...}.
      control: further control tokens.
      stop_ids: ids that end a completion, besides eos_token and the token that the
        chat template puts after an assistant's text.
      date: today's date for the chat template, YYYY-MM-DD; fixed, since prompts would
        change at midnight.

    Attributes:
      content_parts: whether the template gets content as a list of parts, because it
        does not show text.

    Raises:
      PolicyError: names the part that cannot be used.
    """

    def __init__(
        self,
        tokenizer: Mapping[str, Any],
        *,
        template: str | None,
        special_tokens: Mapping[str, str],
        control: Iterable[str] = (),
        stop_ids: Iterable[int] = (),
        date: str = DEFAULT_DATE,
    ):
        self._template, self._date = template, date
        self._special_tokens = dict(special_tokens)
        try:
            data = with_fixed_ids(tokenizer)
            vocab = vocabulary(data)
        except BROKEN as error:
            raise PolicyError(
                f"tokenizer.json is not a tokenizer with a vocabulary of words or byte "
                f"pairs ({type(error).__name__}: {error}); save a fast tokenizer"
            ) from None
        self._whole = _build(data)
        inside = without_prefix(data)
        self._inside = self._whole if inside == data else _build(inside)
        self.content_parts = template is not None and self._needs_parts()
        rendered = self._probe()
        says = (rendered, *template_literals(template or ""))
        used = {t for text in says for t in self._whole.encode(text).tokens}
        named = (*self._special_tokens.values(), *control)
        control = control_tokens(data, named, used, rendered)
        self.control_ids = frozenset(vocab[text] for text in control)
        self.format_ids = frozenset(vocab[text] for text in control & set(TAGS))
        self._plain = _build(without_tokens(inside, control))
        self._added = frozenset(token["id"] for token in data["added_tokens"])
        self._strings = frozenset(vocab.values())
        self.vocab_size = 1 + max(self._strings, default=-1)
        self.missing_ids = frozenset(range(self.vocab_size)) - self._strings
        self.stop_ids = self._find_stop_ids(stop_ids)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, date: str = DEFAULT_DATE
    ) -> "TextTokenizer":
        """Loads tokenizer.json, tokenizer_config.json and the files beside them.

        Args:
          directory: a path, or `hf://org/name@revision`.
          date: see the class.

        Raises:
          PolicyError: a file is missing or broken; names it.
        """
        files = open_policy_dir(directory)
        parts = read_parts(files)
        for line in parts.warnings:
            warnings.warn(f"{files.root}: {line}", stacklevel=2)
        try:
            return cls.from_parts(parts, date=date)
        except PolicyError as error:
            raise PolicyError(f"{files.root}: {error}") from None

    @classmethod
    def from_parts(
        cls, parts: TokenizerParts, *, date: str = DEFAULT_DATE
    ) -> "TextTokenizer":
        """From the parts of `directory.read_parts`; errors as for the class."""
        return cls(
            parts.tokenizer,
            template=parts.template,
            special_tokens=parts.special_tokens,
            control=parts.control,
            stop_ids=parts.stop_ids,
            date=date,
        )

    @classmethod
    def from_transformers(
        cls, tokenizer: Any, *, date: str = DEFAULT_DATE
    ) -> "TextTokenizer":
        """Wraps a fast tokenizer of transformers, with its chat template.

        Raises:
          PolicyError: it is not a fast tokenizer, or cannot be used.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PolicyError(
                f"{type(tokenizer).__name__} is not a fast tokenizer of transformers"
            )
        return cls(
            json.loads(backend.to_str()),
            template=default_template(tokenizer.chat_template, "the tokenizer"),
            special_tokens=special_tokens(tokenizer.special_tokens_map),
            date=date,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a control id.

        Raises:
          InputError: a character has only the unknown token, which is control, or is
            a lone surrogate.
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

    def encode_control(self, text: str, *, start: bool = False) -> list[int]:
        """Ids of template text; control tokens are recognised.

        Args:
          text: part of a prompt.
          start: whether it is the prompt's first part; some tokenizers put a space
            before it.
        """
        if start or self._inside is self._whole:
            return self._whole.encode(text, add_special_tokens=False).ids
        # Up to the first added token the part continues the text before it; from there
        # on it is encoded as in a whole prompt.
        found = self._whole.encode(text, add_special_tokens=False)
        places = zip(found.ids, found.offsets)
        at = next((a for i, (a, _) in places if i in self._added), len(text))
        head = self._inside.encode(text[:at], add_special_tokens=False).ids
        if at == len(text):
            return head
        return head + self._whole.encode(text[at:], add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included; unknown ids give U+FFFD."""
        if self._strings.issuperset(ids):
            return self._whole.decode(ids, skip_special_tokens=False)
        runs = itertools.groupby(ids, self._strings.__contains__)
        return "".join(
            self._whole.decode(list(run), skip_special_tokens=False)
            if known
            else REPLACEMENT * len(list(run))
            for known, run in runs
        )

    def render_chat(
        self,
        messages: list[dict[str, str]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The chat template's text for `messages`, with the generation prompt.

        Args:
          messages: {"role": ..., "content": ...} each, content as text.
          variables: further ones for the template: {"enable_thinking": False}.

        Raises:
          PolicyError: there is no template, or it fails.
        """
        return self._render(messages, generate=True, variables=variables)

    def check_rows(self, rows: int) -> None:
        """Raises PolicyError if text or template may give an id beyond the embedding.

        Unused control tokens may lie beyond it (Gemma 3 text models have one).
        """
        ids = set(self._plain.get_vocab().values()) | set(self.stop_ids)
        if self._template is not None:
            ids.update(self.encode_control(self._probe()))
        if (largest := max(ids, default=0)) >= rows:
            raise PolicyError(
                f"the tokenizer gives ids up to {largest}, but the policy's embedding "
                f"has {rows} rows; tokenizer and weights do not belong together"
            )

    def _render(
        self,
        messages: list[dict[str, str]],
        generate: bool,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        if self._template is None:
            raise PolicyError(
                "the tokenizer has no chat template; add a chat_template.jinja, or "
                "chat_template in tokenizer_config.json"
            )
        if self.content_parts:
            messages = [_in_parts(message) for message in messages]
        given = chat_template.variables(
            messages, {**self._special_tokens, **(variables or {})}, generate
        )
        return chat_template.render(self._template, given, self._date)

    def _needs_parts(self) -> bool:
        """Whether the template shows content as a list of parts, and not as text."""
        self.content_parts = False
        try:
            if self._probe().count(PLACEHOLDER) == 1:
                return False
        except chat_template.TemplateError:
            pass  # reported if the other form fails as well
        self.content_parts = True
        try:
            return self._probe().count(PLACEHOLDER) == 1
        except chat_template.TemplateError:
            return False

    def _probe(self) -> str:
        """A message that holds only a mark, rendered by the template."""
        if self._template is None:
            return ""
        return self._render([{"role": "user", "content": PLACEHOLDER}], generate=True)

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
            {"role": "assistant", "content": PLACEHOLDER},
        ]
        try:
            _, found, after = self._render(messages, generate=False).partition(
                PLACEHOLDER
            )
        except PolicyError:  # some templates refuse it: eos_token alone ends turns
            return []
        ids = self.encode_control(after) if found else []
        # Looked up in the text, since an unknown token would be control as well.
        written = (i for i in ids if self._whole.id_to_token(i) in after)
        return [i for i in written if i in self.control_ids][:1]


def _in_parts(message: Mapping[str, str]) -> dict[str, Any]:
    """A message whose content is a list, as for multimodal models."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _build(data: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer; checks that added tokens have their listed ids."""
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
