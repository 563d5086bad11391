"""The wording of supervised turns: a function of a `Reading`, which users may replace.

    # my_words.py
    from gru_mem_jax.data.turn_wording import TurnWording

    def briefly(reading):
        notes = [f"- {sentence.strip()}" for sentence in reading.sentences]
        return TurnWording(" ".join(notes), "\\n".join([reading.memory, *notes]))

and in a gin file `evidence_turns.EvidenceTurns.wording = @my_words.briefly`. Those here
are bound alike: `@turn_wording.compact_wording`. They differ in where the gate is
decided. A thought that quotes evidence and nothing else decides it with its first
token; without a thought, the token of <check> does, from the prompt alone; behind a
thought that always quotes, that token judges what was quoted.
"""

import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from gru_mem_jax.data.sentences import split_sentences
from gru_mem_jax.data.turn_choice import likeness
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import shown

_QUOTED = 300  # characters, at most


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The texts of a turn, and the evidence in its section.

    Attributes:
      question: text.
      section: text of the chunk.
      memory: before the turn; empty at first.
      sentences: the pieces of evidence in the section to add, in order; empty off
        evidence.
      continues: whether the first of them continues the sentence at the memory's end,
        which a chunk border cut. It begins with a space if the text has one there.
      is_last: whether no evidence follows this section.
    """

    question: str
    section: str
    memory: str
    sentences: tuple[str, ...]
    continues: bool
    is_last: bool


class TurnWording(NamedTuple):
    """The wording of a reply.

    Attributes:
      thought: between <think> and </think>.
      memory: the whole new memory; ignored off evidence, where memory is unchanged.
    """

    thought: str
    memory: str


Wording = Callable[[Reading], TurnWording]


def full_wording(reading: Reading) -> TurnWording:
    """Whole sentences, and a memory with a line for each piece of evidence."""
    thought = "The section holds nothing new that helps to answer the problem."
    if reading.sentences:
        quoted = " ".join(f'"{sentence.strip()}"' for sentence in reading.sentences)
        thought = f"The section says: {quoted}"
    missing = "Nothing is missing." if reading.is_last else "More is needed."
    return TurnWording(f"{thought} {missing}", _longer_memory(reading, "\n"))


def compact_wording(reading: Reading) -> TurnWording:
    """The brief one: thought and memory have the evidence and nothing else, in a line.

    The thought quotes before the gate is decided, and is empty off evidence.
    """
    thought = " ".join(reading.sentences).strip()
    return TurnWording(thought, _longer_memory(reading, " "))


def quoting_wording(reading: Reading) -> TurnWording:
    """As `compact_wording`, and off evidence the thought quotes too.

    It quotes the sentence of the section that is the likest to the question
    (`turn_choice.likeness`; the first of several), cut to 300 characters at a space:
    the policy learns to find what may matter, then to judge it.
    """
    said = compact_wording(reading)
    if reading.sentences:
        return said
    sentences = [" ".join(each.split()) for each in split_sentences(reading.section)]
    alike = likeness(sentences, [reading.question])
    if not alike:
        return said
    likest = sentences[alike.index(max(alike))]
    return said._replace(thought=textwrap.shorten(likest, _QUOTED, placeholder=""))


def no_thought_wording(reading: Reading) -> TurnWording:
    """As `compact_wording`, with empty thoughts on evidence and off it."""
    return TurnWording("", _longer_memory(reading, " "))


def _longer_memory(reading: Reading, between: str) -> str:
    apart = reading.memory and not reading.continues
    new = between.join(reading.sentences)
    return reading.memory + (between if apart else "") + new


def check_wording(wording: object) -> None:
    """Raises InputError if `wording` cannot be called with a Reading."""
    try:
        inspect.signature(wording).bind(None)
    except ValueError:  # a built-in without a signature
        return
    except TypeError:
        raise InputError(
            f"wording must be a function of a Reading, got {shown(wording)}"
        ) from None


def call_wording(wording: Wording, reading: Reading) -> TurnWording:
    """The checked result of a wording.

    Raises:
      RunError: it is not two texts.
    """
    said = wording(reading)
    if (
        not isinstance(said, tuple)
        or len(said) != 2
        or not all(isinstance(text, str) for text in said)
    ):
        name = getattr(wording, "__name__", repr(wording))
        raise RunError(
            f"wording {name} must return a TurnWording of two texts, got {shown(said)}"
        )
    return TurnWording(*said)
