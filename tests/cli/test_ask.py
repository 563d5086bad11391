"""`gru-mem ask` from the outside, with a script in the place of the policy."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import context_of, without_times


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def turns_in(path) -> int:
    return len(json.loads(path.read_text())["turns"]) if path.exists() else 0


# -- what goes where ------------------------------------------------------------------


def test_answer_on_stdout_and_one_line_a_turn_on_stderr(ask):
    status, out, err = ask.run(f"--json={ask.json_path}")
    assert (status, out.count("\n")) == (0, 1)
    assert re.fullmatch(r"alpha,:\d+ bravo,:\d+ charl,:\d+\n", out)
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("chunk 2 ")] != []
    assert sum(line.startswith("chunk ") for line in lines) == 9
    assert lines[-1].startswith("exit_gate: 9 chunks read, 3 memory updates")
    document = ask.json
    assert document["answer"] == out.strip()
    assert document["stop_reason"] == "exit_gate"
    assert document["interrupted"] is False
    assert document["num_chunks"] == 9
    assert [t["kind"] for t in document["turns"]] == ["memory"] * 9 + ["answer"]
    assert [t["update"] for t in document["turns"][:9]] == [
        False, True, False, False, True, False, False, True, False,
    ]  # fmt: skip
    needed = "kind chunk update exit well_formed memory memory_tokens prompt_tokens"
    needed += " completion_tokens seconds memory_before"
    assert all(set(needed.split()) <= set(t) for t in document["turns"])
    needed = "answer mode num_chunks turns stop_reason seconds completion_tokens"
    assert set(f"{needed} prompt_tokens".split()) <= set(document)
    assert document["prompt_tokens"] == sum(
        t["prompt_tokens"] for t in document["turns"]
    )
    assert "prompt_ids" not in document["turns"][0]
    assert not list(ask.folder.glob(".*partial"))


def test_json_to_stdout_is_all_of_stdout(ask):
    status, out, _ = ask.run("--json", "-", "--trace")
    assert status == 0
    turn = json.loads(out)["turns"][0]
    assert len(turn["prompt_ids"]) == turn["prompt_tokens"]
    assert len(turn["completion_ids"]) == turn["completion_tokens"]
    assert len(turn["logprobs"]) == turn["completion_tokens"]


@pytest.mark.parametrize(
    ("flags", "chunks", "reason"),
    [
        (["--mode=without_exit_gate"], 10, "end_of_context"),
        (["--mode=memagent"], 10, "end_of_context"),
        (["--max_chunks=3"], 3, "max_chunks"),
        (["--chunk_size=1000"], 1, "exit_gate"),
        (["--order=chunk_first"], 9, "exit_gate"),
        (["--gin.AgentConfig.max_chunks=4"], 4, "max_chunks"),
        (["--gin.AgentConfig.max_chunks=4", "--max_chunks=2"], 2, "max_chunks"),
    ],
)
def test_reading_flags(ask, flags, chunks, reason):
    assert ask.run_here(f"--json={ask.json_path}", *flags) == 0
    assert (ask.json["num_chunks"], ask.json["stop_reason"]) == (chunks, reason)


def test_malformed_turns_are_shown_and_change_nothing(ask, capsys):
    ask.context = context_of(4, c1="KEYalpha", c2="GARBAGE")
    assert ask.run_here() == 0
    out, err = capsys.readouterr()
    assert out[:5] == "alpha"
    assert "chunk 3 of ~4: malformed (" in err
    assert "1 malformed turns" in err


def test_empty_context_is_a_defined_result(ask, capsys):
    ask.context = ""
    assert ask.run_here(f"--json={ask.json_path}") == 0
    assert capsys.readouterr().out == "unknown\n"
    assert (ask.json["num_chunks"], ask.json["stop_reason"]) == (0, "empty_context")


# -- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--contxt=x"], r"unknown flag --contxt \(did you mean --context\?\)"),
        (["--chunk_size=0"], "--chunk_size: must be at least 1, got 0"),
        (["--chunk_size=many"], "'many' is not an integer"),
        (
            ["--chunk_size=99999"],
            "prompt_tokens is 8192, but the gated prompt may need",
        ),
        (["--mode=memagnt"], r"did you mean memagent\?"),
        (["--order=last"], "choose from memory_first, chunk_first"),
        (["--temperature=-1"], "temperature must be a number from 0 to 100, got -1"),
        (["--temperature=nan"], "must be finite"),
        (["--top_p=0"], "top_p must be above 0"),
        (["--top_k=-1"], "top_k must be at least 0"),
        (["--deadline_seconds=0"], "must be above 0"),
        (["--max_chunks=0"], "must be at least 1"),
        (["--question= "], "--question: expected a question"),
        (["--question=\udcff?"], "question.* lone surrogate U.DCFF"),
        (["--question=" + "q" * 2000], "the question has 2001 tokens, more than"),
        (["--json=no/such/out.json"], "folder .*no/such does not exist"),
        (["--json=."], "is a folder"),
        (["--json="], "--json: expected a file name or -"),
        (["--trace"], "--trace needs --json"),
        (["--resume"], "--resume needs --json"),
        (["--resume", "--json=-"], "--resume needs --json"),
        (["--policy=no/such"], "no/such"),
        (["--context=no/such.txt"], "no/such.txt: no such file"),
        (["--context=."], "this is a folder"),
        (["--gin_file=no/such.gin"], "no file no/such.gin"),
        (["--gin.CHUNK=3"], "nothing reads CHUNK"),
        (["--gin.AgentConfig.chunksize=3"], r"did you mean chunk_size\?"),
        (["--gin.AgentConfig.chunk_size='a'"], "expected int, got str 'a'"),
        (
            ["--gin.SamplingConfig.top_p=2.0"],
            "SamplingConfig: top_p must be .*, got 2.0$",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(ask, flags, expected, capsys, monkeypatch):
    monkeypatch.chdir(ask.folder)
    assert ask.run_here(*flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("gru-mem: ")
    assert re.search(expected, last), last
    assert sum(not line.startswith("loading") for line in err.splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "flags", "status", "expected"),
    [
        (b"fine \xff rest" * 50, [], 2, "byte 5 .0xff. is no UTF-8"),
        (b"fine \xff rest" * 50, ["--encoding_errors=replace"], 0, ""),
        (b"%PDF-1.7 ...", [], 2, "PDF"),
        (b"\x00\x01" * 500, [], 2, "NUL"),
        (b"\xef\xbb\xbfKEYalpha, bom and\r\nlines", [], 0, ""),
    ],
)
def test_contexts_that_are_no_text(ask, content, flags, status, expected, capsys):
    path = ask.folder / "x.bin"
    path.write_bytes(content)
    assert ask.run_here(*flags, context=str(path)) == status
    assert re.search(expected, capsys.readouterr().err.splitlines()[-1])


def test_debug_shows_the_traceback_too(ask, capsys):
    assert ask.run_here("--chunk_size=99999", "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("gru-mem: prompt_tokens is 8192")


def test_a_setting_of_the_policy_that_is_wrong_is_named(ask, capsys):
    (ask.folder / "policy" / "gru_mem.json").write_text('{"chunk_sizes": 3}')
    assert ask.run_here() == 2
    err = capsys.readouterr().err
    assert "gru_mem.json" in err
    assert "chunk_sizes" in err


# -- interrupted and resumed ----------------------------------------------------------


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
        assert b"with --resume goes on" in err
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
        if b"once more stops at once" in line:
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
        ("", "not a JSON document"),
        ("[1]", "expected a JSON object"),
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


# -- streams --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stdin", "fifo"])
def test_first_turns_come_before_a_streams_end(ask, kind):
    fifo = ask.folder / "fifo"
    os.mkfifo(fifo)
    context, stdin = ("-", subprocess.PIPE) if kind == "stdin" else (str(fifo), None)
    process = ask.start(f"--json={ask.json_path}", context=context, stdin=stdin)
    stream = process.stdin if kind == "stdin" else fifo.open("wb")
    text = context_of(40, c1="KEYalpha,").encode()
    stream.write(text)
    stream.flush()
    for line in process.stderr:
        if line.startswith(b"chunk 20:"):
            break
    assert process.poll() is None
    stream.write(b"KEYbravo,")
    stream.close()
    process.stdin = None
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert re.fullmatch(rb"alpha,:\d+ bravo,:\d+\n", out)


def test_a_stalling_stream_ends_at_the_deadline(ask):
    process = ask.start(
        f"--json={ask.json_path}",
        "--deadline_seconds=2",
        context="-",
        stdin=subprocess.PIPE,
    )
    process.stdin.write(context_of(40, c1="KEYalpha,").encode())
    process.stdin.flush()
    start = time.monotonic()
    out = process.stdout.read()  # stdin stays open
    assert process.wait(timeout=5) == 0
    assert time.monotonic() - start < 8
    assert out.startswith(b"alpha")
    assert ask.json["stop_reason"] == "deadline"
    assert ask.json["num_chunks"] >= 20
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_ctrl_c_while_a_stream_stalls(ask):
    process = ask.start(f"--json={ask.json_path}", context="-", stdin=subprocess.PIPE)
    process.stdin.write(context_of(40).encode())
    process.stdin.flush()
    for line in process.stderr:
        if line.startswith(b"chunk 20:"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130
    assert ask.json["interrupted"] is True
    assert len(ask.json["turns"]) >= 20
    process.stdin.close()
    process.stderr.close()
    process.stdout.close()


@pytest.mark.parametrize("flag", ["--max_chunks=30", "--deadline_seconds=2"])
def test_an_endless_stream_is_ended(ask, flag):
    with subprocess.Popen(["yes", "endless text"], stdout=subprocess.PIPE) as yes:
        status, out, _ = ask.run(
            f"--json={ask.json_path}", flag, context="-", stdin=yes.stdout
        )
        yes.kill()
    assert (status, out) == (0, "unknown\n")
    assert ask.json["stop_reason"] == flag[2:].split("=")[0].removesuffix("_seconds")


PEAK = """
import resource, subprocess, sys
process = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, stdin=sys.stdin)
print(process.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_mib(ask, tokens: int) -> float:
    """Peak memory of a run over a pipe of so many tokens (of one byte)."""
    feed = "import sys; [sys.stdout.write('x' * 999 + ' ') for _ in range(%d)]"
    feed %= tokens // 1000
    command = ask.command("--gin.AgentConfig.prompt_tokens=100000", context="-")
    command += ["--chunk_size=50000", "--completion_tokens=100"]
    with subprocess.Popen(
        [sys.executable, "-c", feed], stdout=subprocess.PIPE
    ) as feeder:
        found = subprocess.run(
            [sys.executable, "-c", PEAK, *command],
            stdin=feeder.stdout,
            capture_output=True,
            check=True,
        )
    status, kib = found.stdout.split()
    assert status == b"0"
    return int(kib) / 1024


def test_memory_does_not_grow_with_the_context(ask):
    small, large = peak_mib(ask, 2_000_000), peak_mib(ask, 8_000_000)
    assert large - small < 12, (small, large)


# -- the reader goes away -------------------------------------------------------------


def test_answer_into_a_closed_pipe(ask):
    read, write = os.pipe()
    os.close(read)
    status, _, err = ask.run(f"--json={ask.json_path}", stdout=write)
    os.close(write)
    assert status == 1
    assert "Traceback" not in err
    assert "Broken" not in err
    assert ask.json["interrupted"] is False


def test_progress_and_answer_into_one_pipe_that_closes(ask):
    """`gru-mem ask ... 2>&1 | head -1`: nobody is there, so the run stops."""
    shell = " ".join(f"'{w}'" for w in ask.command(f"--json={ask.json_path}"))
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell} 2>&1 | head -1"],
        env={**os.environ, "SCRIPT_DELAY": "0.05"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == ""
    assert found.stdout.count("\n") == 1
    if ask.json_path.exists():  # it may have ended before the first turn
        assert ask.json["interrupted"] is True
    assert ask.run(f"--json={ask.json_path}", "--resume")[0] == 0
    assert ask.json["answer"].startswith("alpha")


def test_closed_stderr_alone_does_not_stop_a_run(ask):
    read, write = os.pipe()
    os.close(read)
    status, out, _ = ask.run(stderr=write)
    os.close(write)
    assert (status, out[:5]) == (0, "alpha")


def test_streams_that_do_not_exist(ask):
    command = " ".join(f"'{w}'" for w in ask.command(f"--json={ask.json_path}"))
    found = subprocess.run(
        ["bash", "-c", f"{command} >&- 2>&- <&-"], check=False, env=os.environ
    )
    assert found.returncode in (0, 1)
    assert ask.json["answer"].startswith("alpha")


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full"])
def test_devices_are_written_in_place(ask, name):
    status, out, err = ask.run(f"--json={name}")
    if name == "/dev/null":
        assert (status, out[:5]) == (0, "alpha")
    else:
        assert status == 1
        assert "cannot write /dev/full" in err
    assert not os.path.isfile(name)


def test_a_link_stays_a_link(ask):
    link = ask.folder / "link.json"
    link.symlink_to(ask.json_path)
    assert ask.run(f"--json={link}")[0] == 0
    assert link.is_symlink()
    assert ask.json["answer"].startswith("alpha")


# -- poor surroundings (fault 20) -----------------------------------------------------


@pytest.mark.parametrize(
    ("env", "interpreter"),
    [
        ({"HOME": None}, ()),
        ({"HOME": "/nonexistent"}, ()),
        ({"LC_ALL": "C"}, ()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ()),
        ({"TERM": None}, ()),
        ({"GRU_MEM_CACHE_DIR": "off"}, ()),
        ({"GRU_MEM_CACHE_DIR": "/proc/no"}, ()),
        ({}, ("-O",)),
        ({}, ("-W", "error")),
    ],
    ids=str,
)
def test_poor_surroundings(ask, env, interpreter):
    ask.interpreter = (sys.executable, *interpreter)
    ask.context = ask.context.replace("alpha", "äl漢a")
    flags = [f"--json={ask.json_path}", "--question=Où est la clé?"]
    status, out, err = ask.run(*flags, env=env)
    assert status == 0, err
    assert out.startswith("äl漢")
    assert ask.json["answer"] == out.strip()
    assert ask.json["question"] == "Où est la clé?"


def test_one_core(ask):
    core = min(os.sched_getaffinity(0))
    process = ask.start(f"--json={ask.json_path}")
    os.sched_setaffinity(process.pid, {core})
    process.communicate(timeout=60)
    assert process.returncode == 0
