"""Evaluates, is killed after some turns, and goes on: ten times, then to the end.

    python killed_asking.py OUT

Prints how many questions were scored before each kill.
"""

import os
import random
import signal
import sys

from oracle_sets import oracle_generator, question_sets
from test_asking import MODES, evaluated

from gru_mem_jax.evaluation.folder import ResultsFolder


def run(out: str, turns: int | None) -> None:
    """Evaluates in a process that kills itself before a turn is taken."""
    left = turns

    def before() -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    generator = oracle_generator(capacity=3)
    step = generator.step

    def stepped():
        before()
        return step()

    generator.step = stepped
    evaluated(out, question_sets(), MODES, generator)


def main(out: str) -> None:
    random.seed(0)
    for _ in range(10):
        turns = random.randrange(5, 50)
        if (pid := os.fork()) == 0:
            run(out, turns)
            os._exit(1)  # it was to be killed
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit("a process was not killed")
        folder = os.path.join(out, "evaluation.json")
        print(len(ResultsFolder(out).answers()) if os.path.exists(folder) else 0)
    run(out, None)


if __name__ == "__main__":
    main(sys.argv[1])
