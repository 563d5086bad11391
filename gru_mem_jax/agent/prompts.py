r"""Prompts as token segments: our template around the texts of users.

The tokenizer's chat template is rendered once for each kind of prompt, with
placeholders for question, memory and chunk, and tokenised with control tokens
recognised. Question, memory and chunk are inserted later as ids of plain text. They
are never rendered by the template nor tokenised with it, so that nothing written in a
document can change the structure of a prompt.

The MemAgent and answer wordings are MemAgent's own (arXiv 2507.02259), for its
checkpoints and for zero-shot use; the gated wording is ours. The compact style, for
policies trained on it, has tags instead of sentences and so hardly any overhead.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal

from gru_mem_jax.agent.encoding import PLACEHOLDER, Encoder
from gru_mem_jax.agent.parse import TAGS, found_tags
from gru_mem_jax.agent.requests import Prompt, Role, Segment
from gru_mem_jax.agent.text import check_text
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.records import check_choice, plain, plain_numbers

Order = Literal["memory_first", "chunk_first"]
Style = Literal["full", "compact"]
PromptKind = Literal["gated", "memagent", "answer"]
ORDERS: tuple[Order, ...] = ("memory_first", "chunk_first")
STYLES: tuple[Style, ...] = ("full", "compact")
PROMPT_KINDS: tuple[PromptKind, ...] = ("gated", "memagent", "answer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How prompts are laid out and worded.

    Attributes:
      order: "memory_first" (question, memory, chunk) is MemAgent's; "chunk_first"
        (chunk, question, memory) begins with what the rollouts of a question, and the
        questions on a document, have in common, so that its prefill can be shared.
      style: "full" sentences, or "compact" tags for policies trained on them.
      template_variables: further variables of the chat template, by name:
        {"enable_thinking": False}. Numbers, text, true, false or none.
    """

    order: Order = "memory_first"
    style: Style = "full"
    template_variables: dict[str, Any] = dataclasses.field(
        default_factory=dict, hash=False
    )

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("order", self.order, ORDERS)
        check_choice("style", self.style, STYLES)
        variables = check_variables("template_variables", self.template_variables)
        object.__setattr__(self, "template_variables", variables)


# {question}, {memory} and {chunk} are where texts are inserted.
_PROBLEM = "<problem> \n{question}\n</problem>\n\n"
_MEMORY = "<memory>\n{memory}\n</memory>\n\n"
_SECTION = "<section>\n{chunk}\n</section>\n\n"
_BLOCKS = {
    "memory_first": _PROBLEM + _MEMORY + _SECTION,
    "chunk_first": _SECTION + _PROBLEM + _MEMORY,
}
_MEMAGENT = (
    "You are presented with a problem, a section of an article that may contain the "
    "answer to the problem, and a previous memory. Please read the provided section "
    "carefully and update the memory with the new information that helps to answer "
    "the problem. Be sure to retain all relevant details from the previous memory "
    "while adding any new, useful information.\n\n"
)
_ANSWER = (
    "You are presented with a problem and a previous memory. Please answer the "
    "problem based on the previous memory and put the answer in \\boxed{}.\n\n"
    + _PROBLEM
    + _MEMORY
    + "Your answer:\n"
)
_GATED = (
    "You are presented with a problem, a section of an article that may contain "
    "information needed to answer the problem, and a previous memory. The article "
    "is read section by section; only the memory is kept from one section to the "
    "next. Read the section carefully, then decide whether the memory must be "
    "updated and whether to read on.\n\n"
)
_GATED_FORMAT = (
    "Reply with exactly these four elements, in this order and with nothing else:\n"
    "<think>what the section adds to the memory, and what is still missing</think>\n"
    "<check>yes if the section holds new information that helps to answer the "
    "problem, else no</check>\n"
    "<update>if yes, the whole new memory: all relevant details of the previous "
    "memory and the new information; if no, nothing</update>\n"
    "<next>end if the memory now suffices to answer the problem in full, else "
    "continue</next>\n\n"
    "Your reply:\n"
)
_COMPACT_BLOCKS = {
    "memory_first": "<problem>{question}</problem><memory>{memory}</memory>"
    "<section>{chunk}</section>",
    "chunk_first": "<section>{chunk}</section><problem>{question}</problem>"
    "<memory>{memory}</memory>",
}
_COMPACT_ANSWER = "<problem>{question}</problem><memory>{memory}</memory><answer>"
NO_MEMORY: dict[Style, str] = {"full": "No previous memory", "compact": "none"}


def wording(kind: PromptKind, config: PromptConfig) -> str:
    """The user message of a prompt, with {question}, {memory} and {chunk} in it."""
    if config.style == "compact":
        blocks = _COMPACT_BLOCKS[config.order]
        return {
            "gated": blocks + "<gated>",
            "memagent": blocks + "<rewrite>",
            "answer": _COMPACT_ANSWER,
        }[kind]
    blocks = _BLOCKS[config.order]
    return {
        "gated": _GATED + blocks + _GATED_FORMAT,
        "memagent": _MEMAGENT + blocks + "Updated memory:\n",
        "answer": _ANSWER,
    }[kind]


Template = tuple[Role | Segment, ...]  # roles of texts to insert, control segments


class PromptBuilder:
    r"""Makes prompts for one tokenizer, in one order and style.

    Attributes:
      opened: the part of the policy's reply that the chat template has written:
        "<think>\n" or "<think>\n\n</think>\n\n" of thinking models, else nothing. A
        turn's text begins with it.

    Raises:
      PolicyError: the chat template loses, repeats or reorders parts of the message.
    """

    def __init__(self, encoder: Encoder, config: PromptConfig | None = None):
        self.config = config or PromptConfig()
        self.encoder = encoder
        self._templates = {
            kind: self.template(wording(kind, self.config)) for kind in PROMPT_KINDS
        }
        self.opened = _opened(encoder, self.config.template_variables)
        self._no_memory = self.encode_content(NO_MEMORY[self.config.style])

    def lead(self, text: str) -> str:
        """What is put before an inserted question or memory: a space, or nothing.

        Compact prompts have a space, so that the first word has the token that it has
        within a text.
        """
        compact = self.config.style == "compact"
        return " " if compact and text and not text[0].isspace() else ""

    def encode_content(self, text: str) -> tuple[int, ...]:
        """Ids of a question or memory as prompts show it, without control ids."""
        return tuple(self.encoder.encode(self.lead(text) + text))

    def left_to_say(self, reply: str) -> str:
        """The part of a whole reply that comes after `opened`.

        A thought that the template has closed is left out; one that it has only opened
        is closed at once if the reply has none.
        """
        tags = found_tags(self.opened)
        if not tags:
            return reply
        if found_tags(reply)[: len(tags)] == tags:
            return reply.partition(tags[-1])[2]
        closing = TAGS[len(tags)] if len(tags) % 2 else ""
        return closing + reply

    def overhead_tokens(self, kind: PromptKind) -> int:
        """Prompt tokens other than question, memory and chunk."""
        return template_tokens(self._templates[kind])

    def no_memory_tokens(self) -> int:
        """Tokens that stand for an empty memory."""
        return len(self._no_memory)

    def gated(
        self,
        question_ids: tuple[int, ...],
        memory_ids: tuple[int, ...],
        chunk_ids: tuple[int, ...],
    ) -> Prompt:
        """A gated memory turn's prompt; empty memory_ids: no memory yet."""
        return self._fill("gated", question_ids, memory_ids, chunk_ids)

    def memagent(
        self,
        question_ids: tuple[int, ...],
        memory_ids: tuple[int, ...],
        chunk_ids: tuple[int, ...],
    ) -> Prompt:
        """A MemAgent turn's prompt; empty memory_ids: no memory yet."""
        return self._fill("memagent", question_ids, memory_ids, chunk_ids)

    def answer(
        self, question_ids: tuple[int, ...], memory_ids: tuple[int, ...]
    ) -> Prompt:
        """The answer turn's prompt; empty memory_ids: no memory."""
        return self._fill("answer", question_ids, memory_ids, ())

    def _fill(
        self,
        kind: PromptKind,
        question_ids: tuple[int, ...],
        memory_ids: tuple[int, ...],
        chunk_ids: tuple[int, ...],
    ) -> Prompt:
        contents: dict[Role, tuple[int, ...]] = {
            "question": question_ids,
            "memory": memory_ids or self._no_memory,
            "chunk": chunk_ids,
        }
        return fill(self._templates[kind], contents)

    def template(self, text: str) -> Template:
        """The parts of a prompt of another wording, for `fill`.

        Args:
          text: the user's message, with {question}, {memory} and {chunk}, any of them,
            once each, where texts are to be inserted.

        Raises:
          PolicyError: the chat template loses, repeats or reorders parts of it.
        """
        return _template(self.encoder, text, self.config.template_variables)


def fill(template: Template, contents: Mapping[Role, tuple[int, ...]]) -> Prompt:
    """The prompt of a template, with the ids of each role that it has."""
    return tuple(
        Segment(part, contents[part]) if isinstance(part, str) else part
        for part in template
    )


def template_tokens(template: Template) -> int:
    """Tokens of a template without what is inserted."""
    return sum(len(part.ids) for part in template if not isinstance(part, str))


def _render(encoder: Encoder, text: str, variables: Mapping[str, Any]) -> str:
    messages = [{"role": "user", "content": text}]
    # Without variables it is not passed: an encoder need not have the parameter.
    return encoder.render_chat(messages, *([variables] if variables else []))


def _opened(encoder: Encoder, variables: Mapping[str, Any]) -> str:
    """The beginning of a reply with which the chat template ends a prompt, or "".

    It begins with the first tag of the output format. Its tags must be the format's
    first, each once, without other control tokens: else they are in the user's message.
    """
    end = _render(encoder, PLACEHOLDER, variables).rpartition(PLACEHOLDER)[2]
    end = end[max(0, end.rfind(TAGS[0])) :]
    tags = found_tags(end)
    other = encoder.control_ids - encoder.format_ids
    if not tags or tags != TAGS[: len(tags)]:
        return ""
    return end if other.isdisjoint(encoder.encode_control(end)) else ""


def _template(encoder: Encoder, text: str, variables: Mapping[str, Any]) -> Template:
    """Chat template and wording as ids, with the roles of the texts between them."""
    roles: tuple[Role, ...] = ("question", "memory", "chunk")
    marks = {f"\ue000{role}\ue001": role for role in roles if f"{{{role}}}" in text}
    for mark, role in marks.items():
        text = text.replace(f"{{{role}}}", mark)
    rendered = _render(encoder, text, variables)
    for mark, role in marks.items():
        if (count := rendered.count(mark)) != 1:
            raise PolicyError(
                f"the chat template shows the {role} {count} times instead of once; "
                f"use a template that leaves the user's message as it is"
            )
    ordered = sorted(marks, key=rendered.index)
    if ordered != sorted(marks, key=text.index):
        raise PolicyError(
            f"the chat template reorders the user's message to "
            f"{', '.join(marks[mark] for mark in ordered)}; use one that keeps it"
        )
    parts: list[Role | Segment] = []
    for mark in ordered:
        before, rendered = rendered.split(mark)
        own, text = text.split(mark)
        ids = encoder.encode_control(before, start=not parts)
        parts += [Segment("control", tuple(ids), own), marks[mark]]
    parts.append(Segment("control", tuple(encoder.encode_control(rendered)), text))
    return tuple(part for part in parts if isinstance(part, str) or part.ids)


_RESERVED = ("messages", "add_generation_prompt", "tools", "documents")


def check_variables(name: str, value: object) -> dict[str, Any]:
    """A copy of the variables of a chat template, checked.

    Raises:
      InputError: it is not a mapping of names to JSON scalars, or a name is reserved.
    """
    if not isinstance(value, Mapping):
        raise InputError(
            f"{name} must map names to values, such as "
            f'{{"enable_thinking": false}}; got {value!r:.80}'
        )
    values = {key: plain(item) for key, item in value.items()}
    for key, item in values.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise InputError(f"{name}: {key!r:.80} cannot be the name of a variable")
        if key in _RESERVED:
            raise InputError(f"{name}: {key} is reserved: prompts set it themselves")
        scalar = isinstance(item, (str, int, float, bool, types.NoneType))
        if not scalar or (isinstance(item, float) and not math.isfinite(item)):
            raise InputError(
                f"{name}: {key} must be a finite number, text, true, false or none; "
                f"got {item!r:.80}"
            )
        if isinstance(item, str):
            check_text(item, f"{name}: {key}")
    return values
