"""One of several processes that train: several_train.py POLICY RUN OPTIONS FLAGS.

OPTIONS is JSON: "settings" are fields of `quick_settings`, "parts" fields of its parts,
"own" parts of one process alone, "heartbeat" its seconds, "sft" whether the run is a
supervised one, "replay" a folder. "fault": {PROCESS: [PLACE, NUMBER, WHAT]} does WHAT
at the NUMBER-th time that the process comes to PLACE of PLACES: "kill", "term", "slow",
"fail", "full" or "nan". FLAGS are those of the command line.
"""

import argparse
import errno
import json
import os
import signal
import sys
import time

import jax
import killed_train

from gru_mem_jax.cli import arguments, failures
from gru_mem_jax.errors import RunError
from gru_mem_jax.sampling.engine_pool import EnginePool
from gru_mem_jax.train import rl, rollouts, several

PLACES = killed_train.PLACES | {
    "sampling": (EnginePool, "step_until"),
    "updating": (rl, "update"),
    "samples": (rollouts, "write_samples"),
    "recording": (rl, "save_rollouts"),
    "packing": (several, "widened"),
}


def do(what):
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if what == "slow":
        time.sleep(2.0)
    if what == "fail":
        raise RunError("the engine is broken")
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "samples")


def fault_at(place, number, what):
    owner, name = PLACES[place]
    original, count = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] == number:
            do(what)
        result = original(*args, **kwargs)
        if count[0] == number and what == "nan":
            result.advantages[:] = float("nan")
        return result

    setattr(owner, name, counted)


def main():
    from train_settings import changed, of_policy, quick_settings, quick_sft

    from gru_mem_jax.hosts import processes as hosts
    from gru_mem_jax.train.run import sft, train

    policy, run, text, *flags = sys.argv[1:]
    options = json.loads(text)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    parser = argparse.ArgumentParser()
    arguments.add_host_flags(parser.add_argument)
    args = parser.parse_args(flags)
    own = options.get("fault", {}).get(str(args.process_id or 0))
    if own is not None:
        fault_at(*own)
    status, line = 0, ""
    try:
        if arguments.check_host_flags(args):
            hosts.start(
                coordinator=args.coordinator,
                num_processes=args.num_processes,
                process_id=args.process_id,
                heartbeat_seconds=options.get("heartbeat", 5.0),
            )
        make = quick_sft if options.get("sft") else quick_settings
        settings = make(**options.get("settings", {}))
        parts = {k: dict(v) for k, v in options.get("parts", {}).items()}
        own_parts = options.get("own", {}).get(str(args.process_id), {})
        settings = changed(settings, **parts | own_parts)
        command = ["python", *sys.argv]
        if options.get("sft"):
            sft(settings, run, command=command)
        else:
            replay = options.get("replay")
            train(of_policy(settings, policy), run, command=command, replay=replay)
    except Exception as error:
        status = getattr(error, "exit_status", 1)
        line = failures.one_line(error)
        sys.stderr.write(f"gru-mem: {failures.process_name()}{line}\n")
        if os.environ.get("TRACE"):
            import traceback

            traceback.print_exc()
    sys.exit(failures.leave_hosts(status, line))


if __name__ == "__main__":
    main()
