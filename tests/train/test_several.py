"""What the processes of a step make common, with threads in their place."""

import dataclasses

import numpy as np
import pytest

from gru_mem_jax.hosts.processes import Hosts, Stopped
from gru_mem_jax.rl.outcomes import Outcomes
from gru_mem_jax.rl.packing import Conversation, PackConfig, PackedRows, pack
from gru_mem_jax.rl.rollout import RolloutBatch, join
from gru_mem_jax.testing.threads import as_hosts
from gru_mem_jax.train import several


def conversation(p, g=0, k=0, prompt=3, completion=2):
    return Conversation(
        index=(p, g, k),
        prompt_ids=tuple(range(1, prompt + 1)),
        completion_ids=(7,) * completion,
        sampler_logprobs=(-0.5,) * completion,
        advantage=float(p),
    )


def batch_of(questions, turns, seed):
    """Outcomes of these questions, two rollouts each; no two numbers are equal."""
    shape = (len(questions), 2)
    numbers = np.random.default_rng(seed)

    def array(field):
        extra = {"turn_mask": (turns,), "update": (turns,), "evidence": (turns,)}
        extra |= dict.fromkeys(("turn_well_formed", "memory_tokens"), (turns,))
        extra |= {"memory_cut": (turns,), "completion_tokens": (turns + 1,)}
        extra |= {"cut": (turns + 1,)}
        size = (*shape, *extra.get(field, ()))
        return numbers.integers(0, 100, size).astype(np.int32)

    names = [field.name for field in dataclasses.fields(Outcomes)]
    return RolloutBatch(
        questions=tuple(questions),
        outcomes=Outcomes(**{name: array(name) for name in names}),
        turns=tuple(conversation(p, g) for p in range(len(questions)) for g in (0, 1)),
        problems={"no tag": len(questions)} if questions else {},
        refills=0,
        position=1 + max(questions, default=-1),
        shared_tokens=10 * len(questions),
        skipped=3,
    )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_round_of_all_is_that_of_one(count):
    """Three questions, dealt: one process has two of them, or one has none."""
    questions = (4, 6, 7)
    each = [batch_of((q,), turns, q) for q, turns in zip(questions, (8, 16, 8))]
    none = batch_of((), 8, 0)

    def part(index):
        dealt = each[index::count]
        return dataclasses.replace(join(dealt), refills=0) if dealt else none

    found = as_hosts(
        count,
        lambda hosts: several.batch_of_all(hosts, part(hosts.index), questions),
    )
    one = join(each)
    for index, (batch, places) in enumerate(found):
        assert list(places) == list(range(index, 3, count))
        assert batch.questions == one.questions
        assert (batch.position, batch.shared_tokens) == (8, 30)
        assert batch.problems == {"no tag": 3}
        for field in dataclasses.fields(Outcomes):
            np.testing.assert_array_equal(
                getattr(batch.outcomes, field.name), getattr(one.outcomes, field.name)
            )
        # Turns stay where they are, under the number of their group among all.
        assert {turn.index[0] for turn in batch.turns} == set(places)
    turns = [turn for batch, _ in found for turn in batch.turns]
    assert sorted(turns, key=lambda turn: turn.index) == list(one.turns)


def test_one_process_keeps_its_round():
    batch = batch_of((1, 2), 8, 0)
    found, places = several.batch_of_all(Hosts(), batch, (1, 2))
    assert found is batch
    assert list(places) == [0, 1]


def test_counts_are_summed():
    found = as_hosts(3, lambda h: several.summed(h, {"a": h.index, "b": 1.5}))
    assert found == [{"a": 3, "b": 4.5}] * 3


def test_work_is_stopped_on_all_or_on_none():
    def work(hosts):
        def own():
            if hosts.index == 2:
                raise Stopped
            return hosts.index

        with pytest.raises(Stopped):
            hosts.together("first", own)
        return hosts.together("second", lambda: hosts.index)

    assert as_hosts(3, work) == [0, 1, 2]


@pytest.mark.parametrize("length", [8, 16, 24])
def test_padding_changes_no_row(length):
    """Widened rows hold the same tokens, and nothing besides that is learned."""
    config = PackConfig(rows=2, row_tokens=8, length_buckets=1)
    (rows,) = pack([conversation(0), conversation(1, prompt=4)], config)
    wide = several.widened(rows, (2, length))
    for field in dataclasses.fields(PackedRows):
        own = getattr(wide, field.name)
        assert own.shape == (2, length)
        np.testing.assert_array_equal(own[:, :8], getattr(rows, field.name))
    assert (wide.positions[:, 8:] == -1).all()
    assert (wide.completion_mask[:, 8:] == 0).all()
    assert (wide.reach[:, 8:] == np.arange(9, length + 1)).all()
    empty = several.widened(None, (2, length))
    assert (empty.positions == -1).all()
    assert not empty.completion_mask.any()
