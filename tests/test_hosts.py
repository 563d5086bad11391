"""Faults R23, R25 and R26: two real processes that talk, and that end, on loopback."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest

from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError
from gru_mem_jax.hosts import coordination
from gru_mem_jax.hosts.processes import Hosts, Stopped, current
from gru_mem_jax.testing.processes import free_port, running

WORKER = pathlib.Path(__file__).with_name("hosts_worker.py")


def two(case, folder, present=(0, 1), **environment):
    """Runs a case of the worker in two processes, of which some are started."""
    address = f"127.0.0.1:{free_port()}"
    commands = [
        [sys.executable, str(WORKER), case, address, "2", str(i)] for i in present
    ]
    own = [{"TF_CPP_MIN_LOG_LEVEL": "2", **environment}] * len(commands)
    with running(commands, folder, devices=1, environments=own) as processes:
        return processes.wait(60)


def told(process):
    values = {}
    for line in process.out.splitlines():
        values |= json.loads(line)
    return values


def test_one_process_has_nobody_to_wait_for():
    hosts = current()
    assert (hosts.index, hosts.count, hosts.is_first) == (0, 1, True)
    value = {"of": (1, 2)}
    assert hosts.gather("a", value) == [value]
    (tree,) = hosts.gather_arrays("b", {"x": np.ones(2)})
    assert tree["x"].tolist() == [1, 1]
    hosts.barrier("c")
    hosts.check()
    hosts.agree("d", {"settings": "x"})
    assert hosts.together("e", lambda: 3) == 3
    with pytest.raises(Stopped):
        hosts.together("e", lambda: (_ for _ in ()).throw(Stopped))
    assert list(hosts.part(5)) == [0, 1, 2, 3, 4]
    hosts.leave(1, "it goes on")


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 128])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_parts_are_whole_and_even(count, processes):
    parts = [list(Hosts(i, processes).part(count)) for i in range(processes)]
    assert [i for part in parts for i in part] == list(range(count))
    dealt = [list(Hosts(i, processes).dealt(count)) for i in range(processes)]
    assert sorted(i for part in dealt for i in part) == list(range(count))
    for sizes in ([len(part) for part in parts], [len(part) for part in dealt]):
        assert max(sizes) - min(sizes) <= 1


def test_the_first_difference_of_a_text_is_its_line():
    words = coordination.differing("a\nrate = 1\nb", "a\nrate = 2\nb", "process 3")
    assert words == "process 0 has 'rate = 1', process 3 has 'rate = 2'"
    words = coordination.differing("a\nb", "a", "process 3")
    assert words == "process 0 has 'b', process 3 has ''"
    assert "has 1, process 3 has None" in coordination.differing(1, None, "process 3")


def test_two_processes_talk(tmp_path):
    first, second = two("talk", tmp_path)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    a, b = told(first), told(second)
    assert (a["is_first"], b["is_first"], a["count"]) == (True, False, 2)
    assert [name[:10] for name in a["names"]] == ["process 0 ", "process 1 "]
    same = ("names", "gathered", "shapes", "sums", "kinds", "inner", "stopped", "done")
    assert {k: a[k] for k in same} == {k: b[k] for k in same}
    assert a["gathered"] == [{"own": 0, "pair": [0, 1]}, {"own": 1, "pair": [1, 1]}]
    assert a["shapes"] == [[3], [1003]]
    assert a["sums"] == [3, 1002 * 1003 // 2]
    assert a["kinds"] == [["tuple", "float32"]] * 2
    assert a["inner"] == [[2, 0], [2, 1]]
    # What all have read is removed: not 20 calls of 2 processes, but one or two.
    assert max(a["grown"], b["grown"]) < 10
    # Asked on the second alone.
    assert a["stopped"]
    assert a["done"] == "done"
    assert a["asked"]
    # They differ in a setting: both are refused, with the same words.
    assert a["refused"] == b["refused"]
    line = a["refused"]
    assert "disagree in settings: process 0 has 'rate = 0.0', process 1 (" in line
    assert "has 'rate = 0.1'" in line
    # The second came too late to one, and the first says so.
    assert "process 1 (" in a["late"]
    assert "did not answer for 1 s at 'elsewhere'" in a["late"]
    # The second was slow, and the first waited.
    assert 0.9 < a["waited"] < 5
    assert b["waited"] < 0.9


def test_an_error_ends_the_others(tmp_path):
    first, second = two("fail", tmp_path)
    assert (first.status, second.status) == (1, 1)
    assert second.last_line == "gru-mem: process 1: no space left on the disk"
    assert first.last_line.startswith("gru-mem: process 0: process 1 (")
    assert first.last_line.endswith(") ended: no space left on the disk")


@pytest.mark.parametrize("killed", [1, 0], ids=["the_last", "the_coordinator"])
def test_a_killed_process_ends_the_others(tmp_path, killed):
    case = "kill_last" if killed else "kill_first"
    ended = two(case, tmp_path, HEARTBEAT="2")
    assert ended[killed].status == -9
    left = ended[1 - killed]
    assert left.status == 1, left.err
    assert left.seconds - ended[killed].seconds < 2 + 3
    line = left.last_line
    # From its watch, or from an exchange that fails first.
    assert re.search(rf"process {killed} \([^()]*\) is lost \(", line), line
    assert "same command again" in line
    assert "last checkpoint" in line


def test_a_process_that_never_comes(tmp_path):
    (alone,) = two("talk", tmp_path, present=(1,), START="2")
    assert alone.status == 1, alone.err
    assert "process 1 could not join the others at 127.0.0.1:" in alone.last_line


def parsed(*words):
    parser = arguments.Parser(prog="gru-mem train")
    arguments.add_host_flags(parser.add_argument)
    return arguments.check_host_flags(parser.parse(words))


def test_flags_of_processes():
    assert not parsed()
    assert parsed("--distributed", "--heartbeat_seconds=5")
    whole = ("--coordinator=10.0.0.1:1234", "--num_processes=2", "--process_id=1")
    assert parsed(*whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_processes=2"], "--num_processes needs --coordinator HOST:PORT"),
        (["--process_id=1"], "--process_id needs --coordinator HOST:PORT"),
        (["--heartbeat_seconds=9"], "needs --distributed or --coordinator"),
        (["--coordinator=h:1"], "--coordinator needs --num_processes"),
        (["--coordinator=h:1", "--num_processes=2"], "needs --process_id"),
        (
            ["--coordinator=h:1", "--num_processes=2", "--process_id=2"],
            "numbered from 0 to 1",
        ),
        (["--coordinator=h"], "expected HOST:PORT, got 'h'"),
        (["--coordinator=h:0"], "expected HOST:PORT"),
        (["--coordinator=h:x"], "expected HOST:PORT"),
        (["--coordinator=h:1", "--distributed"], "leave out --coordinator"),
        (["--distributed", "--heartbeat_seconds=0"], "must be above 0"),
        (["--coordinator=h:1", "--num_processes=0"], "must be at least 1"),
    ],
)
def test_flags_that_do_not_go_together(words, message):
    with pytest.raises(InputError, match=message):
        parsed(*words)
