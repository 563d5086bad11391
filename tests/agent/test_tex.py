"""Answers in TeX, and the text that they stand for."""

import pytest

from gru_mem_jax.agent.tex import plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        # Fonts and frames, at any depth, with one backslash or two.
        (r"\text{Ada Lovelace}", "Ada Lovelace"),
        (r"\textbf{yes}", "yes"),
        (r"\textit{\textbf{yes}, \emph{really}}", "yes, really"),
        (r"\text {Ada}", "Ada"),
        (r"\\text{Ada}", "Ada"),
        (r"\mathrm{NaCl}", "NaCl"),
        (r"\mathbf{v}+\boldsymbol{w}", "v+w"),
        (r"\operatorname{lcm}", "lcm"),
        (r"\mbox{a}\hbox{b}\fbox{c}\boxed{d}", "abcd"),
        (r"\underline{a} \textsc{b} \texttt{c}", "a b c"),
        (r"\textcolor{red}{yes}", "yes"),
        (r"\url{http://x.org/a\_b}", "http://x.org/a_b"),
        (r"10\text{ km}", "10 km"),
        (r"\text{a {b} c}", "a {b} c"),
        (r"{\bf yes}", "yes"),
        (r"{\it so} { \bfseries so}", "so so"),
        (r"\bf yes", "yes"),
        (r"\displaystyle 42", "42"),
        (r"\text{}", ""),
        # Signs.
        (r"50\%", "50%"),
        (r"\$5 million", "$5 million"),
        (r"AT\&T, \#1, a\_b", "AT&T, #1, a_b"),
        (r"50\\%", "50%"),
        # Spaces.
        ("New~York", "New York"),
        (r"Fig.~3, 10~km, 50\%~more", "Fig. 3, 10 km, 50% more"),
        (r"New\ York", "New York"),
        (r"10\,km \; a \: b", "10 km a b"),
        (r"\text{Ada } \text{ Lovelace}", "Ada Lovelace"),
        (r"\text{Ada}\\\text{Lovelace}", "Ada Lovelace"),
        (r"Ada \\ Lovelace", "Ada Lovelace"),
        (r"a\quad b\qquad c", "a b c"),
        (r"1\!000", "1000"),
        ("1{,}000", "1,000"),
        # A formula as a whole.
        ("$x$", "x"),
        ("$$ x^2 $$", "x^2"),
        (r"\(x\)", "x"),
        (r"\[ x \]", "x"),
        (r"\\(x\\)", "x"),
        (r"$\text{Ada}$", "Ada"),
        (r"$\$5$", "$5"),
        ("  Ada \n", "Ada"),
        (r"\ Ada\ Lovelace", "Ada Lovelace"),
    ],
)
def test_what_is_read(text, plain):
    assert plain_text(text) == plain
    assert plain_text(plain) == plain


@pytest.mark.parametrize(
    "text",
    [
        # No TeX.
        "",
        "Ada Lovelace",
        "Ada  Lovelace",
        "It cost $5, or $6.",
        "$5",
        "$",
        "$$",
        "50% & more #1 a_b",
        '{"a": {"b": 1}}',
        "{1,  2}",
        # Mathematics.
        r"\frac{1}{2}",
        r"\dfrac12",
        "x^{2}_{i}",
        r"\{1, 2\}",
        r"\left(1, 2\right)",
        r"90^\circ",
        r"\sqrt{3} \times \pi",
        r"\mathbb{R}",
        r"\textdegree",
        "the $x$ and the $y$ axis",
        "$5 and 6$ of it",
        # Accents, which look like quotes that JSON has escaped.
        r"It\'s",
        r"Beyonc\'e",
        # What is not closed, or only looks like a command.
        r"\text{Ada",
        r"\text Ada",
        r"\textbfx{a}",
        r"\bfx",
        r"\alpha\beta",
        # Backslashes, paths, addresses, ranges.
        "\\",
        "a \\ b".replace(" ", ""),
        r"C:\temp\new",
        r"C:\_x\PROGRA~1\50\%",
        r"\\server\share",
        "http://x.org/~ada",
        "see https://x.org/a~b, and x.org/~ada",
        "~/work",
        "5~10",
        "~5",
        "a ~ b",
        "a~",
        "~~no~~",
    ],
)
def test_what_stays_as_it_is(text):
    assert plain_text(text) == text
