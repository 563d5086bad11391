"""Schedules by hand, and configurations of the learner that are refused."""

import dataclasses
import pathlib

import jax
import numpy as np
import optax
import pytest

import gru_mem_jax
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.optimizer import LearnerConfig, make_optimizer, make_schedule
from gru_mem_jax.tiny.start import TinyModel
from gru_mem_jax.tiny.structured import structured_init

CONFIG = LearnerConfig(
    learning_rate=0.01,
    warmup_steps=0,
    clip_norm=0.5,
    row_tokens=40,
    rows_per_device=2,
    length_buckets=1,
    remat=False,
    logits_chunk=64,
)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"warmup_steps": 4}, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]),
        ({"warmup_steps": 1}, [0.01, 0.01]),
        (
            {"warmup_steps": 2, "schedule": "linear", "decay_steps": 6},
            [0.005, 0.01, 0.01, 0.0075, 0.005, 0.0025, 0.0, 0.0],
        ),
        (
            {
                "warmup_steps": 2,
                "schedule": "linear",
                "decay_from": 4,
                "decay_steps": 6,
                "end_factor": 0.1,
            },
            [0.005, 0.01, 0.01, 0.01, 0.01, 0.0055, 0.001, 0.001],
        ),
        (
            {"schedule": "cosine", "decay_steps": 4, "end_factor": 0.5},
            [0.01, 0.009268, 0.0075, 0.005732, 0.005],
        ),
    ],
)
def test_schedules_by_hand(changes, rates):
    schedule = make_schedule(dataclasses.replace(CONFIG, **changes))
    got = [float(schedule(step)) for step in range(len(rates))]
    np.testing.assert_allclose(got, rates, atol=1e-6)


SHAPE = TinyModel(hidden_size=96, intermediate_size=32).policy_config(512, 1, 0)
STARTS = {
    "random": lambda key: make_policy(SHAPE).init(key),
    "structured": lambda key: structured_init(SHAPE, key),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("optimizer", [None, optax.sgd], ids=["adamw", "sgd"])
def test_the_learning_rate_is_that_of_every_weight_from_any_start(start, optimizer):
    """The first step is rate x sign(g) of AdamW without decay, rate x g of SGD."""
    config = dataclasses.replace(
        CONFIG, optimizer=optimizer, weight_decay=0.0, clip_norm=None
    )
    params = STARTS[start](jax.random.key(0))
    rng = np.random.default_rng(0)
    grads = jax.tree.map(
        lambda x: rng.choice([-0.5, 0.25, 2.0], x.shape).astype(np.float32), params
    )
    rule = make_optimizer(config)
    updates, _ = rule.update(grads, rule.init(params), params)
    for update, gradient in zip(*map(jax.tree.leaves, (updates, grads)), strict=True):
        want = gradient if optimizer else np.sign(gradient)
        np.testing.assert_allclose(update, -0.01 * want, rtol=1e-5)


def test_rates_of_its_own_has_the_start_from_scratch_alone():
    """Its configuration names the optimiser; those that begin with a policy do not."""
    root = pathlib.Path(gru_mem_jax.__file__).parent / "gin"
    naming = [p for p in root.rglob("*.gin") if "Config.optimizer =" in p.read_text()]
    assert [p.relative_to(root).as_posix() for p in naming] == ["runs/sft.gin"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": "linear"}, "needs decay_steps"),
        ({"decay_steps": 10}, "go with schedule linear or cosine"),
        ({"schedule": "cosine", "warmup_steps": 9, "decay_steps": 9}, "decay_steps"),
        ({"decay_from": 10}, "go with schedule linear or cosine"),
        (
            {"schedule": "linear", "decay_steps": 9, "decay_from": 9},
            "decay_from must be from 0 to 8",
        ),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"learning_rate": "1e-6"}, "learning_rate must be a number"),
        ({"row_tokens": 0}, "row_tokens must be at least 2"),
        ({"optimizer": "adam"}, "optax factory"),
        ({"compute_dtype": "float16"}, "compute_dtype must be one of"),
        ({"lora": 8}, "lora must be a LoraConfig"),
    ],
)
def test_refused_configurations(changes, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(CONFIG, **changes)
