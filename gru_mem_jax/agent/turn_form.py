r"""The forms of constrained turns, and what their gates say.

A gated turn is what `parse` reads, its elements side by side in compact style and on
lines of their own in full style:

    <think>thought</think> <check>yes</check> <update>memory</update> <next>end</next>

where thought and memory are free, yes or no and end or continue are chosen, and a no
leaves nothing to write. An answer is \boxed{free}. MemAgent's memory turns have no
form. What the chat template has written of a reply is left out.
"""

import dataclasses
import math
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import CHECK_WORDS, NEXT_WORDS, TAGS, found_tags
from gru_mem_jax.agent.prompts import PromptBuilder, PromptKind
from gru_mem_jax.agent.requests import Completion, Request
from gru_mem_jax.errors import InputError, PolicyError, RunError
from gru_mem_jax.grammar.automaton import EXIT, UPDATE, Constraint, TokenGrammar, walk

if TYPE_CHECKING:
    from gru_mem_jax.agent.config import AgentConfig
    from gru_mem_jax.grammar.forms import Form

THOUGHT, MEMORY = 0, 1  # segments; an answer takes from the first
_CHOSEN = 3  # the tag behind which a gate's word comes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnForms:
    """The forms of one tokenizer, style and chat template.

    Attributes:
      grammar: with a start for "gated" and for "answer".
      tokens: most tokens of each that the form itself takes, stop id included.
      thinks: whether a gated turn has a thought left to write.
      closing: tokens of the tag that ends a memory, which take from its budget.
    """

    grammar: TokenGrammar
    tokens: Mapping[str, int]
    thinks: bool
    closing: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """How a constrained completion came about; all None of a free one.

    Attributes:
      supports: of each id: which of the grammar's sets it was drawn from; -1: forced.
      update_probability, exit_probability: P(yes) and P(end); None of an answer.
    """

    supports: tuple[int, ...] | None = None
    update_probability: float | None = None
    exit_probability: float | None = None


def turn_constraint(
    builder: PromptBuilder, config: "AgentConfig", kind: PromptKind
) -> Constraint | None:
    """The form that a turn is held to; None: it has none.

    Raises:
      InputError: completion_tokens leaves no room beside the form.
      PolicyError: the tokenizer cannot hold turns to a form.
    """
    if config.format == "free" or kind == "memagent":
        return None
    forms = turn_forms(builder)
    left = config.completion_tokens - forms.tokens[kind]
    budgets = (left, 1)
    thought = least = 0
    if kind == "gated":
        least = 1
        if forms.thinks:
            thought = config.thought_tokens or max(1, left // 4)
            least += config.thought_tokens or 1
        memory = min(left - thought, config.memory_tokens + forms.closing)
        budgets = (max(1, thought), memory)
    if left < max(1, least):
        raise InputError(
            f"completion_tokens is {config.completion_tokens}, but a constrained "
            f"{kind} turn needs at least {forms.tokens[kind] + max(1, least)}: its "
            f"form takes up to {forms.tokens[kind]}"
            + (f", its thought {least - 1}" if least > 1 else "")
            + "; raise completion_tokens"
        )
    return Constraint(
        grammar=forms.grammar,
        start=forms.grammar.starts[kind],
        budgets=budgets,
        thresholds=(config.update_threshold, config.exit_threshold),
    )


def follow(request: Request, completion: Completion) -> Said:
    """How the completion of a request came about.

    P(word) is exp(logprob) where the word was sampled, else 1 minus that.

    Raises:
      RunError: the completion does not have the form.
    """
    if (constraint := request.constraint) is None:
        return Said()
    ids = completion.ids
    if not ids or ids[-1] not in request.stop_ids:
        raise RunError(
            f"a constrained completion of {len(ids)} tokens has no end: the generator "
            "does not hold completions to a form"
        )
    try:
        steps = walk(constraint, ids)
    except RunError as error:
        raise RunError(
            f"{error}: the generator does not hold completions to a form"
        ) from None
    found: dict[int, float] = {}
    for step, logprob in zip(steps, completion.logprobs):
        if step.gate >= 0:
            chosen = min(1.0, math.exp(logprob))
            found[step.gate] = chosen if step.opens else 1 - chosen
    return Said(
        supports=tuple(step.support for step in steps),
        update_probability=found.get(UPDATE),
        exit_probability=found.get(EXIT),
    )


_lock = threading.Lock()
_made: "weakref.WeakKeyDictionary[Encoder, dict[tuple[str, str], TurnForms]]"
_made = weakref.WeakKeyDictionary()


def turn_forms(builder: PromptBuilder) -> TurnForms:
    """The forms of a builder's turns; made once for a tokenizer, style and template.

    Raises:
      PolicyError: the tokenizer cannot hold turns to a form.
    """
    with _lock:
        made = _made.setdefault(builder.encoder, {})
        key = (builder.config.style, builder.opened)
        if key not in made:
            made[key] = _make(builder)
        return made[key]


def _make(builder: PromptBuilder) -> TurnForms:
    from gru_mem_jax.grammar.compiling import (
        compile_forms,
        form_tokens,
        reached_segments,
    )

    encoder = builder.encoder
    forms = {"gated": _gated(builder), "answer": _answer(builder)}
    grammar = compile_forms(forms, TAGS, encoder)
    starts = grammar.starts
    return TurnForms(
        grammar=grammar,
        tokens={kind: form_tokens(grammar, start) for kind, start in starts.items()},
        thinks=THOUGHT in reached_segments(grammar, starts["gated"]),
        closing=len(encoder.encode_control("</update>")),
    )


def _gated(builder: PromptBuilder) -> "Form":
    from gru_mem_jax.grammar.forms import Choice, Free, Text

    between = "" if builder.config.style == "compact" else "\n"
    end: Form = (Text("</next>"),)
    last = (Text(f"{between}<next>"), Choice(EXIT, NEXT_WORDS, (end, end)))
    yes: Form = (Text("</check>" + between + "<update>"), Free("</update>", MEMORY))
    no: Form = (Text(f"</check>{between}<update></update>"), *last)
    form: Form = (
        Text("<think>"),
        Free("</think>", THOUGHT),
        Text(f"{between}<check>"),
        Choice(UPDATE, CHECK_WORDS, ((*yes, *last), no)),
    )
    written = len(found_tags(builder.opened))
    if written > _CHOSEN:
        raise PolicyError(
            f"the chat template writes {builder.opened!r:.80}: nothing is left for the "
            "policy to check; change its template variables"
        )
    return form[written:]


def _answer(builder: PromptBuilder) -> "Form":
    from gru_mem_jax.grammar.forms import Box, Text

    return (Text(builder.left_to_say(r"\boxed{")), Box(THOUGHT))
