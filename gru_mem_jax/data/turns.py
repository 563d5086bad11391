"""Supervised turns: the agent's prompts, and replies to learn.

A run's settings hold a `TurnMaker`, which makes a `TurnOracle` for a policy's tokenizer
and settings. `data.evidence_turns` has one for any labelled example.
"""

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Protocol

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import TAGS
from gru_mem_jax.agent.prompts import PROMPT_KINDS, PromptBuilder, PromptKind
from gru_mem_jax.agent.requests import Prompt, prompt_ids
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError

_TAG = re.compile(f"({'|'.join(TAGS)})")


@dataclasses.dataclass(frozen=True, slots=True)
class SupervisedTurn:
    """One conversation to learn; the loss is on the completion only.

    Attributes:
      kind: "gated", "memagent" or "answer".
      task: of the example.
      evidence: whether the chunk holds evidence; False of answer turns.
      prompt: token ids.
      completion: token ids, the stop id last.
    """

    kind: PromptKind
    task: str
    evidence: bool
    prompt: tuple[int, ...]
    completion: tuple[int, ...]

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
) -> SupervisedTurn:
    """A turn from its prompt and the whole text of its reply."""
    completion = completion_ids(builder, reply)
    return SupervisedTurn(kind, example.task, evidence, prompt_ids(prompt), completion)


def completion_ids(builder: PromptBuilder, reply: str) -> tuple[int, ...]:
    """The ids that a policy samples for a reply: tags of the format, text, a stop id.

    The part of the reply that the chat template opened is left out. Other control
    tokens that a reply quotes are encoded as text.
    """
    encoder = builder.encoder
    left = builder.left_to_say(reply)
    ids = encoder.encode_control(left)
    if not (encoder.control_ids - encoder.format_ids).isdisjoint(ids):
        ids = []
        for part in _TAG.split(left):
            encode = encoder.encode_control if part in TAGS else encoder.encode
            ids += encode(part)
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
