"""A short supervised run: it learns, and what it leaves can be used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.agent.config import config_from_json
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.metrics import read_metrics
from gru_mem_jax.sft import OptimizerConfig, SFTConfig, TinyModel, run
from gru_mem_jax.sft.step import make_optimizer, schedule
from gru_mem_jax.sft.train import agent_settings, plan
from gru_mem_jax.tokenization import TextTokenizer

SMALL = SFTConfig(
    model=TinyModel(hidden_size=96, intermediate_size=32),
    steps=30,
    short_steps=20,
    rows=2,
    eval_every=20,
    eval_turns=24,
    log_every=1,
    pool_turns=64,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("sft")
    return out, run(SMALL, out, quiet=True)


def test_the_loss_falls(finished):
    out, result = finished
    rows = read_metrics(out / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 30
    assert losses[0] > 4.5  # by chance log 694 = 6.5; the start copies a little
    assert np.mean(losses[-5:]) < losses[0] - 1
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-6)
    looked = [row for row in rows if "exact/gated" in row]
    assert [row["step"] for row in looked] == [20]
    assert {"gated", "memagent", "answer", "gated/with_evidence"} <= set(result.exact)


def test_what_is_saved_is_one_policy(finished):
    out, result = finished
    assert result.policy_dir == out / "policy"
    policy, params = load_policy(result.policy_dir)
    assert policy.config.family == "qwen2"
    abstract = make_policy(policy.config).abstract_params()
    with Checkpoints(out / "checkpoints", create=False) as checkpoints:
        assert checkpoints.steps() == (30,)
        restored = checkpoints.restore({"params": abstract})["params"]
    jax.tree.map(np.testing.assert_array_equal, restored, params)
    encoder = TextTokenizer.from_pretrained(result.policy_dir)
    encoder.check_rows(policy.config.vocab_size)
    assert encoder.vocab_size == policy.config.vocab_size
    settings = (result.policy_dir / "gru_mem.json").read_text(encoding="utf-8")
    config = config_from_json(settings)
    assert (config.chunk_size, config.prompt.style) == (64, "compact")
    assert config.sampling.temperature == 0


@pytest.mark.torch
def test_transformers_gives_the_same_logits(finished):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    _, result = finished
    theirs = AutoModelForCausalLM.from_pretrained(result.policy_dir)
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    policy, params = load_policy(result.policy_dir)
    tokens = np.random.default_rng(0).integers(0, policy.config.vocab_size, (2, 90))
    positions = np.broadcast_to(np.arange(90, dtype=np.int32), (2, 90))
    ours = policy.apply(params, jnp.asarray(tokens, jnp.int32), jnp.asarray(positions))
    with torch.no_grad():
        logits = theirs(torch.as_tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours), logits, atol=1e-4)


def test_going_on_from_a_policy(finished, tmp_path):
    """The weights that were saved are where the next run begins, tokenizer and all."""
    first = finished[1].policy_dir
    config = dataclasses.replace(
        SMALL,
        policy=str(first),
        steps=2,
        short_steps=0,
        optimizer=OptimizerConfig(learning_rate=0.0),
    )
    assert "from " + str(first) in plan(config)[0]
    result = run(config, tmp_path, quiet=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_policy(result.policy_dir)[1],
        load_policy(first)[1],
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "gru_mem.json"):
        assert (result.policy_dir / name).read_bytes() == (first / name).read_bytes()


def test_a_plan_says_what_does_not_fit():
    with pytest.raises(InputError, match="more than a row of row_tokens 60; raise it"):
        plan(dataclasses.replace(SMALL, row_tokens=60))


def test_chunks_have_the_size_of_the_blocks():
    """So no needle is cut."""
    data = dataclasses.replace(SMALL.data, chunk_tokens=80)
    assert agent_settings(dataclasses.replace(SMALL, data=data)).chunk_size == 80


def test_a_folder_with_a_policy_is_refused_at_once(finished):
    out, _ = finished
    with pytest.raises(InputError, match="is there already"):
        run(SMALL, out, quiet=True)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="out"):
        run(SMALL, tmp_path / "out", quiet=True)


def test_schedule_by_hand():
    config = OptimizerConfig(
        learning_rate=1.0, warmup_steps=4, decay_share=0.5, final_share=0.1
    )
    rate = schedule(config, 20)
    wanted = {0: 0.25, 3: 1.0, 9: 1.0, 10: 1.0, 15: 0.55, 20: 0.1}
    for step, value in wanted.items():
        assert float(rate(step)) == pytest.approx(value), step


def test_embedding_and_final_norm_have_rates_of_their_own():
    params = {
        "ends": {
            "embedding": jnp.ones((5, 16)),
            "final_norm": {"scale": jnp.ones(16)},
        },
        "layers": {"q": {"kernel": jnp.ones((2, 16, 4)), "bias": jnp.ones((2, 4))}},
    }
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=0, weight_decay=0.0, clip_norm=1e9
    )
    optimizer = make_optimizer(config, params, 100)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    first = jax.tree.map(lambda u: float(u.ravel()[0]), updates)
    # Adam's first step is 1; the width's root is 4.
    assert first["ends"]["embedding"] == pytest.approx(-0.4, rel=1e-4)
    assert first["ends"]["final_norm"]["scale"] == pytest.approx(-0.025, rel=1e-4)
    assert first["layers"]["q"]["kernel"] == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"rows": 2.5}, "rows must be an int >= 1, got 2.5"),
        ({"eval_every": -1}, "eval_every must be an int >= 0, got -1"),
        (
            {"data": dataclasses.replace(SMALL.data, split="test")},
            "data.split must be 'train'",
        ),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **changes)
