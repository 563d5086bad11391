r"""The plain text of an answer around which a model has written TeX.

Models that are asked for a \boxed{} answer dress it as TeX: `\text{Ada Lovelace}`,
`50\%`, `New~York`. That is no part of the answer.
"""

import re

# Fonts and frames: what they hold stays.
_HOLDER = (
    r"text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)?|math(?:bf|it|rm|sf|tt|normal)|emph"
    r"|underline|boldsymbol|bm|operatorname\*?|[mhf]box|boxed|url"
    r"|textcolor\s*\{[^{}]*\}"
)
_SWITCH = (
    r"(?:bf|it|rm|sf|tt|em|bfseries|itshape|displaystyle|textstyle)(?![A-Za-z])\s*"
)
# A command has one backslash, or two where it went through JSON. `~` is a space but
# at the edge of a word, between digits (5~10) and in addresses and paths.
_TOKEN = re.compile(
    rf"""(?P<holder>\\{{1,2}}(?:{_HOLDER})\s*\{{|\{{\s*\\{{1,2}}{_SWITCH})
    |(?P<kept>://[^\s{{}}\\]*|(?<!\w)[A-Za-z]:\\[^\n{{}}]*|\\[{{}}])
    |(?P<nothing>\\{{1,2}}{_SWITCH}|\\{{1,2}}!)
    |(?P<space>\\{{1,2}}(?:[\ ,;:]|(?:quad|qquad|enspace|thinspace)(?![A-Za-z])\s*)
      |\\\\(?=\\[A-Za-z])
      |(?<=[\w.,;:)\]}}%])(?:(?<!\d)~|~(?!\d))(?=[\w$\\({{\[]))
    |\\{{1,2}}(?P<escaped>[%$&\#_])
    |\{{(?P<comma>,)\}}
    |(?P<brace>[{{}}])""",
    re.VERBOSE,
)
_MARK = re.compile(r"[\\~{$]")  # without one there is no token and no formula
_BLANKS = re.compile(" {2,}")
_FORMULA = re.compile(
    r"(\$\$?)(?P<dollars>(?:\\.|[^\\$])+)\1"
    r"|\\{1,2}\((?P<round>(?:(?!\\[()]).)+?)\\{1,2}\)"
    r"|\\{1,2}\[(?P<square>(?:(?!\\[\[\]]).)+?)\\{1,2}\]",
    re.DOTALL,
)


def plain_text(text: str) -> str:
    r"""What TeX shows of an answer, as plain text, stripped. Takes linear time.

    Replaced: fonts and frames (`\text{}`, `\textbf{}`, `{\bf }`, `\mathrm{}`,
    `\mbox{}`, `\boxed{}`, `\url{}`, ...) by what they hold, at any depth; `\%`, `\$`,
    `\&`, `\#`, `\_` by the sign; spaces (`~`, `\ `, `\,`, `\;`, `\:`, `\quad`) by a
    blank, one where several are, and `\!` by nothing; `{,}` by a comma; `$`, `$$`, `\(`
    and `\[` around the whole.

    Kept: mathematics (`\frac{1}{2}`, `x^{2}`, `\{1, 2\}`, `\left(`), commands that are
    not among these, a command whose brace is not closed, accents (`\'e`), a lone
    backslash, paths with a drive (`C:\_x`), the `~` of an address (`http://x.org/~ada`),
    of a range (5~10) and at the edge of a word.
    """
    text = text.strip()
    if not _MARK.search(text):
        return text
    if formula := _FORMULA.fullmatch(text):
        text = formula["dollars"] or formula["round"] or formula["square"]
    pieces: list[str] = []
    opened: list[int | None] = []  # where a holder stands in pieces; None for a brace
    end = 0
    for match in _TOKEN.finditer(text):
        pieces += text[end : match.start()], match.group()
        end = match.end()
        kind = match.lastgroup
        if kind == "holder":
            opened.append(len(pieces) - 1)
        elif match.group() == "{":
            opened.append(None)
        elif match.group() == "}":
            if opened and (start := opened.pop()) is not None:
                pieces[start] = pieces[-1] = ""
        elif kind in ("escaped", "comma"):
            pieces[-1] = match[kind]
        elif kind in ("nothing", "space"):
            pieces[-1] = " " if kind == "space" else ""
    plain = "".join(pieces) + text[end:]
    return (plain if plain == text else _BLANKS.sub(" ", plain)).strip()
