"""Schedules by hand, and configurations of the learner that are refused."""

import dataclasses

import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.rl.optimizer import LearnerConfig, make_schedule

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
