"""Oracle turns for synthetic examples: the replies of a perfect reader.

The oracle parses question and needles from the text, so that it works on any `Example`
with the wording of `synthetic`, whatever its white space and case; its replies are in
lower case, with single spaces. Memory has a slot of five words for
each thing asked, in the order of the question:

    K was x y z L was not yet found                  single_key, multi_key, multi_query
    first K x y z second K not yet found             multi_value: up to the first gap
    K was that of L L was not yet found              chain

so that one look shows what is missing, or gives the answer. The gated turn's thought
names the keys looked up, until one is found, and quotes it; it is empty once nothing is
missing. Off evidence the update is empty. MemAgent's turn writes
the same memory anew each time.

A turn depends on the chunk and the memory alone, in whatever order chunks are read: see
`new_facts`.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from gru_mem_jax.errors import InputError
from gru_mem_jax.tiny.words import ORDINALS

Fact = tuple[str, str]
Kind = Literal["single", "values", "queries", "chain"]
MISSING = "not yet found"

_NEEDLE = re.compile(
    r"\bThe\s+code\s+for\s+[^\w\s]*((\w+)[^\w\s]*\s+is\s+[^\w\s]*"
    r"(\w+\s+\w+\s+\w+))\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"which ([\w ]*?)codes? belongs? to ([\w ]+)\??")


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A parsed question: its kind, the keys, and the number of values."""

    kind: Kind
    keys: tuple[str, ...]
    count: int


def parse_question(question: str) -> Asked:
    """Parses a question of `synthetic`.

    Raises:
      InputError: the question has another wording.
    """
    match = _QUESTION.fullmatch(_plain(question))
    if match is None:
        raise InputError(
            f"the oracle parses only synthetic questions, got {question!r}"
        )
    how, keys = match.group(1).split(), tuple(match.group(2).split())
    if how == ["linked"]:
        return Asked("chain", keys, 1)
    if how:
        return Asked("values", keys, len(how))
    return Asked("queries" if len(keys) > 1 else "single", keys, len(keys))


def facts_in(text: str) -> tuple[Fact, ...]:
    """All (key, value) of the needles in a text, in order."""
    return tuple(fact for fact, _ in facts_with_spans(text))


def facts_with_spans(text: str) -> tuple[tuple[Fact, tuple[int, int]], ...]:
    """As `facts_in`, each with where its key begins and its value ends in the text."""
    matches = _NEEDLE.finditer(text)
    return tuple(((_plain(m[2]), _plain(m[3])), m.span(1)) for m in matches)


def _plain(text: str) -> str:
    """In lower case, with single spaces."""
    return " ".join(text.lower().split())


def is_complete(asked: Asked, found: Sequence[Fact]) -> bool:
    """Whether all facts that the question asks for are found."""
    return len(found) == (2 if asked.kind == "chain" else asked.count)


def new_facts(
    asked: Asked, found: Sequence[Fact], facts: Sequence[Fact]
) -> tuple[Fact, ...]:
    """What a chunk adds to a memory: what is asked for and not found yet.

    The needle of a chain is asked for once its link is found, or stands in the chunk.

    Args:
      asked: the parsed question.
      found: facts in memory before the turn.
      facts: of the chunk, in order of the text.
    """
    if asked.kind == "values":
        more = [f for f in facts if f[0] == asked.keys[0] and f not in found]
        return tuple(more[: asked.count - len(found)])
    wanted = set(asked.keys)
    if asked.kind == "chain":
        links = (_link(value) for key, value in (*found, *facts) if key in asked.keys)
        wanted |= {link for link in links if link}
    known = dict(found)
    return tuple(f for f in facts if f[0] in wanted and f[0] not in known)


def memory_text(asked: Asked, found: Sequence[Fact]) -> str:
    """The memory after finding `found`, in order of the text."""
    if asked.kind == "values":
        key = asked.keys[0]
        values = [value for _, value in found]
        if len(values) < asked.count:
            values.append(MISSING)
        return " ".join(f"{o} {key} {v}" for o, v in zip(ORDINALS, values))
    known = dict(found)
    slots = []
    for key in asked.keys:
        slots.append((key, known.get(key, MISSING)))
        link = _link(slots[-1][1])
        if link:
            slots.append((link, known.get(link, MISSING)))
    return " ".join(f"{key} was {value}" for key, value in slots)


def _link(value: str) -> str | None:
    return value.removeprefix("that of ") if value.startswith("that of ") else None


def thought(asked: Asked, found: Sequence[Fact], new: Sequence[Fact]) -> str:
    """The keys looked up, the found one quoted; empty once nothing is missing.

    Args:
      asked: the parsed question.
      found: facts in memory before the turn.
      new: facts that this chunk adds.
    """
    if not new and is_complete(asked, found):
        return ""
    fresh = dict(new)
    parts = []
    for key, target in zip(asked.keys, looked_up(asked, found), strict=True):
        parts.append(key if target == key else f"{key} that of {target}")
        if target in fresh:
            parts.append(f"is {fresh[target]}")
            break
    return " ".join(parts)


def looked_up(asked: Asked, found: Sequence[Fact]) -> tuple[str, ...]:
    """For each key of the question the one to look for, behind a known link."""
    known = dict(found) if asked.kind == "chain" else {}
    return tuple(_link(known.get(key, "")) or key for key in asked.keys)


def gated_turn(
    asked: Asked,
    found: Sequence[Fact],
    new: Sequence[Fact],
    *,
    says_update: bool | None = None,
    says_end: bool | None = None,
    claimed: Sequence[Fact] | None = None,
) -> str:
    """The gated agent's completion.

    Args:
      asked: the parsed question.
      found: facts in memory before the turn.
      new: facts that this chunk adds.
      says_update: the update gate, if it is to be wrong; a wrong `yes` writes the
        memory unchanged. None: right.
      says_end: the exit gate, if it is to be wrong. None: right.
      claimed: facts that the thought claims of this chunk, if they are to be wrong;
        the memory does not contain them. None: `new`.
    """
    after = (*found, *new)
    update = bool(new) if says_update is None else says_update
    end = is_complete(asked, after) if says_end is None else says_end
    candidate = f" {memory_text(asked, after)}" if update else ""
    reason = thought(asked, found, new if claimed is None else claimed)
    return (
        f"<think>{' ' if reason else ''}{reason}</think>"
        f"<check>{'yes' if update else 'no'}</check>"
        f"<update>{candidate}</update>"
        f"<next>{'end' if end else 'continue'}</next>"
    )


def memagent_turn(asked: Asked, found: Sequence[Fact], new: Sequence[Fact]) -> str:
    """MemAgent's completion: the whole memory, written anew."""
    return f" {memory_text(asked, (*found, *new))}"


def answer_turn(asked: Asked, found: Sequence[Fact]) -> str:
    """The answer agent's completion; missing values are named as missing."""
    if asked.kind == "queries":
        known = dict(found)
        values = [known.get(key, MISSING) for key in asked.keys]
    else:
        values = [value for _, value in found if _link(value) is None]
        if not is_complete(asked, found):
            values.append(MISSING)
    return f"\\boxed{{ {', '.join(values)}}}"
