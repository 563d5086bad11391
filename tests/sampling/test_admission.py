"""Which requests run next and what is their trunk, by hand and by simulation."""

import types

import numpy as np
import pytest
from conftest import request
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.agent.requests import Request, Segment
from gru_mem_jax.policy.cascade import KEY_BLOCK
from gru_mem_jax.sampling.admission import choose
from gru_mem_jax.sampling.cells import cells, cells_shape
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.jobs import new_job, trunk_tokens

SIZES = EngineConfig(max_length=100, trunks=2, trunk_length=80, tail_length=40)


def prompt_of(*segments):
    return tuple(Segment(role, (7,) * count) for role, count in segments)


def asked(*segments, budget=10):
    return Request(prompt=prompt_of(*segments), max_new_tokens=budget, stop_ids=())


@pytest.mark.parametrize(
    ("segments", "budget", "expected"),
    [
        # All before the memory.
        ([("control", 3), ("chunk", 40), ("question", 5), ("memory", 9)], 10, 48),
        # Without memory all but the last token.
        ([("chunk", 50)], 10, 49),
        # Less than 20, or than 16 of a document, in a prompt that fits the tail.
        ([("question", 19), ("memory", 9)], 10, 0),
        ([("question", 20), ("memory", 9)], 10, 20),
        ([("chunk", 15), ("memory", 9)], 10, 0),
        ([("chunk", 16), ("memory", 9)], 10, 16),
        # Memory first: the split is moved right, to what the tail cannot hold.
        ([("question", 9), ("memory", 9), ("chunk", 40)], 10, 28),
        ([("question", 9), ("memory", 9)], 10, 0),
        # A front longer than a trunk.
        ([("chunk", 85), ("memory", 5)], 10, 80),
        # The last token of a prompt is the tail's.
        ([("chunk", 30), ("memory", 0)], 10, 29),
    ],
)
def test_where_a_prompt_is_split(segments, budget, expected):
    asking = asked(*segments, budget=budget)
    assert trunk_tokens(asking, SIZES) == expected
    assert trunk_tokens(asking, EngineConfig(max_length=100)) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["control", "question", "chunk", "memory"]),
            st.integers(0, 60),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 39),
)
def test_what_fits_trunk_and_tail_is_split_to_fit_both(segments, budget):
    asking = asked(*segments, budget=budget)
    length = sum(count for _, count in segments)
    if not length >= 1 or length + budget > 100:
        return
    split = trunk_tokens(asking, SIZES)
    assert 0 <= split <= min(length - 1, 80)
    assert length + budget - split <= 40


def test_the_document_is_what_ends_with_the_chunk():
    def document(*segments):
        asking = asked(*segments)
        prompt = np.arange(sum(count for _, count in segments))
        return new_job(0, asking, prompt, 0.0, SIZES).trunk.document

    assert document(("control", 3), ("chunk", 40), ("question", 5), ("memory", 9)) == 43
    assert document(("question", 30), ("chunk", 40), ("memory", 9)) == 0
    assert document(("control", 30), ("question", 5), ("memory", 9)) == 0


def waiting(*keys):
    return [
        types.SimpleNamespace(key=key.encode(), name=f"{key}{i}", passed=0)
        for i, key in enumerate(keys)
    ]


def names(jobs):
    return [job.name for job in jobs]


def test_without_trunks_the_order_is_that_of_submission():
    assert names(choose(waiting("", "", ""), 2, {}, [], 9)) == ["0", "1"]


def test_what_is_held_goes_first_and_a_new_trunk_brings_its_group():
    jobs = waiting("a", "b", "a", "b", "c")
    assert names(choose(jobs, 4, {b"b": 0}, [1], 9)) == ["b1", "b3", "a0", "a2"]
    assert [job.passed for job in jobs] == [2, 0, 1, 0, 0]


def test_who_needs_an_entry_waits_while_all_are_in_use():
    assert names(choose(waiting("a", "", "b"), 3, {b"b": 0}, [], 9)) == ["1", "b2"]
    # Of two idle entries one is kept for its own trunk, and one is left.
    jobs = waiting("a", "c", "b")
    assert names(choose(jobs, 3, {b"b": 0}, [0, 1], 9)) == ["b2", "a0"]


def test_an_entry_that_was_promised_is_not_taken_back():
    jobs = waiting("a", "b")
    jobs[0].passed = 9
    # The only idle entry holds b: a, which has waited long enough, gets it.
    assert names(choose(jobs, 2, {b"b": 0}, [0], 9)) == ["a0"]


def test_who_was_passed_often_enough_stops_the_others():
    jobs = waiting("a", "b", "b", "b")
    assert names(choose(jobs, 2, {b"b": 0}, [], 2)) == ["b1", "b2"]
    assert jobs[0].passed == 2
    assert choose([jobs[0], jobs[3]], 2, {b"b": 0}, [], 2) == []
    assert names(choose([jobs[0], jobs[3]], 2, {b"b": 0}, [1], 2)) == ["a0", "b3"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=5),
            st.lists(st.integers(0, 200), max_size=5),
        ),
        max_size=4,
    ),
    st.sampled_from([1, 3, 64]),
)
def test_every_key_of_a_trunk_is_read_once_for_each_row(groups, length):
    """Groups of rows behind a trunk each; lengths up to some blocks of keys."""
    entries, lengths = [], []
    for entry, (rows, more) in enumerate(groups):
        for i, row in enumerate(rows):
            entries.append(entry if row else -1)
            lengths.append(KEY_BLOCK * row + (more[i] if i < len(more) else 0))
    entries, lengths = np.asarray(entries, int), np.asarray(lengths, int)
    if not len(entries):
        return
    shape = cells_shape(len(entries), length, 4, KEY_BLOCK * 6)
    found, count = cells(entries, np.where(entries < 0, 0, lengths), shape)
    assert found.shape == shape
    read = [np.zeros(KEY_BLOCK * 7, int) for _ in entries]
    for entry, first, *members in found[:count].tolist():
        for row in members:
            if row < len(entries):
                assert entries[row] == entry
                read[row][first : first + KEY_BLOCK] += 1
    for row, seen in enumerate(read):
        if entries[row] >= 0:
            assert (seen[: lengths[row]] == 1).all()
        assert seen.max() <= 1


def test_requests_of_conftest_are_split_where_their_memory_begins():
    """Control, question, memory, chunk: the order of the other tests' requests."""
    assert trunk_tokens(request([1] * 30, [2] * 9, [3] * 5, [4] * 9), SIZES) == 39
