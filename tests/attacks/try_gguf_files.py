"""Imports each hostile GGUF file in one process, and tells what came of it.

    python tests/attacks/try_gguf_files.py FOLDER NAME...

One line of JSON for each file of FOLDER: name, error class, message, seconds of CPU
time, resident megabytes at their highest so far; as of try_policy_dirs.py.
"""

import json
import pathlib
import sys
import time

from gru_mem_jax.policy.gguf import import_gguf


def main(folder: pathlib.Path, names: list[str]) -> None:
    for name in names:
        started = time.process_time()
        error, message = "none", ""
        try:
            import_gguf(folder / name, folder / "out" / name)
        except Exception as caught:
            error, message = type(caught).__name__, str(caught)
        seconds = time.process_time() - started
        print(json.dumps([name, error, message, seconds, peak_mb()]), flush=True)


def peak_mb() -> float:
    """Of this process; getrusage would tell that of the one that started it."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
