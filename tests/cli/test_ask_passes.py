"""`gru-mem ask` in modes parallel and reread, with a script in the policy's place."""

import json
import os
import re
import signal
import subprocess

import pytest
from cli_helpers import context_of, without_times

from gru_mem_jax.cli.main import main

MODES = ("parallel", "reread")
# Requests that run side by side end in any order.
SHUFFLED = {"SCRIPT_SHUFFLE": "7"}


def steps(document):
    turns = [turn for turn in document["turns"] if turn["kind"] == "memory"]
    return [(turn["pass_number"], turn["step"], turn["chunk"]) for turn in turns]


def test_a_scan_and_its_merges(ask, capsys):
    """Keys in the 2nd, 5th and 8th of ten chunks; a merged key is not read again."""
    assert ask.run_here("--mode=parallel", f"--json={ask.json_path}") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"alpha,:\d+ bravo,:\d+ charl,:\d+\n", out)
    unread = (0, 2, 3, 5, 6, 8, 9)
    assert steps(ask.json) == [
        *((1, "scan", i) for i in range(10)),
        *((1, "merge", i) for i in (4, 7)),
        *((2, "scan", i) for i in unread),
    ]
    lines = err.splitlines()
    assert "loading the script, 32 slots" in lines
    assert sum(line.startswith("pass 2, scan, chunk 9 of ~10: ") for line in lines) == 1
    assert sum(line.startswith("pass 1, merge, chunk 8 ") for line in lines) == 1
    assert lines[-1].startswith(
        "end_of_context: 10 chunks read in 19 turns and 2 passes, 3 memory updates, "
    )
    assert (ask.json["num_chunks"], ask.json["stop_reason"]) == (10, "end_of_context")


def test_reread(ask, capsys):
    """The script writes each key again: only max_passes ends it."""
    flags = ["--mode=reread", "--max_passes=2", f"--json={ask.json_path}"]
    assert ask.run_here(*flags) == 0
    out, err = capsys.readouterr()
    assert steps(ask.json) == [(p, "read", i) for p in (1, 2) for i in range(10)]
    assert out.count("alpha") == out.count("charl") == 2
    assert "loading the script\n" in err  # one slot
    assert "pass 2, chunk 3 of ~10: " in err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # Windows: each is merged before the next is scanned.
        (
            ["--scan_chunks=5", "--max_passes=1"],
            [
                *((1, "scan", i) for i in range(5)),
                (1, "merge", 4),
                *((1, "scan", i) for i in range(5, 10)),
            ],
        ),
        (
            ["--max_chunks=6", "--max_passes=1"],
            [*((1, "scan", i) for i in range(6)), (1, "merge", 4)],
        ),
        (
            ["--merge_until_exit", "--max_passes=1"],
            [*((1, "scan", i) for i in range(10)), (1, "merge", 4)],
        ),
    ],
)
def test_settings_of_a_scan(ask, flags, expected):
    ask.context = context_of(
        10, c1="KEYalpha,", c4="KEYbravo,STOP", c7="KEYcharl,", c8="STOP"
    )
    assert ask.run_here("--mode=parallel", f"--json={ask.json_path}", *flags) == 0
    assert steps(ask.json) == expected
    ended = "exit_gate" if "--merge_until_exit" in flags else "end_of_context"
    ended = "max_chunks" if "--max_chunks=6" in flags else ended
    assert ask.json["stop_reason"] == ended
    for flag in flags:
        name, _, value = flag[2:].partition("=")
        assert ask.json["settings"][name] == (int(value) if value else True)


def test_most_that_are_merged_need_probabilities(ask, capsys):
    assert ask.run_here("--mode=parallel", "--max_merged=2") == 2
    assert "max_merged takes the chunks with the highest P(yes)" in (
        capsys.readouterr().err
    )


def test_slots(ask, capsys):
    def slots(*flags):
        assert ask.run_here(*flags) == 0
        (line,) = re.findall("loading the script.*", capsys.readouterr().err)
        return int(line.split(",")[1].split()[0]) if "," in line else 1

    gin = "--gin.EngineConfig.slots=3"
    assert slots("--mode=parallel") == 32
    assert slots() == slots("--mode=reread") == 1
    assert slots("--mode=parallel", gin) == slots(gin) == 3
    assert slots("--mode=parallel", gin, "--slots=5") == 5
    # The mode may come from gin, or from the policy's own settings.
    assert slots("--gin.AgentConfig.mode='parallel'") == 32
    own = ask.folder / "policy" / "gru_mem.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | {"mode": "parallel"}))
    assert slots() == 32
    assert slots("--mode=with_exit_gate") == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_that_was_never_taught_a_gate(ask, capsys, mode):
    own = ask.folder / "policy" / "gru_mem.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | {"mode": "memagent"}))
    assert ask.run_here(f"--mode={mode}") == 2
    line = f"gru-mem: mode {mode}: MemAgent has no gate to scan with"
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(line)
    assert ask.run_here() == 0
    words = ["eval", f"--policy={ask.folder / 'policy'}", f"--modes=memagent,{mode}"]
    assert main(words) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(line)


@pytest.mark.parametrize(
    ("mode", "slots", "after", "signum"),
    [
        ("parallel", 4, 4, signal.SIGINT),
        ("parallel", 4, 11, signal.SIGTERM),
        ("parallel", 4, 15, signal.SIGINT),
        ("reread", 1, 13, signal.SIGTERM),
    ],
)
def test_interrupted_then_resumed_equals_uninterrupted(ask, mode, slots, after, signum):
    """In the middle of a scan, of its merges, and of a second pass."""
    flags = [f"--mode={mode}", "--max_passes=2", f"--slots={slots}"]
    flags.append(f"--json={ask.json_path}")
    assert ask.run_here(*flags) == 0
    whole = ask.json
    ask.json_path.unlink()
    process = ask.start(*flags, env={"SCRIPT_DELAY": "0.1"} | SHUFFLED)
    seen = 0
    for line in process.stderr:
        seen += line.startswith(b"pass ")
        if seen == after:
            break
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + signum, b"")
    assert b"turns are in" in err
    part = ask.json
    assert (part["interrupted"], part["answer"]) == (True, None)
    assert after <= len(part["turns"]) <= after + 1
    asked = {(t["pass_number"], t["step"], t["chunk"]): t for t in whole["turns"]}
    for turn in without_times(part)["turns"]:
        own = asked[turn["pass_number"], turn["step"], turn["chunk"]]
        # Which scan is accepted is known when the last of them has ended.
        assert turn.pop("accepted") <= own["accepted"]
        assert turn == {
            k: v for k, v in own.items() if k not in ("seconds", "accepted")
        }
    status, out, err = ask.run(*flags, "--resume", env=SHUFFLED)
    assert status == 0, err
    assert f"resuming after {len(part['turns'])} turns" in err
    asked_now = err.count("\npass ") + err.count("\nanswer: ")
    assert asked_now == len(whole["turns"]) - len(part["turns"])
    assert without_times(ask.json) == without_times(whole)
    assert out.strip() == whole["answer"]


def test_other_passes_are_another_run(ask, capsys):
    flags = ["--mode=parallel", f"--json={ask.json_path}"]
    assert ask.run_here(*flags) == 0
    cut = ask.json | {"turns": ask.json["turns"][:3], "answer": None}
    ask.json_path.write_text(json.dumps(cut | {"interrupted": True}))
    for flag in ("--max_passes=2", "--scan_chunks=3", "--merge_until_exit"):
        assert ask.run_here(*flags, "--resume", flag) == 2
        name = flag[2:].split("=")[0]
        assert f"cannot resume: settings.{name}" in capsys.readouterr().err
    assert ask.run_here(*flags, "--resume", "--slots=2", "--max_chunks=10") == 0


@pytest.mark.parametrize("kind", ["stdin", "fifo"])
def test_windows_of_a_stream_are_merged_before_its_end(ask, kind):
    fifo = ask.folder / "fifo"
    os.mkfifo(fifo)
    context, stdin = ("-", subprocess.PIPE) if kind == "stdin" else (str(fifo), None)
    flags = ["--mode=parallel", "--scan_chunks=5", "--max_passes=1", "--slots=3"]
    process = ask.start(*flags, context=context, stdin=stdin)
    stream = process.stdin if kind == "stdin" else fifo.open("wb")
    stream.write(context_of(40, c1="KEYalpha,", c3="KEYbravo,").encode())
    stream.flush()
    for line in process.stderr:
        if line.startswith(b"pass 1, merge, chunk 4:"):
            break
    assert process.poll() is None
    stream.write(b"KEYcharl,")
    stream.close()
    process.stdin = None
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert re.fullmatch(rb"alpha,:\d+ bravo,:\d+ charl,:\d+\n", out)


@pytest.mark.parametrize("flags", [["--scan_chunks=4"], []], ids=["windows", "whole"])
def test_a_stream_that_stalls_in_a_scan_ends_at_the_deadline(ask, flags):
    flags = [*flags, "--mode=parallel", "--deadline_seconds=2", "--slots=3"]
    process = ask.start(
        f"--json={ask.json_path}", *flags, context="-", stdin=subprocess.PIPE
    )
    process.stdin.write(context_of(40, c1="KEYalpha,", c3="KEYbravo,").encode())
    process.stdin.flush()
    out = process.stdout.read()  # stdin stays open
    assert process.wait(timeout=5) == 0
    # What a scan found first is taken without another look; then time was up.
    assert out.startswith(b"alpha")
    assert (b"bravo" in out) is ("--scan_chunks=4" in flags)
    assert ask.json["stop_reason"] == "deadline"
    assert ask.json["num_chunks"] >= 20
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_ctrl_c_while_a_stream_stalls_in_a_scan(ask):
    process = ask.start(
        f"--json={ask.json_path}",
        "--mode=parallel",
        context="-",
        stdin=subprocess.PIPE,
    )
    process.stdin.write(context_of(40).encode())
    process.stdin.flush()
    for line in process.stderr:
        if line.startswith(b"pass 1, scan, chunk 20:"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130
    assert ask.json["interrupted"] is True
    assert len(ask.json["turns"]) >= 20
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_an_endless_stream_in_windows(ask):
    flags = ["--mode=parallel", "--scan_chunks=8", "--max_passes=1", "--max_chunks=30"]
    with subprocess.Popen(["yes", "endless text"], stdout=subprocess.PIPE) as yes:
        status, out, _ = ask.run(
            f"--json={ask.json_path}", *flags, context="-", stdin=yes.stdout
        )
        yes.kill()
    assert (status, out) == (0, "unknown\n")
    assert (ask.json["stop_reason"], ask.json["num_chunks"]) == ("max_chunks", 30)


def test_a_trace_of_a_scan(ask):
    flags = ["--mode=parallel", "--trace", f"--json={ask.json_path}"]
    assert ask.run_here(*flags) == 0
    for turn in ask.json["turns"]:
        assert len(turn["prompt_ids"]) == turn["prompt_tokens"]
        assert len(turn["completion_ids"]) == turn["completion_tokens"]
