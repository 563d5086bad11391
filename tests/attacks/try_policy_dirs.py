"""Loads each hostile policy directory in one process, and tells what came of it.

    python tests/attacks/try_policy_dirs.py FOLDER

FOLDER holds the directories and `names.json`, an object from names to their numbers.

One line of JSON for each attack: name, error class, message, seconds of CPU time,
resident megabytes at their highest so far. A process of its own, so that its memory is
that of loading and of nothing else; a hang is seen by whoever waits for the next line.
"""

import json
import pathlib
import sys
import time

from gru_mem_jax.policy.hf import load_policy


def main(folder: pathlib.Path) -> None:
    for name, number in json.loads((folder / "names.json").read_text()).items():
        directory = folder / str(number)
        started = time.process_time()
        error, message = "none", ""
        try:
            load_policy(directory)
        except Exception as caught:
            error, message = type(caught).__name__, str(caught)
        seconds = time.process_time() - started
        record = [name, error, message, seconds, peak_mb(), "jax" in sys.modules]
        print(json.dumps(record), flush=True)


def peak_mb() -> float:
    """Of this process; getrusage would tell that of the one that started it."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
