"""The forms of completions, and the texts with which they begin.

A form is a sequence of parts: text that is forced, free text up to a closing tag, a
choice between two words, a box.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Union

from gru_mem_jax.grammar.token_texts import Tokenizer


class Text(NamedTuple):
    """Forced text."""

    text: str


class Free(NamedTuple):
    """Any text without a tag, up to its closing tag.

    Attributes:
      closing: the tag.
      segment: whose budget it takes from.
    """

    closing: str
    segment: int


class Box(NamedTuple):
    """Any text with balanced braces, at most MAX_DEPTH deep, and the closing brace."""

    segment: int
    closing: str = "}"


class Choice(NamedTuple):
    """One of two words; the last part of its form.

    Attributes:
      gate: which one is decided.
      words: the one that opens the gate, and the other.
      after: the rest of the form after each.
    """

    gate: int
    words: tuple[str, str]
    after: tuple["Form", "Form"]


Form = tuple[Union[Text, Free, Box, "Choice"], ...]


class Lead(NamedTuple):
    """A way through a form up to its next free part or its end.

    Attributes:
      text: that is said.
      decisions: the choices made on the way, and which word.
      rest: the form from the free part on; empty: it ends.
    """

    text: str
    decisions: tuple[tuple[Choice, int], ...]
    rest: Form


def leads(form: Form) -> Iterator[Lead]:
    text = ""
    for place, part in enumerate(form):
        if isinstance(part, Text):
            text += part.text
        elif isinstance(part, Choice):
            for i in range(2):
                for lead in leads((Text(part.words[i]), *part.after[i])):
                    made = ((part, i), *lead.decisions)
                    yield Lead(text + lead.text, made, lead.rest)
            return
        else:
            yield Lead(text, (), form[place:])
            return
    yield Lead(text, (), ())


def front(form: Form) -> str:
    """The text with which a form begins, up to a choice."""
    text = ""
    for part in form:
        if not isinstance(part, Text):
            break
        text += part.text
    return text


def free_parts(forms: Sequence[Form]) -> Iterator[tuple[Free | Box, Form]]:
    """All free parts of forms, and what follows each."""
    for form in forms:
        for place, part in enumerate(form):
            if isinstance(part, Choice):
                yield from free_parts(part.after)
            elif not isinstance(part, Text):
                yield part, form[place + 1 :]


def encode_reply(
    tokenizer: Tokenizer, tags: Sequence[str], text: str
) -> tuple[int, ...]:
    """Ids of a part of a reply, without control tokens other than the format's."""
    ids = tokenizer.encode_control(text)
    if (tokenizer.control_ids - tokenizer.format_ids).isdisjoint(ids):
        return tuple(ids)
    ids = []
    for part in split_tags(tags, text):
        ids += (tokenizer.encode_control if part in tags else tokenizer.encode)(part)
    return tuple(ids)


def split_tags(tags: Sequence[str], text: str) -> list[str]:
    """A text as tags and what stands between them."""
    return re.split(f"({'|'.join(map(re.escape, tags))})", text)
