r"""The parser of a turn's text.

The text is what the chat template has written of the reply (`<think>`, of thinking
models) and the completion.

The grammar of a memory turn, with only white space around the elements:

    <think>any text</think>
    <check>yes|no</check>
    <update>any text</update>
    <next>continue|end</next>

"Any text" holds none of the eight tags themselves: a completion in which a tag
occurs twice, or inside an element, has no single reading and is malformed.
"""

import dataclasses
import re

from gru_mem_jax.agent.tex import plain_text

TAGS = tuple(
    f"<{slash}{name}>"
    for name in ("think", "check", "update", "next")
    for slash in ("", "/")
)
# Of each gate's element the word that opens the gate, and the one that does not.
CHECK_WORDS = ("yes", "no")
NEXT_WORDS = ("end", "continue")
_TAG = re.compile("|".join(TAGS))
_BOX_OR_BRACE = re.compile(r"\\(boxed|fbox)\s*\{|[{}]")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TurnOutput:
    """What a memory turn says.

    Attributes:
      update: the update gate U_t; False if malformed.
      exit: the exit gate E_t; False if malformed.
      memory: the candidate memory, stripped; empty if malformed.
      think: the reasoning, stripped; empty if malformed.
      well_formed: whether the completion follows the grammar.
      problem: why not, in a few words that are equal for equal faults; else None.
    """

    update: bool = False
    exit: bool = False
    memory: str = ""
    think: str = ""
    well_formed: bool = False
    problem: str | None = None


def found_tags(text: str) -> tuple[str, ...]:
    """The format's tags in a text, in order."""
    return tuple(_TAG.findall(text))


def parse_memory_turn(text: str) -> TurnOutput:
    """Parses a gated memory turn in linear time; never raises."""
    tags = found_tags(text)
    if tags != TAGS:
        return TurnOutput(problem=_tag_problem(tags))
    # What stands before, inside, between and after the elements, in turn.
    lead, think, gap1, check, gap2, update, gap3, exit_, tail = _TAG.split(text)
    if (lead + gap1 + gap2 + gap3 + tail).strip():
        return TurnOutput(problem="text outside the elements")
    if check not in CHECK_WORDS:
        return TurnOutput(problem="check is neither yes nor no")
    if exit_ not in NEXT_WORDS:
        return TurnOutput(problem="next is neither continue nor end")
    return TurnOutput(
        update=check == CHECK_WORDS[0],
        exit=exit_ == NEXT_WORDS[0],
        memory=update.strip(),
        think=think.strip(),
        well_formed=True,
    )


def _tag_problem(tags: tuple[str, ...]) -> str:
    for tag in TAGS:
        if (count := tags.count(tag)) != 1:
            return f"{tag} missing" if count == 0 else f"{tag} more than once"
    return "elements out of order"


def after_thought(text: str) -> str | None:
    """The text without the thought that it begins with; None if that has no end."""
    start, end = TAGS[:2]
    if not text.lstrip().startswith(start):
        return text
    _, closed, rest = text.partition(end)
    return rest if closed else None


def extract_boxed(text: str) -> str | None:
    r"""The content of the last box of a text, as `tex.plain_text`; None without a box.

    An empty box is an empty answer, not None.
    """
    box = last_box(text)
    return None if box is None else plain_text(box)


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{...} that is complete, stripped; else None.

    Braces are balanced, escaped ones too; white space may stand before the first; of
    nested boxes the innermost is the last. \fbox{...} counts where no \boxed{...} is
    complete. As in MemAgent's scripts a box in the reasoning counts if none follows;
    unlike there, a box that is not complete does not hide the one before it, a box
    needs braces, and the whole text is read, not its last 300 characters.
    """
    opened: list[tuple[str, int] | None] = []  # a box and its start; None for a brace
    last: dict[str, tuple[int, int]] = {}
    for match in _BOX_OR_BRACE.finditer(text):
        if match.group() != "}":
            opened.append((match[1], match.end()) if match[1] else None)
        elif opened and (box := opened.pop()) is not None:
            name, start = box
            last[name] = max(last.get(name, (start, 0)), (start, match.start()))
    span = last.get("boxed") or last.get("fbox")
    return None if span is None else text[slice(*span)].strip()
