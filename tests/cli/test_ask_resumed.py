"""Fault R16: `gru-mem ask` interrupted, and resumed by the same command."""

import json
import signal
import time

import pytest
from cli_helpers import turns_in, wait_for, without_times


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
@pytest.mark.parametrize("after", [1, 5])
def test_interrupted_then_resumed_equals_uninterrupted(ask, signum, status, after):
    assert ask.run(f"--json={ask.json_path}")[0] == 0
    whole = ask.json
    ask.json_path.unlink()
    slow = {"SCRIPT_DELAY": "0.15"}
    process = ask.start(f"--json={ask.json_path}", env=slow)
    for line in process.stderr:
        if line.startswith(b"chunk %d " % after):
            break
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (status, b"")
    assert b"Traceback" not in err
    part = ask.json
    assert part["interrupted"] is True
    assert part["stop_reason"] == "interrupted"
    assert part["answer"] is None
    if signum != signal.SIGKILL:  # which may lose what was not written yet
        assert b"resume by the same command and --resume" in err
        assert after <= len(part["turns"]) <= after + 1
    done = whole["turns"][: len(part["turns"])]
    assert without_times(part)["turns"] == without_times({"turns": done})["turns"]
    status, out, err = ask.run(f"--json={ask.json_path}", "--resume")
    assert status == 0, err
    assert without_times(ask.json) == without_times(whole)
    assert out.strip() == whole["answer"]
    # A finished run is not run again.
    status, again, err = ask.run(f"--json={ask.json_path}", "--resume")
    assert (status, again) == (0, out)
    assert "chunk 1 " not in err


def test_a_second_ctrl_c_stops_at_once(ask):
    process = ask.start(f"--json={ask.json_path}", env={"SCRIPT_BUSY_AT": "3"})
    wait_for(lambda: turns_in(ask.json_path) >= 1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if b"a second signal stops at once" in line:
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert time.monotonic() - start < 2
    assert ask.json["interrupted"] is True
    process.communicate()


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--chunk_size=50"], "chunk_size"),
        (["--seed=7"], "seed"),
        (["--mode=memagent"], "mode"),
        (["--question=Another?"], "question"),
        (["--trace"], "trace"),
    ],
)
def test_resuming_another_run_is_refused_by_name(ask, flags, difference, capsys):
    before = interrupted_after_three(ask)
    assert ask.run_here(f"--json={ask.json_path}", "--resume", *flags) == 2
    err = capsys.readouterr().err
    assert "cannot resume" in err
    assert difference in err.splitlines()[-1]
    assert ask.json_path.read_bytes() == before


def interrupted_after_three(ask) -> bytes:
    assert ask.run_here(f"--json={ask.json_path}") == 0
    document = ask.json
    document |= {"turns": document["turns"][:3], "answer": None}
    document |= {"stop_reason": "interrupted", "interrupted": True}
    ask.json_path.write_text(json.dumps(document))
    return ask.json_path.read_bytes()


def test_resuming_on_another_context_or_policy_is_refused(ask, capsys):
    before = interrupted_after_three(ask)
    ask.context = "X" + ask.context[1:]
    assert ask.run_here(f"--json={ask.json_path}", "--resume") == 2
    assert "chunk 0 of the context is not the one" in capsys.readouterr().err
    ask.context = " " + ask.context[1:]
    assert ask.json_path.read_bytes() == before
    (ask.folder / "policy" / "config.json").write_text('{"other": 1}')
    assert ask.run_here(f"--json={ask.json_path}", "--resume") == 2
    assert "policy_fingerprint was" in capsys.readouterr().err
    assert ask.json_path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not JSON"),
        ("[1]", "trajectory must be an object, got list"),
        ('{"answer": 1}', "trajectory"),
        ('{"turns": [{"kind": "memory"}]}', "out.json"),
        ("[" * 100000, "out.json"),
    ],
)
def test_resuming_from_what_is_no_trajectory(ask, text, expected, capsys):
    ask.json_path.write_text(text)
    assert ask.run_here(f"--json={ask.json_path}", "--resume") == 2
    err = capsys.readouterr().err
    assert "--resume: " in err
    assert expected in err.splitlines()[-1]
    assert ask.json_path.read_text() == text


def test_resuming_nothing_starts_anew(ask, capsys):
    assert ask.run_here(f"--json={ask.json_path}", "--resume") == 0
    out, err = capsys.readouterr()
    assert out[:5] == "alpha"
    assert "nothing to resume" in err
