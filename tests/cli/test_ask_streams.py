"""`gru-mem ask` on pipes: contexts without end, outputs that close, odd devices.

Faults R16, R20 and R21.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import context_of


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


# -- poor surroundings ----------------------------------------------------------------


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
