"""The learner in two processes, each with its own rows, against one device."""

import json
import pathlib
import sys

import pytest
from several_learner import step
from test_learner import CONFIG, OBJECTIVE, POLICY

from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.testing.processes import free_port, running

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["1,8,1", "2,2,2"])
def test_two_processes_learn_what_one_device_does(sizes, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    commands = [
        [sys.executable, str(HERE / "several_learner.py"), address, str(i), sizes]
        for i in range(2)
    ]
    with running(commands, tmp_path, devices=4) as processes:
        ended = processes.wait(300)
    assert [each.status for each in ended] == [0, 0], [each.err for each in ended]
    first, second = (json.loads(each.out.splitlines()[-1]) for each in ended)
    assert first == second
    assert first.pop("owners") == [0] * 4 + [1] * 4
    want = step(compile_learner(POLICY, OBJECTIVE, CONFIG))
    assert first == pytest.approx(want, rel=1e-5)
