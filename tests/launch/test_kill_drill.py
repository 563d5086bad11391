"""launch/kill_drill.sh with two processes: one is killed, or asked to stop."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from launch_scripts import LAUNCH, ROOT, launch

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.tiny import tokenizer
from gru_mem_jax.tokenization import TextTokenizer

HERE = pathlib.Path(__file__).parent
GRU_MEM = pathlib.Path(sys.executable).parent / "gru-mem"


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    """A random policy of width 16."""
    files = tmp_path_factory.mktemp("tokenizer")
    names = tokenizer.save(files)
    encoder = TextTokenizer.from_pretrained(files)
    policy = make_policy(
        PolicyConfig(
            vocab_size=encoder.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            eos_token_ids=encoder.stop_ids,
        )
    )
    target = tmp_path_factory.mktemp("policy") / "policy"
    params = policy.init(jax.random.key(0))
    export_policy(policy, params, target, tokenizer_files=[files / n for n in names])
    return target


@pytest.fixture(scope="module")
def drill(policy_dir, tmp_path_factory):
    """Runs the drill; gives its lines and its folder."""
    programs = tmp_path_factory.mktemp("programs")

    def run(*words, steps=12):
        out = tmp_path_factory.mktemp("drill") / "out"
        words = [
            *["--processes", "2", "--policy", policy_dir, "--out", out],
            *["--gin_file", HERE / "drill.gin", f"--gin.NUM_STEPS={steps}"],
            *[f"--gin.SAVE_EVERY={steps // 4}", *words],
        ]
        env = os.environ | {
            "GRU_MEM": str(GRU_MEM),
            "GRU_MEM_CACHE_DIR": str(programs),
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            ["bash", LAUNCH / "kill_drill.sh", *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
        )
        logs = "\n".join(log.read_text() for log in out.glob("*.log"))
        assert done.returncode == 0, done.stderr + logs
        assert re.match(rf"equal: \d+ rows, \d+ arrays of step {steps}", done.stdout)
        found = re.findall(r"SIG\w+ \d to process (\d) .*: status (\d+) ", done.stderr)
        return found, out

    return run


def test_one_of_two_processes_is_killed(drill):
    [(_, status)], out = drill("--kills", "1", "--seed", "1", steps=8)
    assert status == "137"
    statuses = [(out / "ended.logs" / f"process_{i}.status") for i in (0, 1)]
    assert [path.read_text() for path in statuses] == ["0\n", "0\n"]  # of the last run


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "status"), [("KILL", "137"), ("TERM", "0")])
def test_many_signals(drill, signal, status):
    words = ["--kills", "4", "--signal", signal, "--devices", "2"]
    words += ["--gin.LoopConfig.eval_every=3"]
    found, _ = drill(*words)
    assert {process for process, _ in found} == {"0", "1"}
    assert {each for _, each in found} == {status}


def test_wrong_words_are_refused(bare_path):
    for words, told in {
        ("--processes", "two"): "whole numbers from 1",
        ("--devices", "0"): "whole numbers from 1",
        ("--kills",): "--kills is unknown or needs a value",
        ("--signal", "HUP"): "--signal is KILL or TERM",
        ("--kill", "3"): "unknown argument --kill",
    }.items():
        done = launch("kill_drill.sh", *words, path=bare_path, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
