"""Faults P11 and P13: nothing that is shown can steer a terminal."""

import io

import pytest

from gru_mem_jax.cli import terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hcleared", "cleared"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==", ""),  # clipboard, without its end
        ("\x1bP1;2q\x1b\\sixel", "sixel"),
        ("\x9b31mC1\x9d0;t\x9c", "C1"),
        ("\x1bcreset", "reset"),
        ("\x1b(0graphics", "graphics"),
        ("over\rwritten", "overwritten"),
        ("dos\r\nline", "dos\nline"),
        ("bell\x07 nul\x00 del\x7f back\x08", "bell nul del back"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        ("\ud800", ""),
        ("emoji 👩‍👩‍👧 and 漢字", "emoji 👩‍👩‍👧 and 漢字"),
        ("\x1b\x1b[31mdouble", "double"),
        ("\x1b[\x1b[31mnested", "nested"),
    ],
)
def test_safe_text(text, shown):
    assert terminal.safe_text(text) == shown
    assert terminal.safe_text(shown) == shown


def test_nothing_of_the_control_blocks_stays():
    everything = "".join(map(chr, range(0x2100))) + "\ufeff"
    assert not set(terminal.safe_text(everything)) & (
        set(map(chr, range(0x20))) - {"\n", "\t"} | set(map(chr, range(0x7F, 0xA0)))
    )


def test_plain_line_is_one_line():
    assert terminal.plain_line("a\n\n  b\r\nc\u2028d\x1b[1m") == "a b cd"


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abcde…"), ("a b\nc", 9, "a b c")],
)
def test_shorten(text, width, short):
    assert terminal.shorten(text, width) == short


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("term", "stream", "live"),
    [
        ("xterm", Tty(), True),
        ("dumb", Tty(), False),
        ("", Tty(), False),
        (None, Tty(), False),
        ("xterm", io.StringIO(), False),
        ("xterm", None, False),
    ],
)
def test_live_only_where_a_terminal_can(monkeypatch, term, stream, live):
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert terminal.is_live(stream) is live


def test_a_line_a_minute_where_no_bar_can_be(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    lines = terminal.EachMinute()
    for second in range(0, 200, 7):
        now[0] = 100.0 + second
        lines.note(f"{second} of 200\x1b[31m")
    assert capsys.readouterr().err.splitlines() == [
        "63 of 200, 63 s",
        "126 of 200, 126 s",
        "189 of 200, 189 s",
    ]
    monkeypatch.setattr(terminal, "is_live", lambda stream: True)
    now[0] = 1000.0
    lines.note("there is a bar")
    assert capsys.readouterr().err == ""


def test_an_evaluation_in_a_pipe_says_how_far_it_is(monkeypatch, capsys):
    from gru_mem_jax.cli.evaluating import Shown

    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    shown = Shown()
    shown.begin(2, 6)
    shown.run("with_exit_gate")
    for _ in range(4):
        for _ in range(5):
            now[0] += 4.0
            shown.turn()
        shown.answer()
    shown.end()
    assert capsys.readouterr().err.splitlines() == [
        "with_exit_gate",
        "4 of 6 questions answered, 15 turns, 60 s",
    ]
