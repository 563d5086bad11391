"""Faults R1 and R3: processes that die by signals, and are resumed bit for bit."""

import pathlib
import signal
import subprocess
import sys

import pytest
from train_settings import quick_settings, quick_sft

from gru_mem_jax.train import sft

SCRIPT = pathlib.Path(__file__).with_name("killed_train.py")


def start(run, programs, *kill, signum=signal.SIGKILL):
    """One process; it has the devices and flags of this one, as bit-equality needs."""
    import os

    environment = os.environ | {"PROGRAMS": programs, "SIGNAL": str(int(signum))}
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(run.policy_dir), str(run.path), *kill],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


FIVE_PLACES = (
    ("sampling", "8"),
    ("updating", "3"),
    ("saving", "1"),
    ("writing", "2"),
    ("evaluating", "1"),
)
MORE_PLACES = (
    ("sampling", "2"),
    ("updating", "1"),
    ("writing", "1"),
    ("evaluating", "2"),
    ("saving", "2"),
    ("sampling", "3"),
    ("updating", "2"),
)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(FIVE_PLACES, id="five"),
        pytest.param(MORE_PLACES, id="more", marks=pytest.mark.slow),
    ],
)
def test_killed_and_continued(make_run, unbroken, compiled_programs, kills):
    """One run, killed while sampling, updating, saving, writing a row, evaluating."""
    other, run = unbroken(quick_settings()), make_run()
    for kill in kills:
        process = start(run, compiled_programs, *kill)
        assert process.returncode == -signal.SIGKILL, process.stderr
    process = start(run, compiled_programs)
    assert process.returncode == 0, process.stderr
    assert "finished at step 5" in process.stderr.splitlines()[-1]
    assert run.rows() == other.rows()
    assert run.saved(5) == other.saved(5)
    left = {p.name for p in (run.path / "checkpoints").iterdir()}
    assert left == {"2", "4", "5"}


def test_a_supervised_run_too(make_run, compiled_programs, tmp_path):
    run, other = make_run(), make_run("unbroken")
    run.policy_dir = "-"
    sft(quick_sft(), other.path, quiet=True)
    for kill in (("updating", "2"), ("saving", "1"), ("writing", "3")):
        process = start(run, compiled_programs, *kill)
        assert process.returncode == -signal.SIGKILL, process.stderr
    process = start(run, compiled_programs)
    assert process.returncode == 0, process.stderr
    assert run.rows() == other.rows()
    assert run.saved(6) == other.saved(6)


@pytest.mark.parametrize(
    "place", [("sampling", "8"), ("updating", "3"), ("saving", "1")]
)
def test_sigterm_saves_and_says_how_to_go_on(
    make_run, unbroken, compiled_programs, place
):
    run = make_run()
    process = start(run, compiled_programs, *place, signum=signal.SIGTERM)
    assert process.returncode == 0, process.stderr
    last = process.stderr.splitlines()[-1]
    assert "stopped and saved at step" in last
    assert f"resume with: python {SCRIPT} {run.policy_dir} {run.path}" in last
    run()
    other = unbroken(quick_settings())
    assert run.rows() == other.rows()
    assert run.saved(5) == other.saved(5)
