"""Compiled programs are kept on disk where that is possible; compiling is announced."""

import os
import subprocess
import sys
import time

import jax
import pytest
from cli_helpers import environment

from gru_mem_jax.cli import runtime
from gru_mem_jax.runs.compilation import CompilationNotices


@pytest.fixture
def clean(monkeypatch):
    for name in ("GRU_MEM_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_cache_dir_in_order_of_precedence(clean, tmp_path):
    clean.setenv("HOME", str(tmp_path))
    assert runtime.cache_dir() == tmp_path / ".cache" / "gru_mem_jax"
    clean.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert runtime.cache_dir() == tmp_path / "x" / "gru_mem_jax"
    clean.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "j"))
    assert runtime.cache_dir() == tmp_path / "j"
    clean.setenv("GRU_MEM_CACHE_DIR", str(tmp_path / "g"))
    assert runtime.cache_dir() == tmp_path / "g"


@pytest.mark.parametrize("value", ["", "off", "0", "/proc/nowhere", "/dev/null/x"])
def test_no_cache(clean, value):
    clean.setenv("GRU_MEM_CACHE_DIR", value)
    assert runtime.cache_dir() is None


def test_no_home(clean):
    clean.setattr(runtime.pathlib.Path, "home", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runtime.cache_dir()

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    clean.setattr(runtime.pathlib.Path, "home", nobody)
    assert runtime.cache_dir() is None


def test_slow_compilation_is_announced_and_quick_is_not():
    said = []
    notices = CompilationNotices(
        lambda name: said.append(("began", name)),
        lambda name, seconds, hit: said.append(("ended", name, hit)),
        patience=0.1,
    )
    lowered, compiled, hit = notices._LOWERED, notices._COMPILED, notices._HIT
    with notices:
        record = jax.monitoring.record_event_duration_secs
        record(lowered, 0.01, fun_name="jit(quick)")
        record(compiled, 0.01, fun_name="jit(quick)")
        record(lowered, 0.01, fun_name="jit(slow)")
        time.sleep(0.3)
        record(compiled, 0.3, fun_name="jit(slow)")
        record(lowered, 0.01, fun_name="jit(loaded)")
        jax.monitoring.record_event(hit)
        record(compiled, 0.2, fun_name="jit(loaded)")
    record(lowered, 0.01, fun_name="jit(after)")
    time.sleep(0.2)
    assert said == [
        ("began", "slow"),
        ("ended", "slow", False),
        ("ended", "loaded", True),
    ]


COMPILE = """
import jax, jax.numpy as jnp
from gru_mem_jax.cli import runtime
from gru_mem_jax.runs.compilation import CompilationNotices
runtime.start()
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
@jax.jit
def heavy(x):
    for i in range(300):
        x = jnp.tanh(x @ x.T) + jnp.sort(x, axis=i % 2)
    return x
heavy(jnp.ones((8, 8))).block_until_ready()
print(seen.count(CompilationNotices._HIT))
"""


def test_programs_are_found_again_by_the_next_process(tmp_path):
    hits = []
    for _ in range(2):
        found = subprocess.run(
            [sys.executable, "-c", COMPILE],
            env=environment(GRU_MEM_CACHE_DIR=str(tmp_path)),
            capture_output=True,
            text=True,
            check=True,
        )
        hits.append(int(found.stdout))
        assert found.stderr == ""
    assert hits[0] == 0
    assert hits[1] >= 1
    assert os.listdir(tmp_path)
