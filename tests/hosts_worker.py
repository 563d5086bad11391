"""One of several processes that only talk: hosts_worker.py CASE ADDRESS COUNT INDEX.

What it prints is JSON lines; its error goes to stderr as the command line prints it.
"""

import json
import os
import signal
import sys
import time

import numpy as np

from gru_mem_jax.cli import failures
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.hosts import coordination
from gru_mem_jax.hosts import processes as hosts_lib


class Stop:
    """As runs.signals.StopSignal."""

    requested = False

    def request(self):
        self.requested = True


def say(**values):
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def exchange(hosts):
    """Values, arrays in parts, and what is left in the store after many calls."""
    own = hosts.index
    say(names=hosts.names, count=hosts.count, is_first=hosts.is_first)
    say(gathered=hosts.gather("number", {"own": own, "pair": (own, 1)}))
    coordination._PART = 1000
    tree = {"a": np.arange(1000 * own + 3), "b": (np.float32(own), [np.ones((2, own))])}
    trees = hosts.gather_arrays("trees", tree)
    say(
        shapes=[t["a"].shape for t in trees],
        sums=[int(t["a"].sum()) for t in trees],
        kinds=[[type(t["b"]).__name__, str(t["b"][0].dtype)] for t in trees],
        inner=[t["b"][1][0].shape for t in trees],
    )

    def left():
        return len(coordination.state().client.key_value_dir_get_bytes("gru_mem/call"))

    for _ in range(3):
        hosts.gather_arrays("many", tree)
    hosts.barrier("counted")
    few = left()
    for _ in range(20):
        hosts.gather_arrays("many", tree)
    hosts.barrier("counted")
    say(grown=left() - few)


def stop(hosts):
    """Work that one process is asked to stop ends on all; so does the next of each."""
    ask = Stop()
    hosts.share(ask)

    def work():
        if hosts.index == 1:
            raise hosts_lib.Stopped
        return "done"

    stopped = False
    try:
        hosts.together("work", work)
    except hosts_lib.Stopped:
        stopped = True
    say(stopped=stopped, done=hosts.together("work", lambda: "done"))
    if hosts.index == 1:
        ask.request()
    deadline = time.monotonic() + 20
    while not ask.requested and time.monotonic() < deadline:
        time.sleep(0.01)
    say(asked=ask.requested)
    hosts.barrier("asked")


def slow(hosts):
    """A process that is waited for is no error; the wait is told."""
    hosts.take_waited()
    if hosts.index == 1:
        time.sleep(1.0)
    hosts.barrier("slow")
    say(waited=hosts.take_waited())


def disagree(hosts):
    text = "\n".join(["a = 1", f"rate = 0.{hosts.index}", "b = 2"])
    try:
        hosts.agree("settings", {"same": 1, "settings": text})
    except InputError as error:
        say(refused=str(error))


def late(hosts):
    hosts.barrier("here")
    if hosts.index == 1:
        time.sleep(2.0)
    else:
        hosts.limit_seconds = 1.0
    try:
        hosts.barrier("elsewhere")
    except RunError as error:
        say(late=str(error))
    hosts.limit_seconds = 60.0


def fail(hosts):
    if hosts.index == 1:
        raise RunError("no space left on the disk")
    while True:
        hosts.barrier("round")
        time.sleep(0.01)


def kill(hosts, index):
    hosts.barrier("ready")
    if hosts.index == index:
        os.kill(os.getpid(), signal.SIGKILL)
    hosts.barrier("never")


CASES = {
    "talk": [exchange, stop, slow, disagree, late],
    "fail": [fail],
    "kill_last": [lambda hosts: kill(hosts, 1)],
    "kill_first": [lambda hosts: kill(hosts, 0)],
}


def main():
    case, address, count, index = sys.argv[1:]
    status, line = 0, ""
    try:
        hosts = hosts_lib.start(
            coordinator=address,
            num_processes=int(count),
            process_id=int(index),
            heartbeat_seconds=float(os.environ.get("HEARTBEAT", "30")),
            start_seconds=float(os.environ.get("START", "60")),
        )
        with hosts.telling():
            for step in CASES[case]:
                step(hosts)
    except Exception as error:
        status, line = getattr(error, "exit_status", 1), failures.one_line(error)
        sys.stderr.write(f"gru-mem: {failures.process_name()}{line}\n")
    sys.exit(failures.leave_hosts(status, line))


if __name__ == "__main__":
    main()
