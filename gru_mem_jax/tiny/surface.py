"""The typesetting of a text: white space, line ends, case, marks around its sentences.

A surface is drawn for a whole document; its words are unchanged. For a tokenizer with
one token per word and mark, white space and case add no tokens; marks add one token per
character (`mark_tokens`).
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

# Marks before and after a sentence; # is a digit.
MARKS = (
    *(("• ", ""), ("- ", ""), ("* ", ""), ("— ", ""), ("> ", ""), ("#. ", "")),
    *(("“", "”"), ('"', '"'), ("‘", "’"), ("'", "'"), ("(", ")"), ("[", "]")),
    *(("**", "**"), ("(#) ", ""), ("<p>", "</p>"), ("<li>", "</li>"), ("", "<br>")),
    *(("", ""), ("", "")),
)
# Marks around a key or a value.
WORD_MARKS = ("“”", '""', "‘’", "''", "**", "``", "()", ("**", "**"))
# Replacements of a full stop.
STOPS = (".", ".", ".", "", "", "!", ";")
_NO_BREAK = "\N{NO-BREAK SPACE}"
_ODD_SPACES = (" ", "  ", "\n", "\r\n", "\r", "\t", _NO_BREAK, "\N{THIN SPACE}")
_CASES = ("plain", "upper", "title", "lower", "some_upper", "some_words")


class Surface(NamedTuple):
    """The typesetting of a document.

    Attributes:
      spaces: choices between the words of a sentence.
      odd: share of the sentences that use `spaces`; others have single spaces.
      gaps: choices between sentences.
      width: columns after which lines are wrapped; None: they are not.
      line_end: of wrapped lines.
      case: "plain", "upper", "title", "lower", "some_upper" sentences, "some_words" of
        a sentence in other case.
      marks: before and after each marked sentence.
      stop: in place of the full stop of each marked sentence.
      most_marked: largest number of marked sentences in a block.
      key_marks, value_marks: before and after each key and each value.
    """

    spaces: tuple[str, ...] = (" ",)
    odd: float = 1.0
    gaps: tuple[str, ...] = (" ",)
    width: int | None = None
    line_end: str = "\n"
    case: str = "plain"
    marks: tuple[str, str] = ("", "")
    stop: str = "."
    most_marked: int = 0
    key_marks: tuple[str, str] = ("", "")
    value_marks: tuple[str, str] = ("", "")

    @property
    def mark_tokens(self) -> int:
        """Tokens that marks add to a marked sentence."""
        return _tokens(self.marks) + len(self.stop) - 1

    @property
    def needle_tokens(self) -> int:
        """Tokens that marks of keys and values add to a needle."""
        return _tokens(self.key_marks) + _tokens(self.value_marks)


def _tokens(marks: Iterable[str]) -> int:
    """One token per character; two asterisks (bold) are one."""
    return sum(len(mark.replace(" ", "").replace("**", "*")) for mark in marks)


class Sentence(NamedTuple):
    """A sentence of a document: its words with single spaces, its full stop."""

    text: str
    is_evidence: bool
    is_marked: bool = False


PLAIN = Surface()


def draw(rng: random.Random) -> Surface:
    """A random surface that differs from `PLAIN` in one or several ways."""
    end = rng.choice(("\n", "\n", "\r\n"))
    layouts: tuple[dict, ...] = (
        {},
        {"width": rng.randint(20, 60), "line_end": end},
        {"width": rng.randint(60, 100), "line_end": end},
        {"gaps": (end,)},
        {"gaps": (" ", "  ", end, 2 * end, end + "\t", end + "    ")},
        {"spaces": (rng.choice((" ", "  ")),), "gaps": ("  ",)},
        {"spaces": (_NO_BREAK,), "gaps": (" ", _NO_BREAK), "odd": 0.3},
        {"spaces": (_NO_BREAK,), "gaps": (" ", _NO_BREAK)},
        {"spaces": _ODD_SPACES, "odd": 0.3},
        {"spaces": _ODD_SPACES, "gaps": _ODD_SPACES},
    )
    surface = Surface(
        **rng.choice(layouts), case=rng.choices(_CASES, (4, 2, 2, 1, 1, 1))[0]
    )
    if rng.random() < 0.25:
        before, after = rng.choice(WORD_MARKS)
        places = rng.choice((("key",), ("value",), ("key", "value")))
        around = {f"{place}_marks": (before, after) for place in places}
        surface = surface._replace(**around)
    if rng.random() < 0.4:
        return surface
    return surface._replace(
        marks=rng.choice(MARKS),
        stop=rng.choice(STOPS),
        most_marked=rng.choice((1, 2, 4, 8)),
    )


def lay_out(
    sentences: Iterable[Sentence], surface: Surface, rng: random.Random
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Joins sentences to a document.

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
        text = sentence.text
        if sentence.is_marked:
            text = text[:-1] + surface.stop
        first, *rest = _cased(text, surface.case, rng).split(" ")
        if parts:
            put_space(_one_of(surface.gaps, rng), before + first)
        put(before)
        start = offset
        put(first)
        is_odd = surface.odd == 1 or rng.random() < surface.odd
        spaces = surface.spaces if is_odd else PLAIN.spaces
        for word in rest:
            put_space(_one_of(spaces, rng), word)
            put(word)
        if sentence.is_evidence:
            spans.append((start, offset))
        put(after)
    return "".join(parts), tuple(spans)


def vary_question(question: str, surface: Surface, rng: random.Random) -> str:
    """A question in the case of a surface, perhaps without its question mark."""
    if surface == PLAIN:
        return question
    text = _cased(question, surface.case, rng)
    if rng.random() < 0.25:
        text = text.removesuffix("?")
    return text + rng.choice(("", "", "", " ", "\n"))


def _one_of(choices: tuple[str, ...], rng: random.Random) -> str:
    return choices[0] if len(choices) == 1 else rng.choice(choices)


def _cased(text: str, case: str, rng: random.Random) -> str:
    if case == "upper" or (case == "some_upper" and rng.random() < 0.4):
        return text.upper()
    if case == "some_words":
        changes = (str.upper, str.title, str, str, str)
        return " ".join(rng.choice(changes)(word) for word in text.split(" "))
    if case == "title":
        return text.title()
    return text.lower() if case == "lower" else text
