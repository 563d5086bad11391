"""Real signals to real processes: seen while a program runs (faults R3 and R19)."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from gru_mem_jax.runs.signals import StopSignal, Watchdog

PRELUDE = """
import os, signal, sys, time
from gru_mem_jax.runs.signals import StopSignal, Watchdog
def say(text):
    os.write(1, (text + "\\n").encode())
def blocked(seconds):  # as a compilation: no bytecode runs in this thread
    import ctypes
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # holds the interpreter's lock
def busy(seconds):  # as a program that runs: others may use Python
    import ctypes
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ctypes.CDLL(None).usleep(int(1e6 * max(0, end - time.monotonic())))
"""


@contextlib.contextmanager
def child(code):
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


LOOP = """
with StopSignal(on_request=lambda name: say(f"{name} seen")) as stop:
    say("ready")
    step = 0
    while not stop.requested:
        %s
        step += 1
    %s
say(f"saved {stop.name} {stop.signum}")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_first_signal_is_seen_within_a_program_and_stops_after_it(name):
    program = 'say("program starts"); busy(2.0); say("program done")'
    with child(LOOP % (program, "")) as process:
        assert process.stdout.readline() == "ready\n"
        assert process.stdout.readline() == "program starts\n"
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=20)
        number = int(getattr(signal, name))
        assert out == f"{name} seen\nprogram done\nsaved {name} {number}\n"
        assert err == ""
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("SIGTERM", "SIGTERM", 143),
        ("SIGINT", "SIGINT", 130),
        ("SIGINT", "SIGTERM", 143),
    ],
)
def test_second_signal_ends_at_once(first, second, status):
    with child(LOOP % ("busy(30)", "busy(30)")) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, first))
        assert process.stdout.readline() == f"{first} seen\n"
        start = time.monotonic()
        process.send_signal(getattr(signal, second))
        assert process.wait(20) == status
        assert time.monotonic() - start < 10
        assert process.stdout.read() == ""


def test_an_ignored_signal_stays_ignored():
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + LOOP % ("busy(0.1)", "")
    with child(code) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == "SIGTERM seen\nsaved SIGTERM 15\n"


def test_sigusr1_prints_all_stacks_and_the_run_goes_on():
    with child(LOOP % ("blocked(0.2)", "")) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # until the run is in its program, past saying so
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        # One line is the watcher thread's, the other the run's.
        assert sorted(out.splitlines()[-2:]) == ["SIGTERM seen", "saved SIGTERM 15"]
        assert "Current thread" in err
        assert " in blocked\n" in err
        assert "_watch" in err  # the other threads too


def test_handlers_are_put_back_and_a_request_needs_no_signal():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    with StopSignal() as stop:
        assert not stop.requested
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        stop.request()
        assert stop.requested
        assert stop.name == "a request"
        assert stop.signum is None
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    end = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_outside_the_main_thread_nothing_is_installed():
    found = []

    def use():
        with StopSignal() as stop:
            found.append(signal.getsignal(signal.SIGTERM))
            stop.request()
            found.append(stop.requested)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [before, True]


HANG = """
with Watchdog(%s, on_hang=lambda line: say(line), hard_seconds=%s) as watchdog:
    for _ in range(5):
        watchdog.beat("sampling")
        busy(0.1)
    watchdog.beat("updating")
    %s
say("went on")
"""


def test_a_hang_is_told_with_stacks_and_ends_the_process():
    with child(HANG % (0.6, 30, "busy(60)")) as process:
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert out.startswith("no progress for 0.6 s while updating: the run ends here")
        assert f"gru-mem: {out}" in err
        assert "in busy" in err


def test_a_hang_that_holds_the_interpreter_ends_too():
    with child(HANG % (0.6, 0.3, "blocked(60)")) as process:
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert out == ""
        assert "Timeout (0:00:00.900000)!" in err
        assert "in blocked" in err


@pytest.mark.parametrize("seconds", [0, 5])
def test_no_hang(seconds):
    with child(HANG % (seconds, 5, "pass")) as process:
        assert process.communicate(timeout=30) == ("went on\n", "")
        assert process.returncode == 0


def test_watchdog_leaves_no_thread():
    threads = threading.active_count()
    with Watchdog(30):
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    with Watchdog(0) as watchdog:
        watchdog.beat("x")
        assert threading.active_count() == threads


def test_stop_signal_within_the_command_lines_own_handlers():
    """`gru-mem` has handlers that raise; a training's come first while it runs."""
    code = """
from gru_mem_jax.cli import signals
with signals.Handlers():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.requested:
            time.sleep(0.01)
    say("saved")
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except signals.Terminated:
        say("raised")
"""
    with child(code) as process:
        assert process.communicate(timeout=30)[0] == "saved\nraised\n"
        assert process.returncode == 0


def test_a_signal_within_a_destructor_is_raised_after_it():
    """Python says "Exception ignored" there, and goes on."""
    code = """
from gru_mem_jax.cli import signals
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        say("not reached")
with signals.Handlers():
    try:
        Freed()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.01)
    except signals.Terminated:
        say("raised")
"""
    with child(code) as process:
        assert process.communicate(timeout=30)[0] == "raised\n"
        assert process.returncode == 0
