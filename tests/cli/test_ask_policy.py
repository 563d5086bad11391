"""`gru-mem ask` with a policy: random weights, so the words mean nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from cli_helpers import environment, random_policy, without_times

from gru_mem_jax.cli.main import main

SETTINGS = {
    "chunk_size": 64,
    "question_tokens": 32,
    "memory_tokens": 32,
    "completion_tokens": 24,
    "prompt_tokens": 256,
    "prompt": {"style": "compact"},
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A Qwen2-shaped policy with the word tokenizer, as a Hugging Face directory."""
    return random_policy(tmp_path_factory.mktemp("policy"), SETTINGS)


class Runs:
    """The same question, asked again and again; programs are compiled once."""

    def __init__(self, policy, folder):
        self.folder = folder
        self.json_path = folder / "out.json"
        context = folder / "context.txt"
        context.write_text("the heron is in the garden, and so is the fox. " * 40)
        self.words = [
            "ask",
            f"--policy={policy}",
            "--question=Where is the heron?",
            f"--context={context}",
            f"--json={self.json_path}",
            "--trace",
        ]

    def start(self, *more, interpreter=(), **env) -> subprocess.Popen:
        program = [sys.executable, *interpreter, "-m", "gru_mem_jax.cli.main"]
        env = {"GRU_MEM_CACHE_DIR": str(self.folder / "cache")} | env
        return subprocess.Popen(
            [*program, *self.words, *more],
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *more, **kwargs) -> tuple[str, dict]:
        """(stderr, the trajectory)"""
        process = self.start(*more, **kwargs)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert out
        return err, json.loads(self.json_path.read_text())


@pytest.fixture(scope="module")
def runs(policy, tmp_path_factory):
    return Runs(policy, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def first(runs):
    """The first run: it compiles."""
    return runs.run()


def test_compilation_is_shown_and_kept_on_disk(runs, first):
    err, document = first
    assert re.search(r"^compiled (decode|prefill) in \d+\.\d s$", err, re.MULTILINE)
    assert document["num_chunks"] >= 8
    assert os.listdir(runs.folder / "cache")
    err, again = runs.run()
    assert "\ncompiled" not in err
    assert without_times(again) == without_times(document)  # logprobs too, bit for bit


def test_trace(first):
    _, document = first
    for turn in document["turns"]:
        assert len(turn["prompt_ids"]) == turn["prompt_tokens"]
        assert len(turn["completion_ids"]) == turn["completion_tokens"]
        assert len(turn["logprobs"]) == turn["completion_tokens"]
        assert all(-50 < p <= 0 for p in turn["logprobs"])
    assert document["metadata"]["dtype"] == "float32"
    assert document["settings"]["chunk_size"] == 64


def test_interrupted_and_resumed_is_equal_bit_for_bit(runs, first):
    process = runs.start()
    for line in process.stderr:
        if line.startswith("chunk 3 "):
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode == 130
    part = json.loads(runs.json_path.read_text())
    assert part["interrupted"] is True
    assert 3 <= len(part["turns"]) < len(first[1]["turns"])
    _, whole = runs.run("--resume")
    assert without_times(whole) == without_times(first[1])


@pytest.mark.parametrize(
    ("env", "interpreter"),
    [({"HOME": None, "LC_ALL": "C"}, ("-O",))],
    ids=["no_home_c_locale_optimised"],
)
def test_poor_surroundings(runs, first, env, interpreter):
    _, document = runs.run("--max_chunks=2", interpreter=interpreter, **env)
    assert document["turns"][0]["logprobs"] == first[1]["turns"][0]["logprobs"]
    assert document["stop_reason"] == "max_chunks"


def test_another_seed_draws_other_tokens(runs, first):
    _, other = runs.run("--seed=5", "--max_chunks=1")
    assert other["turns"][0]["prompt_ids"] == first[1]["turns"][0]["prompt_ids"]
    assert other["turns"][0]["completion_ids"] != first[1]["turns"][0]["completion_ids"]


def broken(policy, folder, change):
    """A copy of the policy, changed by a function of its path."""
    copy = folder / "broken"
    shutil.copytree(policy, copy)
    change(copy)
    return copy


def without_weights(path):
    (path / "model.safetensors").unlink()


def only_pickle(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def truncated(path):
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_tokenizer(path):
    (path / "tokenizer.json").unlink()


def no_config(path):
    (path / "config.json").unlink()


def bad_config(path):
    (path / "config.json").write_text("{")


def unknown_architecture(path):
    (path / "config.json").write_text('{"model_type": "mamba"}')


def bad_settings(path):
    (path / "gru_mem.json").write_text('{"chunk_size": -1}')


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_weights, "safetensors"),
        (only_pickle, "convert"),
        (truncated, "model.safetensors"),
        (no_tokenizer, "tokenizer.json"),
        (no_config, "config.json"),
        (bad_config, "config.json"),
        (unknown_architecture, "mamba"),
        (bad_settings, "chunk_size"),
    ],
)
def test_a_broken_policy_is_one_line(policy, tmp_path, change, expected, capsys):
    folder = broken(policy, tmp_path, change)
    context = tmp_path / "context.txt"
    context.write_text("text")
    status = main(
        ["ask", f"--policy={folder}", "--question=Why?", f"--context={context}"]
    )
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("gru-mem: ")
    assert expected in last
    assert "Traceback" not in err
