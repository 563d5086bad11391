"""Engines whose slots share trunks, against engines whose slots hold all of their own."""

import numpy as np
import pytest
from conftest import random_ids, run_all
from test_engine import SAMPLED

from gru_mem_jax.agent.requests import Request, Segment

TRUNKS = {"trunks": 3, "tail_length": 60}


def asked(chunk=0, question=0, memory=0, *, budget=10, order="chunk_first", **settings):
    """A prompt of 4 + 50 + 2 + 8 tokens, its trunk, then up to 12 of memory and 3."""
    texts = {
        "chunk": random_ids(100 + chunk, 50),
        "question": random_ids(200 + question, 8),
        "memory": random_ids(300 + memory, 5 + memory % 8),
    }
    names = ["question", "memory", "chunk"]
    if order == "chunk_first":
        names = ["chunk", "question", "memory"]
    glue = [random_ids(1, 4), random_ids(2, 2), [], random_ids(3, 3)]
    prompt = []
    for name, ids in zip([*names, None], glue):
        prompt.append(Segment("control", tuple(ids)))
        if name:
            prompt.append(Segment(name, tuple(texts[name])))
    return Request(prompt=tuple(prompt), max_new_tokens=budget, stop_ids=(), **settings)


def groups(number, size, **settings):
    return [
        asked(n, n % 2, g % 3, seed=10 * n + g, **settings)
        for n in range(number)
        for g in range(size)
    ]


def check_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.ids == other.ids
        assert one.finish_reason == other.finish_reason
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)
        np.testing.assert_allclose(
            one.sampling_logprobs, other.sampling_logprobs, atol=2e-5
        )


@pytest.mark.parametrize("order", ["chunk_first", "memory_first"])
@pytest.mark.parametrize("slots", [1, 6, 16])
def test_trunks_change_nothing(small, order, slots):
    """Groups of four in slots for 1.5 groups, alone, and all at once."""
    requests = groups(4, 4, order=order, **SAMPLED)
    plain = run_all(small.engine(), requests)
    engine = small.engine(slots=slots, **TRUNKS)
    check_equal(run_all(engine, requests), plain)
    stats = engine.stats()
    assert stats["requests"] == 16
    assert stats["prompt_tokens"] - stats["shared_tokens"] == (
        stats["prefill_tokens"] + 16  # the last token of a prompt is decode's
    )
    if order == "chunk_first":
        # Four trunks of 64; of the tails three kinds a group, or all of them.
        assert stats["prefill_tokens"] <= 4 * 60 + 4 + 16 * (11 + 2)
