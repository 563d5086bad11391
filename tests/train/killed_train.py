"""A training process that kills itself: killed_train.py POLICY RUN [PLACE NUMBER].

It trains `quick_settings`, or `quick_sft` where POLICY is "-"; at the NUMBER-th time
that it comes to PLACE it sends itself the signal of the environment variable SIGNAL
(default: SIGKILL).
"""

import os
import signal
import sys

import jax

from gru_mem_jax.runs import metrics
from gru_mem_jax.runs.checkpoints import manager as checkpoints
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.train import evaluate, loop
from gru_mem_jax.train.run import sft, train

PLACES = {
    "sampling": (Engine, "step_until"),
    "updating": (loop, "host_count"),
    "saving": (checkpoints.Checkpoints, "_finish_saving"),
    "writing": (metrics.MetricsWriter, "write"),
    "evaluating": (evaluate, "evaluation_columns"),
}


def kill_at(place, number):
    owner, name = PLACES[place]
    original, count = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] == number:
            os.kill(os.getpid(), int(os.environ.get("SIGNAL", signal.SIGKILL)))
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def main():
    from train_settings import of_policy, quick_settings, quick_sft

    policy, run, *kill = sys.argv[1:]
    jax.config.update("jax_compilation_cache_dir", os.environ["PROGRAMS"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if kill:
        kill_at(kill[0], int(kill[1]))
    command = ["python", *sys.argv]
    if policy == "-":
        sft(quick_sft(), run, command=command)
    else:
        train(of_policy(quick_settings(), policy), run, command=command)


if __name__ == "__main__":
    main()
