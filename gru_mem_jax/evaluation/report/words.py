"""Names of modes and contexts as a reader sees them, and text that may be hostile."""

import re
from collections.abc import Mapping

# Colours of Okabe and Ito's palette, and two as far from these as they are from one
# another: distinct for the colour-blind. The page has a second one of each for a dark
# background (base.css).
# Names are the paper's (arXiv 2602.10560): EG is the exit gate.
MODE_STYLES = {
    "memagent": ("#D55E00", "MemAgent"),
    "without_exit_gate": ("#0072B2", "GRU-Mem w/o EG"),
    "with_exit_gate": ("#009E73", "GRU-Mem w EG"),
    "reread": ("#6B1E4F", "GRU-Mem reread"),
    "parallel": ("#8A2BE2", "GRU-Mem parallel"),
    "whole_text": ("#CC79A7", "whole text"),
    "bm25": ("#9C7A00", "BM25"),
    "question_alone": ("#707070", "question alone"),
}
MODE_MEANINGS = {
    "memagent": "no gates: every turn writes the memory, every chunk is read",
    "without_exit_gate": "the update gate is obeyed, every chunk is read",
    "with_exit_gate": "both gates are obeyed",
    "reread": "the update gate is obeyed, every chunk is read, and again until a pass "
    "changes nothing",
    "parallel": "every chunk against one memory at once; those with an open gate are "
    "merged in order, until a pass changes nothing",
    "whole_text": "one prompt with the whole text, cut in the middle to the window",
    "bm25": "one prompt with the passages that BM25 ranks first",
    "question_alone": "one prompt without any text",
}
_MORE_COLORS = ("#56B4E9", "#7B5EA7", "#A6761D", "#3B7A57")
PLACEMENTS = {
    "uniform": "evidence anywhere",
    "first_20": "evidence in the first 20%",
    "last_20": "evidence in the last 20%",
    "spread": "evidence spread",
}
# What reorders or hides text, or cannot be written; line breaks and tabs may stay.
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def mode_style(mode: str) -> tuple[str, str]:
    """(colour, name) of a mode, also of one that is not listed here."""
    if mode in MODE_STYLES:
        return MODE_STYLES[mode]
    color = _MORE_COLORS[sum(map(ord, mode)) % len(_MORE_COLORS)]
    return color, visible(mode.replace("_", " "))


def context_title(labels: Mapping[str, str | int]) -> str:
    """A set's labels in words: "7K, evidence in the first 20%"; empty without any."""
    words = []
    length, chunks = labels.get("length"), labels.get("num_chunks")
    if length is not None:
        words.append(str(length))
    if chunks is not None and str(length) != f"{chunks} chunks":
        words.append(f"{chunks} chunks")
    if (placement := labels.get("placement")) is not None:
        words.append(PLACEMENTS.get(str(placement), str(placement)))
    if (gap := labels.get("gap")) is not None:
        words.append(f"gap {gap}")
    if (attack := labels.get("attack")) is not None:
        words.append(f"attack {attack}")
    known = {"length", "num_chunks", "placement", "gap", "attack"}
    words += [f"{name} {label}" for name, label in labels.items() if name not in known]
    return ", ".join(words)


def visible(text: object) -> str:
    """Text with what reorders or hides it spelt out: ‹U+202E›."""
    return _ODD.sub(lambda found: f"‹U+{ord(found.group()):04X}›", str(text))
