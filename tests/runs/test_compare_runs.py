"""Two runs are told apart by one number of a row, and by one bit of an array."""

import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import MetricsWriter
from gru_mem_jax.testing import compare_runs

OPTIONS = {"command": ["a"], "config_text": "", "environment": {}}


def make(path, *, steps=3, reward=0.5, seconds=1.0, w=1.0, last=2, trees=None):
    with RunFolder.open(path, **OPTIONS) as run:
        with MetricsWriter(run.metrics) as metrics:
            for step in range(steps):
                row = {"reward": reward if step else 0.5, "update_seconds": seconds}
                metrics.write(step, row | {"tokens_per_s": seconds})
        with Checkpoints(run.checkpoints) as checkpoints:
            params = {
                "a": {"w": np.array([0, w], np.float32)},
                "b": jnp.ones(2, "bfloat16"),
            }
            checkpoints.save(last, {"params": params, "none": {}} | (trees or {}))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "whole")


def test_equal_but_for_times(whole, tmp_path, capsys):
    other = make(tmp_path / "other", seconds=2.0)
    assert compare_runs.main([str(whole), str(other)]) == 0
    assert capsys.readouterr().out == "equal: 3 rows, 2 arrays of step 2\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": 0.25}, "at step 1: reward is 0.5, expected 0.25, as in"),
        ({"steps": 2}, "3 rows, .*: 2"),
        ({"last": 3}, "ends at step 2, .*: 3"),
        ({"w": np.nextafter(np.float32(1), 2)}, "params.a.w differs .* in 1 numbers"),
        ({"trees": {"x": {"y": np.zeros(1)}}}, "only one has x.y"),
    ],
)
def test_different(whole, tmp_path, capsys, change, message):
    other = make(tmp_path / "other", **change)
    assert compare_runs.main([str(whole), str(other)]) == 1
    with pytest.raises(compare_runs.RunError, match=message):
        compare_runs.compare_runs(whole, other)
    assert capsys.readouterr().err.count("\n") == 1


def test_not_comparable(whole, tmp_path, capsys):
    assert compare_runs.main([str(whole), str(tmp_path)]) == 2
    assert compare_runs.main([str(whole)]) == 2
    assert "not a run folder" in capsys.readouterr().err
