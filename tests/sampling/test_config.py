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
        {"trunks": -1},
        {"trunk_length": 0, "trunks": 2},
        {"trunk_length": 9000, "tail_length": 215, "trunks": 2},
        {"tensor": 0},
        {"tensor": 6},
        {"resident": 0},
    ],
)
def test_sizes_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        EngineConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"trunks": 0}, (0, 9216)),
        ({}, (6912, 2304)),
        ({"tail_length": 2000}, (7216, 2000)),
        ({"trunk_length": 6000}, (6000, 3216)),
        ({"trunk_length": 7000, "tail_length": 2500}, (7000, 2500)),
        ({"max_length": 100}, (36, 64)),
    ],
)
def test_lengths_of_trunks_and_tails(settings, expected):
    config = EngineConfig(**{"trunks": 8} | settings)
    assert config.pool_lengths == expected
    assert config.tail_pool.slots == 32
    assert config.tail_pool.max_length == expected[1]
    if config.trunks:
        sizes = config.trunk_pool
        assert (sizes.slots, sizes.max_length, sizes.trunks) == (8, expected[0], 0)
    else:
        assert config.tail_pool == config


def test_lowered_lengths_still_cover_the_longest_request():
    config = EngineConfig(trunks=2, trunk_length=7000, tail_length=2500)
    assert config.lowered_to(6000).pool_lengths == (6016, 2500)
    assert config.lowered_to(1000).pool_lengths == (1024, 1024)
