"""Prompts cut into blocks, and blocks put into calls."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.sampling.blocks import PrefillBatch, batches
from gru_mem_jax.sampling.config import EngineConfig, fitting


def test_a_little_too_large_is_preferred_to_many_small_ones():
    assert fitting(511, (32, 512)) == 512
    assert fitting(384, (32, 512)) == 512
    assert fitting(383, (32, 512)) == 32
    assert fitting(1, (32, 512)) == 32
    assert fitting(600, (32, 512)) == 512


def test_four_prompts_of_511_tokens_are_one_fresh_call():
    config = EngineConfig(slots=4, max_length=640)
    got = batches([(511, 0, slot) for slot in range(4)], config)
    assert [(b.rows, b.length, b.attend, b.padding) for b in got] == [(4, 512, 0, 4)]


def test_a_long_prompt_behind_a_shared_prefix():
    config = EngineConfig(slots=1, max_length=2048)
    got = batches([(1300, 100, 0)], config)
    assert [b.blocks for b in got] == [
        ((612, 100, 0),),
        ((1124, 612, 0),),
        ((1156, 1124, 0), (1188, 1156, 0), (1220, 1188, 0), (1252, 1220, 0)),
        ((1284, 1252, 0),),
        ((1300, 1284, 0),),
    ]
    assert [b.attend for b in got] == [1024, 2048, 2048, 2048, 2048]


def test_packing_marks_what_is_padding():
    tokens = np.arange(20, dtype=np.int32).reshape(2, 10)
    got = PrefillBatch(2, 4, 128, ((5, 2, 1),)).block_array(tokens)
    assert got.tolist() == [[1, 2, 12, 13, 14, -1], [0, 0, -1, -1, -1, -1]]


@settings(max_examples=200, deadline=None)
@given(
    max_length=st.integers(2, 3000),
    slots=st.integers(1, 9),
    lengths=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=9),
)
def test_every_token_is_computed_once_in_order_by_a_known_program(
    max_length, slots, lengths
):
    config = EngineConfig(slots=slots, max_length=max_length)
    shapes = set(config.prefill_shapes(max_length))
    spans = []
    for slot, (a, b) in enumerate(lengths[:slots]):
        start, end = sorted((a % max_length, b % max_length))
        spans.append((end, start, slot))
    reached = {slot: start for _, start, slot in spans}
    for batch in batches(spans, config):
        assert (batch.rows, batch.length, batch.attend) in shapes
        assert len(batch.blocks) <= batch.rows
        for stop, start, slot in batch.blocks:
            assert reached[slot] == start < stop <= start + batch.length
            assert batch.attend >= stop or (batch.attend == 0 and start == 0)
            reached[slot] = stop
    assert reached == {slot: end for end, _, slot in spans}


@given(max_length=st.integers(2, 40000), slots=st.integers(1, 256))
def test_the_number_of_programs_is_bounded(max_length, slots):
    config = EngineConfig(slots=slots, max_length=max_length)
    assert len(list(config.prefill_shapes(max_length))) <= 40
    assert len(config.decode_attends) <= 10
    assert config.decode_attends[-1] == config.prefill_attends[-1] == max_length
