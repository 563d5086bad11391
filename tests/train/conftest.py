"""A tiny policy directory, quick settings, and compiled programs kept between runs."""

import json
import pathlib

import jax
import pytest
from jax.sharding import SingleDeviceSharding
from train_settings import make_policy_dir, of_policy, quick_settings

from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.runs.metrics import read_metrics
from gru_mem_jax.train.run import train


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """A run begins with new programs: runs of one shape find them on disk."""
    from jax.experimental.compilation_cache import compilation_cache

    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield names["jax_compilation_cache_dir"]
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory):
    return make_policy_dir(tmp_path_factory.mktemp("policy"))


class Run:
    """Starts runs of one folder, and reads what they leave."""

    def __init__(self, policy_dir, path):
        self.policy_dir, self.path = policy_dir, path

    def __call__(self, settings=None, *, policy_dir=None, **options):
        return train(
            of_policy(settings or quick_settings(), policy_dir or self.policy_dir),
            self.path,
            **{"quiet": True, **options},
        )

    def rows(self, times=False):
        rows = read_metrics(self.path / "metrics.jsonl")
        return [{k: v for k, v in r.items() if times or not is_time(k)} for r in rows]

    def saved(self, step):
        """A step's arrays as bytes, by tree and name; it must be good."""
        with Checkpoints(self.path / "checkpoints", create=False) as checkpoints:
            assert checkpoints.problems(step) == ()
        return saved_arrays(self.path / "checkpoints" / str(step))

    def log(self):
        return (self.path / "log.txt").read_text()


def saved_arrays(folder: pathlib.Path):
    """Every array of a saved step, as bytes, whatever it is saved as."""
    import numpy as np
    import orbax.checkpoint as ocp

    record = json.loads((folder / "record.json").read_text())
    handler = ocp.CompositeCheckpointHandler()
    here = SingleDeviceSharding(jax.devices()[0])  # wherever it was saved
    args = {
        name: ocp.args.StandardRestore(fallback_sharding=here)
        for name in record["trees"]
    }
    with ocp.Checkpointer(handler) as reader:
        restored = reader.restore(folder, args=ocp.args.Composite(**args))
    return {
        f"{name}.{key}": np.asarray(leaf).tobytes()
        for name in record["trees"]
        for key, leaf in restored[name].items()
    }


@pytest.fixture
def make_run(policy_dir, tmp_path):
    return lambda name="run": Run(policy_dir, tmp_path / name)


@pytest.fixture(scope="session")
def unbroken(policy_dir, tmp_path_factory):
    """Runs that nobody stops, by their settings; each is made once."""
    runs = {}

    def of(settings, **options):
        key = repr((settings, options))
        if key not in runs:
            path = tmp_path_factory.mktemp("unbroken") / "run"
            runs[key] = Run(policy_dir, path)
            runs[key](settings, **options)
        return runs[key]

    return of
