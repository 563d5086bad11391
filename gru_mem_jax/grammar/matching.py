"""Where a text stands in a tag, or in braces, after each token.

A free part of a completion ends with its closing tag and holds no other tag; a box ends
with the brace that closes it. Both are followed character by character; how a token
moves them depends on little of its text, which is what `trimmed` keeps.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_DEPTH = 8  # of braces within a box


class Read(NamedTuple):
    """What a text did.

    Attributes:
      held: what is open after it: the beginning of a tag, or braces.
      closed: the tag, or brace, that it completed first; None: none.
      rest: the text after that.
    """

    held: str
    closed: str | None = None
    rest: str = ""


class Tags:
    """The tags, each of which begins with its only "<" and ends with its only ">".

    What is held is the text since the last "<", if a tag begins so, else nothing.
    """

    def __init__(self, tags: Sequence[str]):
        self._tag = re.compile("|".join(map(re.escape, tags)))
        self._beginnings = {tag[:i] for tag in tags for i in range(1, len(tag))}
        self._ends = {tag[i:] for tag in tags for i in range(1, len(tag))}
        self._middles = {
            tag[i:j]
            for tag in tags
            for i in range(1, len(tag))
            for j in range(i, len(tag))
        }

    def read(self, held: str, text: str) -> Read:
        """Follows a text after what is held."""
        whole = held + text
        if (found := self._tag.search(whole)) is not None:
            return Read("", found.group(), whole[found.end() :])
        begun = whole[max(0, whole.rfind("<")) :]
        return Read(begun if begun in self._beginnings else "")

    def trimmed(self, text: str, follows: Iterable[str]) -> str:
        """A short text that does what `text` does, whatever is held.

        Args:
          text: of a token.
          follows: texts that may come after a closing tag; the token may hold the
            beginning of one.
        """
        head, opened, _ = text.partition("<")
        if not opened and head in self._middles:
            return head
        after = self.read("", text)
        if after.closed is not None:
            return text
        end = head.partition(">")[0] + ">"
        if end in self._ends and text.startswith(end):
            rest = text[len(end) :]
            if any(follow.startswith(rest) for follow in follows):
                return text
            return f"{end}.{after.held}"
        return after.held or "."


class Braces:
    """A box: what is held are the braces that are open in it."""

    def read(self, held: str, text: str) -> Read | None:
        """Follows a text after what is held; None: the braces are too deep."""
        depth = len(held)
        for place, character in enumerate(text):
            if character == "}" and depth == 0:
                return Read("", "}", text[place + 1 :])
            depth += (character == "{") - (character == "}")
            if depth > MAX_DEPTH:
                return None
        return Read("{" * depth)

    def trimmed(self, text: str) -> str:
        """A short text that does what `text` does, whatever is held."""
        return re.sub(r"[^{}]+", ".", text)
