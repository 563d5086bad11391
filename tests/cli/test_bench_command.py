"""`gru-mem bench`: flags, figures and the table."""

import json
import re

import pytest

from gru_mem_jax.cli.bench import table
from gru_mem_jax.cli.main import main

KEYS = (
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "slot_occupancy",
    "compile_seconds",
    "peak_rss_mb",
    "programs",
)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "required: what"),
        (["samplign"], r"unknown value 'samplign' \(did you mean sampling\?\)"),
        (["sampling", "--batch=0"], "--batch: must be at least 1"),
        (["sampling", "--new_tokens=1"], "new_tokens must be at least 2, got 1"),
        (["sampling", "--dtype=float16"], r"--dtype: unknown value 'float16'"),
        (["sampling", "--peer=vllm"], "--peer: unknown value 'vllm'"),
        (["sampling", "--json=no/such/x"], "folder .*no/such does not exist"),
        (["sampling", "--policy=no/such"], "no such policy directory"),
        (["sampling", "--btach=2"], r"did you mean --batch\?"),
        (["update", "--batch=2"], "--batch does not go with bench update"),
        (["sampling", "--remat"], "--remat does not go with bench sampling"),
        (["update", "--groups=0"], "--groups: must be at least 1"),
        (["update", "--passes=2"], "--passes does not go with bench update"),
        (["sampling", "--passes=2", "--groups=2"], "groups and passes: .*alone"),
        (["sampling", "--constrained", "--groups=2"], "groups and constrained: "),
        (["sampling", "--passes=2", "--peer=huggingface"], "passes and peer: "),
        (["update", "--replay=no/such"], "no such folder|does not exist|no rollouts"),
    ],
)
def test_mistakes(flags, expected, capsys):
    assert main(["bench", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(expected, err), err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    import jax

    from gru_mem_jax.policy.config import PolicyConfig
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.hf_export import export_policy

    policy = make_policy(
        PolicyConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    directory = tmp_path_factory.mktemp("bench") / "policy"
    export_policy(policy, policy.init(jax.random.key(0)), directory)
    return directory


def test_figures_of_a_small_policy(policy_dir, tmp_path, capsys):
    flags = [f"--policy={policy_dir}", "--batch=2", "--prompt_tokens=40"]
    flags += ["--new_tokens=64", "--repeats=1", "--dtype=float32"]
    assert main(["bench", "sampling", *flags, f"--json={tmp_path / 'out.json'}"]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    # On a busy machine the decode time of so little, a difference, may be anything.
    assert all(found[key] > 0 for key in KEYS if key != "decode_tokens_per_s")
    assert isinstance(found["decode_tokens_per_s"], float)
    assert found["slot_occupancy"] <= 1
    assert (found["batch"], found["prompt_tokens"], found["new_tokens"]) == (2, 40, 64)
    assert all(re.search(rf"^{key} +-?[\d.]+$", out, re.MULTILINE) for key in KEYS)


def test_figures_of_an_update(policy_dir, tmp_path, capsys):
    flags = [f"--policy={policy_dir}", "--groups=3", "--prefix=20", "--memory=4"]
    flags += ["--completion=3", "--repeats=1", f"--json={tmp_path / 'out.json'}"]
    assert main(["bench", "update", *flags, "--equal_memories"]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    # Three times 24 + 3 tokens; 23 of the prompt are shared.
    assert (found["unshared"]["tokens"], found["shared"]["tokens"]) == (81, 35)
    assert found["gradient_difference"] < 1e-4
    assert re.search(r"^tokens +35   unshared 81   ratio 2\.31$", out, re.MULTILINE)
    assert re.search(r"^update_seconds .* unshared .* ratio [\d.]+$", out, re.MULTILINE)


def test_figures_of_passes(policy_dir, tmp_path, capsys):
    """Chunks of 256 tokens, 8 behind each: FLOPs by hand, with kept keys or not."""
    flags = [f"--policy={policy_dir}", "--passes=3", "--prefix=256", "--memory=5"]
    flags += ["--completion=3", "--batch=2", "--repeats=1"]
    assert main(["bench", "sampling", *flags, f"--json={tmp_path / 'out.json'}"]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    kept, computed = found["shared"], found["unshared"]
    assert computed["tokens_computed"] == 3 * 2 * 261
    assert kept["tokens_computed"] == 2 * 261 + 2 * 2 * 5
    # One layer of width 16: two heads of 8 for queries, keys and values; 3 x 16 x 32;
    # a head of 16 x 64. Each token sees those before it, and half of itself.
    weights, vocab = 2 * (2 + 2) * 8 * 16 + 3 * 16 * 32, 3 * 2 * 16 * 64

    def flops(new, before):
        return 2 * new * weights + 4 * 16 * (new * before + new * new / 2) + vocab

    one, again = 2 * flops(263, 0), 2 * flops(7, 256)
    assert computed["gflops"] * 1e9 == pytest.approx(3 * one)
    assert kept["gflops"] * 1e9 == pytest.approx(one + 2 * again)
    assert computed["times_one_pass"] == pytest.approx(3)
    assert kept["times_one_pass"] == pytest.approx(1 + 2 * again / one)
    assert kept["store_bytes"] == 2 * 256 * 2 * 2 * 8 * 4  # keys and values, float32
    assert re.search(r"^times_one_pass +1\.\d+   unshared 3\.000$", out, re.MULTILINE)
    assert re.search(r"^gflops .* unshared .* ratio [\d.]+$", out, re.MULTILINE)


def test_table_shows_the_ratio_beside_both_figures():
    result = {
        "policy": None,
        "decode_tokens_per_s": 600.04,
        "slot_occupancy": 0.875,
        "peer": {"name": "huggingface", "decode_tokens_per_s": 300.0},
        "decode_ratio": 2.0001,
    }
    assert table(result).splitlines() == [
        "policy               -",
        "decode_tokens_per_s  600.0   huggingface 300.0   ratio 2.00",
        "slot_occupancy       0.875",
    ]


def test_the_table_of_a_group_has_both_engines():
    engine = {"prefill_seconds": 0.5, "cache_bytes": 100, "programs": 5}
    result = {
        "groups": 8,
        "shared": engine,
        "unshared": engine | {"prefill_seconds": 1.5, "cache_bytes": 344},
        "prefill_ratio": 3.0,
        "cache_ratio": 3.44,
    }
    assert table(result).splitlines() == [
        "groups           8",
        "prefill_seconds  0.500   unshared 1.500   ratio 3.00",
        "cache_bytes      100   unshared 344   ratio 3.44",
        "programs         5   unshared 5",
    ]
