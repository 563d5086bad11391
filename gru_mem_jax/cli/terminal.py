"""Output to terminals: safe text, plain notes, and when to use colour."""

import contextlib
import os
import re
import sys
import time
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# Escape sequences as terminals parse them: CSI, then the string sequences (OSC, DCS,
# SOS, PM, APC) with or without their end, then any other two-byte escape.
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Directional overrides and isolates reorder what a reader sees.
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Everything else in C0 and C1 but line feed and tab; lone surrogates can't be written.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def safe_text(text: str) -> str:
    """Text without what a terminal would obey; line breaks and tabs are kept.

    Documents, memory and answers are untrusted; JSON output keeps them exact.
    """
    text = text.replace("\r\n", "\n")
    return _CONTROL.sub("", _BIDI.sub("", _ESCAPE.sub("", text)))


def plain_line(text: str) -> str:
    """Safe text in one line."""
    return " ".join(safe_text(text).split())


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters, with an ellipsis if it was cut."""
    line = plain_line(text)
    if len(line) <= width:
        return line
    cut = line[: max(0, width - 1)]
    while cut and unicodedata.combining(line[len(cut)]):
        cut = cut[:-1]
    return cut.rstrip() + "…"


def prepare_streams() -> None:
    """Sets the encodings: UTF-8 into files and pipes; no encoding error anywhere."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or not hasattr(stream, "reconfigure"):
            continue
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def note(text: str) -> None:
    """One plain line on stderr; a closed stderr is ignored."""
    try:
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def wants_colour(stream) -> bool:
    """Whether `stream` is a terminal with colours and NO_COLOR is not set."""
    return (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def console(stream, pipe_width: int) -> "Console":
    """A console of rich: as wide as the terminal, in a pipe of `pipe_width`."""
    from rich.console import Console

    return Console(
        file=stream,
        no_color=not wants_colour(stream),
        width=None if stream.isatty() else pipe_width,
        highlight=False,
    )


def is_live(stream) -> bool:
    """Whether a view that redraws itself can be shown on `stream`."""
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM") not in ("dumb", None, "")
    )


def progress_bar(counted: str = "", beside: int = 0) -> "Progress":
    """Bars on stderr, with description, counts and the time; hidden where none can be.

    Args:
      counted: a template of rich that stands behind the counts.
      beside: columns of the screen that a description must leave to the rest; 0: it may
        be of any length.
    """
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    screen = Console(stderr=True, no_color=not wants_colour(sys.stderr))
    width = max(16, screen.width - beside) if beside else None
    column = Column(no_wrap=True, max_width=width)
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, table_column=column),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        *([progress.TextColumn(counted)] if counted else []),
        progress.TimeElapsedColumn(),
        console=screen,
        disable=not is_live(sys.stderr),
    )


class EachMinute:
    """In the place of a bar where none can be: a line on stderr a minute, at most.

    Args:
      seconds: between two lines, and before the first.
    """

    def __init__(self, seconds: float = 60.0):
        self._seconds, self._began = seconds, time.monotonic()
        self._said = self._began

    def note(self, text: str) -> None:
        """Says it with the seconds so far, if it is time and there is no bar."""
        now = time.monotonic()
        if now - self._said >= self._seconds and not is_live(sys.stderr):
            self._said = now
            note(f"{plain_line(text)}, {now - self._began:.0f} s")


def silence(stream) -> None:
    """Redirects a stream without a reader to the null device: no error at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
