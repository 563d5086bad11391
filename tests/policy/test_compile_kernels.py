"""Attention compiled for TPUs that nobody holds: what "auto" chooses is in there."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for a TPU needs libtpu, of the extra tpu",
)
# A layer's keys on a device: a program that moved or copied them would hold them.
KEYS = 64 * 1 * 4096 * 128 * 2


def programs(chip):
    """How many kernels each program has, and bytes of its temporaries."""
    script = pathlib.Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, script, chip], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    found = {line["name"]: line for line in map(json.loads, lines)}
    return (
        {name: line["kernels"] for name, line in found.items()},
        {name: line["temp"] for name, line in found.items()},
    )


def test_on_v5e():
    kernels, temp = programs("v5e")
    assert kernels.pop("update") >= 3
    # Forward, gradient of queries, gradient of keys and values, in a loop over layers;
    # a decode step has one kernel a layer.
    assert kernels == {"rows": 3, "decode": 2}
    assert temp["decode"] < KEYS / 8


@pytest.mark.slow
def test_on_v5p():
    kernels, temp = programs("v5p")
    # The last layer of a prefill attends to no purpose: its keys are all that is kept.
    assert kernels == {"rows": 3, "windows": 3, "decode": 2, "prefill": 1}
    assert temp["decode"] < KEYS / 8
    assert temp["prefill"] < KEYS
