"""The update's benchmark: what it packs, and that both forms have one gradient."""

import numpy as np
import pytest

from gru_mem_jax.bench import update
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_export import export_policy

SIZES = {"groups": 4, "prefix": 20, "memory": 6, "completion": 5, "repeats": 1}


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    import jax

    policy = make_policy(
        PolicyConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    directory = tmp_path_factory.mktemp("bench") / "policy"
    export_policy(policy, policy.init(jax.random.key(0)), directory)
    return str(directory)


def test_a_group_is_measured(policy_dir):
    lines = []
    config = update.UpdateBenchConfig(policy=policy_dir, **SIZES)
    result = update.measure(config, lines.append)
    # 4 x (20 + 6 + 5) tokens; 20 of them four times the same.
    assert result["unshared"]["tokens"] == 124
    assert result["shared"]["tokens"] == 124 - 3 * 20
    assert result["token_ratio"] == pytest.approx(124 / 64)
    assert result["shared"]["rows"] == 1
    assert (result["conversations"], result["sampled_tokens"]) == (4, 20)
    pairs = 31 * 32 // 2
    assert result["unshared"]["pairs"] == 4 * pairs
    assert result["shared"]["pairs"] == 4 * pairs - 3 * (20 * 21 // 2)
    assert 0 < result["gradient_difference"] < 1e-4
    assert 0 <= result["packing_difference"] < 1e-4
    for name in ("update_ratio", "score_ratio", "temporaries_ratio"):
        assert result[name] > 0
    assert lines[-1].startswith("run 1 of 1: unshared ")


def test_equal_memories_are_shared_to_the_last_token():
    rng = np.random.default_rng(0)
    group = update.random_group(
        rng, 50, groups=3, prefix=4, memory=3, completion=2, equal_memories=True
    )
    assert len({turn.prompt_ids for turn in group}) == 1
    apart = update.random_group(rng, 50, groups=3, prefix=4, memory=3, completion=2)
    assert len({turn.prompt_ids[:4] for turn in apart}) == 1
    assert len({turn.prompt_ids[4:] for turn in apart}) == 3


def test_differences_are_by_leaf():
    a = {"x": np.array([1.0, -4.0]), "y": np.array([0.0])}
    b = {"x": np.array([1.0, -3.0]), "y": np.array([0.0])}
    assert update.difference(a, b) == 0.25


def test_there_must_be_rollouts_to_replay(tmp_path):
    config = update.UpdateBenchConfig(replay=str(tmp_path), repeats=1)
    with pytest.raises(InputError, match="no rollouts of step 1 to replay"):
        update.measure(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 0}, "groups"),
        ({"row_tokens": 1}, "row_tokens"),
        ({"logits_chunk": 0}, "logits_chunk"),
        ({"equal_memories": "yes"}, "equal_memories must be True or False"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        update.UpdateBenchConfig(**fields)
