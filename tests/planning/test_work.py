"""The work of a step by formula, against numbers that can be checked by hand."""

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.planning.work import (
    document_tokens,
    layers_flops,
    learner_flops,
    longest_turn,
    prefill_flops,
    rows_of_a_step,
    turns_of_a_step,
)
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.rl.packing import PackConfig
from gru_mem_jax.tiny.sources import SyntheticSource
from gru_mem_jax.tiny.synthetic import SyntheticConfig

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def turns(order):
    agent = AgentConfig(prompt=PromptConfig(order=order))
    return turns_of_a_step(agent, 128, 16, 28000, 200, 250)


def test_turns_of_the_papers_step():
    found = turns("memory_first")
    assert (found.chunks, found.prompt, found.shared, found.own) == (6, 5500, 0, 5500)
    assert found.sampled == 128 * 16 * 7 * 200
    assert list(found.prefilled()) == [(12288, 5500, 0), (2048, 500, 0)]
    assert list(found.learned(True)) == [(12288, 5700, 0), (2048, 700, 0)]


def test_chunk_first_turns_share_all_before_the_memory():
    found = turns("chunk_first")
    assert (found.shared, found.own) == (5300, 200)
    assert list(found.prefilled()) == [
        (768, 5300, 0),
        (12288, 200, 5300),
        (2048, 500, 0),
    ]
    assert list(found.learned(True)) == [
        (768, 5300, 0),
        (12288, 400, 5300),
        (2048, 700, 0),
    ]
    assert list(found.learned(False)) == [(12288, 5700, 0), (2048, 700, 0)]


def test_a_rollout_reads_no_more_chunks_than_it_may():
    agent = AgentConfig(max_chunks=2)
    assert turns_of_a_step(agent, 1, 2, 28000).chunks == 2
    assert turns_of_a_step(agent, 1, 2, 100).chunks == 1
    assert turns_of_a_step(agent, 1, 2, 100).completion == agent.completion_tokens


def test_rows_hold_whole_trees():
    # 5300 + 16 x 400 = 11700 tokens: a tree a row; the answers lie in what is left.
    rows = rows_of_a_step(turns("chunk_first"), PackConfig(row_tokens=12288, rows=64))
    assert (rows.length, rows.count) == (12288, 768 + 80)
    # Rows of 9216 hold nine of the sixteen: a tree takes two rows.
    rows = rows_of_a_step(turns("chunk_first"), PackConfig(row_tokens=9216, rows=64))
    assert rows.length == 9216
    assert rows.count >= 2 * 768
    # Turns that share nothing: one a row, in the bucket of 6912.
    rows = rows_of_a_step(turns("memory_first"), PackConfig(row_tokens=9216, rows=64))
    assert (rows.length, rows.count) == (6912, 12288)
    assert rows.micro_batches(PackConfig(rows=64), 2) == 192
    alone = PackConfig(row_tokens=9216, share_prefixes=False)
    assert rows_of_a_step(turns("chunk_first"), alone) == rows
    with pytest.raises(InputError, match="longer than row_tokens 4096"):
        rows_of_a_step(turns("chunk_first"), PackConfig(row_tokens=4096))


def test_flops_of_tokens_behind_others():
    shape = PolicyConfig(**SHAPE)
    # Kernels: q [8, 8], k and v [8, 4], o [8, 8], and three [8, 16]; two layers.
    params = 2 * (64 + 2 * 32 + 64 + 3 * 128)
    attention = 4 * 2 * 8 * (10 * 20 + 10 * 10 / 2)
    assert layers_flops(shape, 10, 20) == 2 * 10 * params + attention


def test_a_window_bounds_what_is_seen():
    full = PolicyConfig(family="mistral", **SHAPE)
    near = PolicyConfig(family="mistral", sliding_window=6, **SHAPE)
    products = layers_flops(full, 10) - 4 * 2 * 8 * 50
    # The first six see 6^2 / 2 pairs, the other four six each.
    assert layers_flops(near, 10) - products == 4 * 2 * 8 * (18 + 24)
    assert layers_flops(near, 10, 6) - products == 4 * 2 * 8 * 60


def test_what_sharing_saves():
    shape = PolicyConfig(**SHAPE)
    plain, shared = turns("memory_first"), turns("chunk_first")
    assert prefill_flops(shape, plain) > 2 * prefill_flops(shape, shared)
    rows = [rows_of_a_step(t, PackConfig(row_tokens=12288)) for t in (plain, shared)]
    before, after = (
        learner_flops(shape, t, r) for t, r in zip((plain, shared), rows, strict=True)
    )
    assert before > 2 * after


def test_lengths_that_settings_tell():
    assert document_tokens(HotpotQASource(path="x", paragraphs=200)) == 28000
    config = SyntheticConfig(num_chunks=4, chunk_tokens=100)
    assert document_tokens(SyntheticSource(config=config)) == 400
    assert document_tokens(JsonlSource(path="x")) is None
    assert longest_turn(AgentConfig(), 290) == 290 + 5000 + 3 * 1024
