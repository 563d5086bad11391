"""Supervised turns: the agent's prompts, and replies to learn.

A run's settings hold a `TurnMaker`, which makes a `TurnOracle` for a policy's tokenizer
and settings. `data.evidence_turns` has one for any labelled example.
"""

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import CHECK_WORDS, NEXT_WORDS, TAGS
from gru_mem_jax.agent.prompts import PROMPT_KINDS, PromptBuilder, PromptKind
from gru_mem_jax.agent.requests import Prompt, prompt_ids
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.grammar.automaton import EXIT, UPDATE
from gru_mem_jax.grammar.forms import encode_reply

_TAG = re.compile(f"({'|'.join(TAGS)})")
# Of each gate its element, the word that opens it and the one that closes it.
_GATES = ((UPDATE, "check", *CHECK_WORDS), (EXIT, "next", *NEXT_WORDS))


class GateToken(NamedTuple):
    """The token of a completion that decides a gate.

    It is the first one in which the ids of the reply differ from those of the reply
    with the gate's other word, whatever the tokenizer makes of the words.

    Attributes:
      gate: UPDATE or EXIT, of `grammar.automaton`.
      place: in the completion.
      opens, closes: the ids that open and close the gate there.
      open: whether it opens the gate.
    """

    gate: int
    place: int
    opens: int
    closes: int
    open: bool


@dataclasses.dataclass(frozen=True, slots=True)
class SupervisedTurn:
    """One conversation to learn; the loss is on the completion only.

    Attributes:
      kind: "gated", "memagent" or "answer".
      task: of the example.
      evidence: whether the chunk holds evidence; False of answer turns.
      prompt: token ids.
      completion: token ids, the stop id last.
      gates: the tokens that decide the gates; of gated turns only.
      closed: token ids of the reply to the same prompt if the chunk held no evidence,
        from its beginning to the token that closes the update gate; of gated turns
        only, and empty if the oracle does not say.
    """

    kind: PromptKind
    task: str
    evidence: bool
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    gates: tuple[GateToken, ...] = ()
    closed: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class TurnOracle(Protocol):
    """Makes the replies of a perfect reader."""

    def check(self, example: Example) -> None:
        """Refuses an example by what is known of it without reading its document.

        Called for every record of a file before the first step, so it must be quick.

        Raises:
          InputError: no turns can be made of the example; names it.
        """

    def turns(self, example: Example, rng: random.Random) -> list[SupervisedTurn]:
        """The supervised turns of one example.

        Args:
          example: of the source.
          rng: selects turns; equal states give equal turns.

        Raises:
          InputError: no turns can be made of the example; names it.
        """


class TurnMaker(Protocol):
    """Settings of an oracle: a frozen dataclass that gin binds."""

    def oracle(self, encoder: Encoder, agent: AgentConfig) -> TurnOracle:
        """The oracle for a policy.

        Args:
          encoder: the policy's tokenizer.
          agent: prompts, chunk size and budgets, as they will be at run time.
        """


def supervised_turn(
    builder: PromptBuilder,
    kind: PromptKind,
    example: Example,
    evidence: bool,
    prompt: Prompt,
    reply: str,
    closed_reply: str | None = None,
) -> SupervisedTurn:
    """A turn from its prompt and the whole text of its reply.

    Args:
      builder: of the prompt.
      kind: of the prompt.
      example: that the turn is of.
      evidence: whether the chunk holds evidence.
      prompt: of the turn.
      reply: whole text, also of what the chat template opened.
      closed_reply: the reply if the chunk held no evidence; None: `reply`, if that
        closes its update gate.
    """
    completion = completion_ids(builder, reply)
    gates, closed = (), ()
    if kind == "gated":
        gates = gate_tokens(builder, reply, completion)
        of_closed, ids = gates, completion
        if closed_reply is not None:
            ids = completion_ids(builder, closed_reply)
            of_closed = gate_tokens(builder, closed_reply, ids)
        closed = next(
            (ids[: g.place + 1] for g in of_closed if g.gate == UPDATE and not g.open),
            (),
        )
    return SupervisedTurn(
        *(kind, example.task, evidence, prompt_ids(prompt), completion),
        gates=gates,
        closed=closed,
    )


def gate_tokens(
    builder: PromptBuilder, reply: str, completion: Sequence[int]
) -> tuple[GateToken, ...]:
    """Where a gated reply decides its gates.

    Args:
      builder: of its prompt.
      reply: the whole text.
      completion: its `completion_ids`.

    Returns:
      The gates that the reply has, and that its ids tell apart.
    """
    found = []
    for gate, name, opening, closing in _GATES:
        element = re.search(f"<{name}>({opening}|{closing})</{name}>", reply)
        if element is None:
            continue
        is_open = element[1] == opening
        start, end = element.span(1)
        other = reply[:start] + (closing if is_open else opening) + reply[end:]
        pairs = enumerate(zip(completion, completion_ids(builder, other)))
        differ = ((place, *pair) for place, pair in pairs if pair[0] != pair[1])
        if (first := next(differ, None)) is not None:
            place, own, others = first
            opens, closes = (own, others) if is_open else (others, own)
            found.append(GateToken(gate, place, opens, closes, is_open))
    return tuple(found)


def completion_ids(builder: PromptBuilder, reply: str) -> tuple[int, ...]:
    """The ids that a policy samples for a reply: tags of the format, text, a stop id.

    The part of the reply that the chat template opened is left out. Other control
    tokens that a reply quotes are encoded as text.
    """
    encoder = builder.encoder
    ids = encode_reply(encoder, TAGS, builder.left_to_say(reply))
    return (*ids, encoder.stop_ids[0])


def break_tags(text: str) -> str:
    """Text for use inside a reply: the format's tags get a space, "< update>".

    A reply in which a tag occurs twice is malformed (`agent.parse`).
    """
    return _TAG.sub(lambda match: f"< {match[0][1:]}", text)


def chosen_chunks(
    evidence: Sequence[object], off_evidence: float, rng: random.Random
) -> set[int]:
    """All chunks with evidence, and some of the others, drawn without replacement.

    Args:
      evidence: of each chunk, true or false.
      off_evidence: how many others per chunk with evidence (as for one, if none has
        any).
      rng: of the draw.
    """
    with_evidence = [i for i, held in enumerate(evidence) if held]
    without = [i for i, held in enumerate(evidence) if not held]
    wanted = round(off_evidence * max(1, len(with_evidence)))
    return {*with_evidence, *rng.sample(without, min(wanted, len(without)))}


def check_kinds(kinds: object) -> None:
    """Raises InputError unless `kinds` is a tuple of some of the kinds of prompts."""
    if (
        not isinstance(kinds, tuple | list)
        or not kinds
        or not all(kind in PROMPT_KINDS for kind in kinds)
    ):
        raise InputError(
            f"kinds must name some of gated, memagent and answer, got {kinds!r}"
        )
