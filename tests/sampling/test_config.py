"""Sizes of the engine."""

import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.sampling.config import EngineConfig


@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 0},
        {"slots": 2.0},
        {"slots": True},
        {"max_length": 1},
        {"decode_block": -1},
        {"dtype": "float16"},
        {"prefill_blocks": ()},
        {"prefill_blocks": (64, 16)},
        {"prefill_blocks": (16, "64")},
        {"refill_after": 0},
    ],
)
def test_sizes_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        EngineConfig(**settings)
