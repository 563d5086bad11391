"""The benchmark on a policy of a few thousand weights."""

import importlib.util

import pytest

from gru_mem_jax.bench import sampling as bench
from gru_mem_jax.bench.constrained import turn_constraint
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.grammar.automaton import EXIT, UPDATE, walk
from gru_mem_jax.policy.hf_export import export_policy

SIZES = {"batch": 2, "prompt_tokens": 20, "new_tokens": 5, "repeats": 1}


@pytest.fixture(scope="module")
def policy_dir(small, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench") / "policy"
    export_policy(small.policy, small.params, directory)
    return str(directory)


def test_figures_without_a_tokenizer_and_without_a_peer(policy_dir):
    lines = []
    config = bench.BenchConfig(policy=policy_dir, **SIZES)
    got = bench.measure(config, lines.append)
    assert got["batch"] == 2
    assert got["devices"] == got["engines"] == 8
    for rate in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        assert got[rate] == pytest.approx(8 * got[f"{rate}_per_device"])
        assert got[rate] > 0
    assert 0.5 < got["slot_occupancy"] <= 1.0
    assert got["programs"] >= 2
    assert got["compile_seconds"] > 0
    assert got["peak_rss_mb"] > 50
    assert not any(name.endswith("_ratio") for name in got)
    assert any("tokens/s" in line for line in lines)


def test_constrained_rows_beside_free_ones(policy_dir):
    lines = []
    config = bench.BenchConfig(policy=policy_dir, constrained=True, **SIZES)
    got = bench.measure(config, lines.append)
    rate = got["constrained_decode_tokens_per_s"]
    assert rate == pytest.approx(8 * got["constrained_decode_tokens_per_s_per_device"])
    assert rate > 0
    assert any(line.endswith(f"constrained {rate:.0f} tokens/s") for line in lines)


@pytest.mark.parametrize("text", [[50] * 4 + [2], [50, 2], [2]])
def test_the_benchs_constraint_is_a_turn(text):
    """Pieces of forced tokens, texts that end by budget or by 2, gates of 0 and 1."""
    piece = [3] * 8
    ids = [*piece, *text, *piece, 0, *piece, *text, *piece, 1, *piece]
    steps = walk(turn_constraint(101, 16), ids)
    assert [step.gate for step in steps if step.gate >= 0] == [UPDATE, EXIT]
    assert sum(step.support == 1 for step in steps) == 2 * min(len(text), 4)
    with pytest.raises(RunError, match="token 12, id 50"):
        walk(turn_constraint(101, 16), [*piece, *[50] * 5])


def test_a_group_with_trunks_and_without(policy_dir):
    sizes = {"groups": 3, "prefix": 40, "memory": 20, "completion": 4, "repeats": 1}
    config = bench.BenchConfig(policy=policy_dir, **sizes)
    got = bench.measure(config, lambda line: None)
    shared, plain = got["shared"], got["unshared"]
    assert shared["prefill_tokens"] == plain["prefill_tokens"] == 40 + 3 * 19
    # 2 x 2 layers x 2 heads x 8 numbers of 4 bytes
    assert plain["cache_bytes"] == 256 * 3 * 64
    assert shared["cache_bytes"] == 256 * (3 * 24 + 40)
    assert got["cache_ratio"] == plain["cache_bytes"] / shared["cache_bytes"]
    for name, key in (("prefill", "prefill_seconds"), ("decode", "decode_seconds")):
        assert got[f"{name}_ratio"] == pytest.approx(plain[key] / shared[key])
    assert got["slots_ratio"] == pytest.approx(64 / (24 + 40 / 3))


@pytest.mark.torch
def test_the_peer_runs_on_the_same_weights(policy_dir):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    config = bench.BenchConfig(policy=policy_dir, peer="huggingface", **SIZES)
    got = bench.measure(config, lambda line: None)
    peer = got["peer"]
    assert peer["name"] == "huggingface"
    assert peer["peak_rss_mb"] > 50
    for name in ("prefill", "decode"):
        key = f"{name}_tokens_per_s"
        ours = got[key] / got["devices"]  # the peer has one device
        assert got[f"{name}_ratio"] == pytest.approx(ours / peer[key])


def test_a_peer_that_fails_is_told_in_one_line(policy_dir, tmp_path):
    config = bench.BenchConfig(policy=policy_dir, peer="huggingface", **SIZES)
    with (
        pytest.raises((RunError, InputError)) as caught,
        bench._peer(str(tmp_path), config) as peer,
    ):
        peer.rates()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"prompt_tokens": -3},
        {"new_tokens": 1},
        {"repeats": 1.5},
        {"dtype": "float16"},
        {"peer": "tunix"},
        {"groups": 0},
        {"constrained": True, "groups": 2},
        {"groups": 2, "peer": "huggingface"},
        {"memory": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        bench.BenchConfig(**change)
