"""How a text is set: white space, line ends, case, and marks around its sentences.

A surface is drawn for a whole document; what it says is untouched. White space and
case cost a reader with one token per word and mark nothing, marks cost a token a
character (`mark_tokens`).
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

# What stands before and after a marked sentence; # is a digit.
MARKS = (
    *(("• ", ""), ("- ", ""), ("* ", ""), ("— ", ""), ("> ", ""), ("#. ", "")),
    *(("“", "”"), ('"', '"'), ("‘", "’"), ("'", "'"), ("(", ")"), ("[", "]")),
    *(("**", "**"), ("(#) ", ""), ("<p>", "</p>"), ("<li>", "</li>"), ("", "<br>")),
)
_NO_BREAK = "\N{NO-BREAK SPACE}"
_CASES = ("plain", "upper", "title", "lower", "some_upper")


class Surface(NamedTuple):
    """How a document is set.

    Attributes:
      space: between the words of a sentence; in `some` of them, a space in others.
      some: share of the sentences that have it.
      gaps: what may stand between sentences.
      width: columns after which a line ends; None: none does for that.
      line_end: what ends a line.
      case: "plain", "upper", "title", "lower", or "some_upper" sentences.
      marks: before and after each marked sentence.
      most_marked: so many sentences of a block are marked at most.
    """

    space: str
    some: float
    gaps: tuple[str, ...]
    width: int | None
    line_end: str
    case: str
    marks: tuple[str, str]
    most_marked: int

    @property
    def mark_tokens(self) -> int:
        """Tokens that the marks of a sentence take: one for each character."""
        return len("".join(self.marks).replace(" ", ""))


class Sentence(NamedTuple):
    """A sentence of a document: its words with single spaces, its full stop."""

    text: str
    is_evidence: bool
    is_marked: bool = False


PLAIN = Surface(" ", 1.0, (" ",), None, "\n", "plain", ("", ""), 0)


def draw(rng: random.Random) -> Surface:
    """A surface as people make them, in one or several ways unlike `PLAIN`."""
    end = rng.choice(("\n", "\n", "\r\n"))
    space, some, width = " ", 1.0, None
    layout = rng.randrange(8)
    gaps: tuple[str, ...] = (" ",)
    if layout in (0, 1):
        width = rng.randint(30, 100)
    elif layout == 2:
        gaps = (end,)
    elif layout == 3:
        gaps = (" ", "  ", end, 2 * end, end + "\t", end + "    ")
    elif layout == 4:
        gaps = ("  ",)
        space = rng.choice((" ", "  "))
    elif layout == 5:
        space, some = _NO_BREAK, rng.choice((0.3, 1.0))
        gaps = (" ", _NO_BREAK)
    case = rng.choices(_CASES, (5, 2, 1, 1, 1))[0]
    marks, most_marked = ("", ""), 0
    if rng.random() < 0.6:
        marks, most_marked = rng.choice(MARKS), rng.choice((1, 2, 4, 8))
    return Surface(space, some, gaps, width, end, case, marks, most_marked)


def lay_out(
    sentences: Iterable[Sentence], surface: Surface, rng: random.Random
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The document of some sentences.

    Returns:
      Its text, and (start, end) of each sentence that is evidence, in characters,
      without marks.
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    offset = column = 0

    def put(text: str) -> None:
        nonlocal offset, column
        parts.append(text)
        offset += len(text)
        line = text.rpartition("\n")
        column = len(line[2]) + (0 if line[1] else column)

    def put_space(space: str, word: str) -> None:
        full = surface.width and column + len(space) + len(word) > surface.width
        put(surface.line_end if full else space)

    for sentence in sentences:
        before, after = surface.marks if sentence.is_marked else ("", "")
        if "#" in before:
            before = before.replace("#", str(rng.randint(1, 9)))
        first, *rest = cased(sentence.text, surface.case, rng).split(" ")
        if parts:
            gap = surface.gaps[0]
            if len(surface.gaps) > 1:
                gap = rng.choice(surface.gaps)
            put_space(gap, before + first)
        put(before)
        start = offset
        put(first)
        space = surface.space
        if surface.some < 1 and rng.random() >= surface.some:
            space = " "
        for word in rest:
            put_space(space, word)
            put(word)
        if sentence.is_evidence:
            spans.append((start, offset))
        put(after)
    return "".join(parts), tuple(spans)


def cased(text: str, case: str, rng: random.Random) -> str:
    """A sentence, or a question, in the case of a surface."""
    if case == "upper" or (case == "some_upper" and rng.random() < 0.4):
        return text.upper()
    if case == "title":
        return text.title()
    return text.lower() if case == "lower" else text
