"""What a run looks like, in lines and on a terminal."""

import dataclasses
import io
import os
import pty
import random
import re
import threading

import pytest
from cli_helpers import context_of
from rich.console import Console

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.cli import display, live, live_rows

MEMORY = "The owner was \x1b[31mMaria\x1b[0m."


def turn(index: int | None, **changes) -> Turn:
    at = index or 0
    fields = {
        "kind": "memory",
        "chunk": index,
        "chunk_span": (100 * at, 100 * at + 100),
        "update": False,
        "exit": False,
        "well_formed": True,
        "memory": "",
        "memory_tokens": 0,
        "text": "",
        "finish_reason": "stop",
        "prompt_tokens": 120,
        "completion_tokens": 20,
        "seconds": 0.25,
    }
    return Turn(**(fields | changes))


TURNS = (
    turn(0),
    turn(1, update=True, memory=MEMORY, memory_tokens=9),
    turn(2, well_formed=False, problem="cut at the limit", memory=MEMORY),
    turn(3, update=True, exit=True, memory_before=MEMORY, memory=MEMORY + " Rome."),
    turn(0, kind="answer", chunk=None, chunk_span=None, update=None, exit=None),
)
RUN = Trajectory(
    mode="with_exit_gate",
    question="Who?",
    turns=TURNS,
    stop_reason="exit_gate",
    seconds=1.25,
)
HEADER = display.Header(
    question="Who owned\nthe \x1b]0;x\x07hotel?",
    source="hotels.txt",
    policy="runs/policy",
    mode="with_exit_gate",
    memory_budget=1024,
    characters=800,
)


def test_turn_lines():
    assert [display.turn_line(t, " of ~8") for t in TURNS] == [
        "chunk 1 of ~8: update=no exit=no, memory 0 tokens, "
        "120 tokens in, 20 out, 0.25 s",
        "chunk 2 of ~8: update=yes exit=no, memory 9 tokens, "
        "120 tokens in, 20 out, 0.25 s | The owner was Maria.",
        "chunk 3 of ~8: malformed (cut at the limit), memory 0 tokens, "
        "120 tokens in, 20 out, 0.25 s",
        "chunk 4 of ~8: update=yes exit=yes, memory 0 tokens, "
        "120 tokens in, 20 out, 0.25 s | … Rome.",
        "answer: 120 tokens in, 20 out, 0.25 s",
    ]


def test_summary():
    assert display.summary(RUN) == (
        "exit_gate: 4 chunks read, 2 memory updates, 600 tokens in, 100 out, 1.2 s "
        "(4.00 turns/s), 1 malformed turns"
    )


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("", "a b", "a b"),
        ("a b", "a b c", "… c"),
        ("a b c", "a x c", "… x c"),
        ("a b c", "a b", "a b"),
        ("a", "b", "b"),
    ],
)
def test_news(before, after, shown):
    assert display.news(before, after) == shown


def test_progress_estimates_the_number_of_chunks():
    progress = display.ReadingProgress(1000)
    assert (progress.read, progress.total) == (0, None)
    for t in TURNS:
        progress.add(t)
    assert (progress.read, progress.fraction, progress.total) == (4, 0.4, 10)
    progress = display.ReadingProgress(None)
    progress.add(TURNS[0])
    assert (progress.read, progress.fraction, progress.total) == (1, None, None)


def test_changed_words():
    assert live.changed_words("a b c", "a x c d") == {1, 3}
    assert live.changed_words("a a", "a a a") == {2}
    assert live.changed_words("", "") == set()


def frames(encoding: str = "utf-8", width: int = 80) -> str:
    """The last frame of the live view."""
    buffer = io.TextIOWrapper(
        io.BytesIO(), encoding=encoding, errors="backslashreplace"
    )
    console = Console(
        file=buffer, force_terminal=True, width=width, height=40, color_system=None
    )
    view = live.LiveView(console)
    view.begin(HEADER, Trajectory(mode="with_exit_gate", question="Who?"))
    for i, t in enumerate(TURNS):
        view.turn(
            t, Trajectory(mode="with_exit_gate", question="Who?", turns=TURNS[: i + 1])
        )
    view.end(RUN)
    console.print(view._render())
    buffer.flush()
    return buffer.buffer.getvalue().decode(encoding)


def test_live_frame():
    shown = frames()
    assert "\x1b" not in shown
    assert "Who owned the hotel?" in shown
    assert "4 of ~8 chunks" in shown
    assert re.search(r"gates +·●✗■", shown)
    assert "● updated 2   · kept 1   ✗ malformed 1   ■ exit 1" in shown
    assert "0 of 1024 tokens" in shown
    assert "The owner was Maria. Rome." in shown
    assert "exit_gate: 4 chunks read" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_live_frame_in_ascii_and_on_a_narrow_terminal():
    assert re.search(r"gates +\.\+xE", frames("ascii"))
    assert all(len(line) <= 40 for line in frames(width=40).splitlines())


def test_probabilities_of_a_constrained_turn():
    said = turn(0, update=True, update_probability=0.834, exit_probability=0.02)
    line = display.turn_line(said)
    assert "chunk 1: update=yes exit=no P(yes)=0.83 P(end)=0.02, memory" in line
    view = live.LiveView(Console(file=io.StringIO(), width=80))
    view.begin(HEADER, Trajectory(mode="with_exit_gate", question="Who?"))
    view.turn(said, RUN)
    console = Console(file=io.StringIO(), width=80)
    console.print(view._render())
    shown = console.file.getvalue()
    assert re.search(r"updated 1   . kept 0   P.yes.=0\.83 P.end.=0\.02", shown)


def test_a_long_memory_shows_its_end():
    view = live.LiveView(Console(file=io.StringIO(), width=80, height=24))
    view.begin(HEADER, Trajectory(mode="memagent", question="q"))
    memory = "\n".join(f"line {i}" for i in range(100))
    view.turn(turn(0, update=True, memory=memory), RUN)
    console = Console(file=io.StringIO(), width=80)
    console.print(view._render())
    shown = console.file.getvalue()
    assert "line 99" in shown
    assert "line 80" not in shown
    assert "(90 lines above)" in shown
    assert len(shown.splitlines()) <= 24


def look(number, step, index, before="", memory="", **changes):
    """A turn of a pass: it opens its gate where it says another memory."""
    update = memory != before
    told = {"memory_before": before, "memory": memory, "memory_tokens": len(memory)}
    return turn(index, pass_number=number, step=step, update=update, **told | changes)


# Four chunks, scanned out of order: "b" and "c" are open, "d" in the next pass.
IN_PASSES = (
    look(1, "scan", 2, memory="c"),
    look(1, "scan", 0, well_formed=False, problem="cut"),
    look(1, "scan", 1, memory="b", accepted=True),
    look(1, "scan", 3),
    look(1, "merge", 2, "b", "bc"),
    look(2, "scan", 3, "bc", "bcd", accepted=True),
    look(2, "scan", 0, "bc", "bc"),
    look(3, "scan", 0, "bcd", "bcd"),
    look(3, "read", None, "bcd", "bcd", kind="answer", chunk_span=None),
)


def so_far(number):
    """The first turns: a candidate is accepted when the whole scan has come."""
    ends = {1: 4, 2: 7, 3: 8}
    return tuple(
        dataclasses.replace(t, accepted=t.accepted and number >= ends[t.pass_number])
        for t in IN_PASSES[:number]
    )


SCANNED = Trajectory(
    mode="parallel", question="Who?", turns=IN_PASSES, stop_reason="end_of_context"
)


def test_lines_of_a_scan_say_pass_and_step():
    lines = [display.turn_line(t, "", display.place(t)) for t in IN_PASSES[:-1]]
    assert [line.split(":")[0] for line in lines] == [
        *(f"pass 1, scan, chunk {n}" for n in (3, 1, 2, 4)),
        "pass 1, merge, chunk 3",
        "pass 2, scan, chunk 4",
        "pass 2, scan, chunk 1",
        "pass 3, scan, chunk 1",
    ]
    assert display.place(turn(0, pass_number=2)) == "pass 2, "


def test_summary_of_passes_counts_chunks_and_turns_apart():
    said = display.summary(SCANNED)
    assert said.startswith(
        "end_of_context: 4 chunks read in 8 turns and 3 passes, 3 memory updates, "
    )
    assert said.endswith("1 malformed turns")
    # What a scan offers counts if it was accepted.
    for end, updates in ((1, 0), (3, 0), (4, 1), (5, 2), (6, 2), (7, 3), (8, 3)):
        cut = Trajectory(mode="parallel", question="Who?", turns=so_far(end))
        assert f", {updates} memory updates, " in display.summary(cut)
    again = tuple(look(n, "read", 0, "", "") for n in (1, 2))
    again = Trajectory(mode="reread", question="Who?", turns=again)
    assert "1 chunks read in 2 turns and 2 passes, 0 memory" in display.summary(again)


def test_progress_of_a_scan_never_jumps_back():
    rng = random.Random(0)
    order = rng.sample(range(40), 40)
    later = [turn(i, pass_number=2, step="scan") for i in rng.sample(range(40), 40)]
    progress, before = display.ReadingProgress(4000), (0, 0.0)
    for number, t in enumerate([*(turn(i, step="scan") for i in order), *later], 1):
        progress.add(t)
        now = (progress.read, progress.fraction)
        assert now >= before
        assert now == (min(number, 40), pytest.approx(min(number, 40) / 40))
        assert progress.total == 40
        before = now


def rows_of(turns, width=80, total=4, unicode=True):
    rows = live_rows.PassRows(turns)
    return [line.plain for line in rows.lines(width, unicode, total)], rows


def test_rows_of_passes_fill_in_any_order():
    shown = [rows_of(so_far(n))[0][0] for n in range(1, 6)]
    assert [line.partition(" scanned")[0] for line in shown] == [
        "pass 1     ○  1",
        "pass 1   ✗ ○  2",
        "pass 1   ✗○○  3",
        "pass 1   ✗●○· 4",
        "pass 1   ✗●●· 4",
    ]
    lines, rows = rows_of(IN_PASSES)
    assert lines[:3] == [
        "pass 1   ✗●●· 4 scanned, 1 merged",
        "pass 2   ·  ● 2 scanned",
        "pass 3   ·    1 scanned",
    ]
    assert "● in the memory" in lines[3]
    assert (rows.memory, rows.memory_tokens) == ("bcd", 3)
    # Many chunks share places: what matters most of each is shown.
    many = [look(1, "scan", i, memory="x" if i == 333 else "") for i in range(1000)]
    (line, _), _ = rows_of(many, 100, None)
    row = line.removeprefix("pass 1   ").partition(" 1000 scanned")[0]
    assert (len(row), row.count("○"), row.index("○")) == (67, 1, 333 * 67 // 1000)
    assert all(len(line) <= 100 for line in rows_of(many, 100)[0])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_live_frame_of_passes(encoding):
    header = dataclasses.replace(HEADER, mode="parallel", characters=400)
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(
        file=buffer, force_terminal=True, width=80, height=30, color_system=None
    )
    view = live.LiveView(console)
    view.begin(header, Trajectory(mode="parallel", question="Who?"))
    for i, t in enumerate(IN_PASSES):
        view.turn(t, dataclasses.replace(SCANNED, turns=so_far(i + 1)))
        if i == 2:
            assert view._memory == ""  # a candidate is not the memory
        if i == 3:
            assert view._memory == "b"
            assert view._status == "pass 1, scanning"
        if i == 4:
            assert (view._memory, view._status) == ("bc", "pass 1, merging")
    console.print(view._render())
    buffer.flush()
    shown = buffer.buffer.getvalue().decode(encoding)
    assert "4 of ~4 chunks" in shown
    marks = "✗●●·" if encoding == "utf-8" else r"x\+\+\."
    assert re.search(rf"pass 1 +{marks} 4 scanned, 1 merged", shown)
    assert re.search(r"pass 3 +. +1 scanned", shown)
    assert "3 of 1024 tokens" in shown
    assert "bcd" in shown


def on_a_terminal(ask, *flags, **env) -> str:
    """All that `ask` writes to a terminal."""
    parent, child = pty.openpty()
    chunks = []

    def drain():
        while True:
            try:
                data = os.read(parent, 65536)
            except OSError:
                return
            if not data:
                return
            chunks.append(data)

    reader = threading.Thread(target=drain)
    reader.start()
    env = {"SCRIPT_DELAY": "0.02", "TERM": "xterm-256color", "COLUMNS": "100"} | env
    process = ask.start(*flags, stdin=child, stdout=child, stderr=child, env=env)
    os.close(child)
    assert process.wait(timeout=60) == 0
    reader.join(timeout=10)
    os.close(parent)
    return b"".join(chunks).decode()


ATTACK = "KEY\x1b]0;p\x07\x1b[8mx\x1b[2J,"


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=["colour", "no_color"])
def test_the_live_view_on_a_terminal(ask, env):
    ask.context = context_of(10, c1="KEYalpha,", c4=ATTACK, c8="STOP")
    shown = on_a_terminal(ask, **env)
    assert "GRU-Mem" in shown
    assert "9 of ~10 chunks" in shown
    assert shown.splitlines()[-1].removeprefix("\x1b[?25h").startswith("alpha,:")
    assert ("\x1b[1;32m" in shown) is (not env)  # bold green: what an update brought
    for escape in ("\x1b]0", "\x1b[8m", "\x1b[2J"):
        assert escape not in shown


def test_a_dumb_terminal_gets_plain_lines(ask):
    shown = on_a_terminal(ask, TERM="dumb")
    assert "\x1b" not in shown
    assert "chunk 9 of ~10: update=no exit=yes" in shown
