"""Conversations into rows and back."""

import dataclasses
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gru_mem_jax.errors import InputError
from gru_mem_jax.rl import packing as b
from gru_mem_jax.rl import row_counts


def conversation(index, prompt, completion, advantage=1.0):
    """Tokens 100, 101, ... then 1, 2, ...; logprobs -1, -2, ..."""
    return b.Conversation(
        index=index,
        prompt_ids=tuple(range(100, 100 + prompt)),
        completion_ids=tuple(range(1, completion + 1)),
        sampler_logprobs=tuple(-float(i) for i in range(1, completion + 1)),
        advantage=advantage,
    )


def test_one_row_by_hand():
    """2 + 2 and 1 + 1 tokens in a row of 8: the longer first, two tokens left over."""
    short = conversation((1, 0, 0), 1, 1, advantage=0.5)
    long = conversation((0, 0, 1), 2, 2, advantage=-1.0)
    config = b.PackConfig(row_tokens=8, rows=1, length_buckets=1)
    (rows,) = b.pack([short, long], config)
    expected = {
        "tokens": [100, 101, 1, 2, 100, 1, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, -1, -1],
        "reach": [4, 4, 4, 4, 6, 6, 7, 8],
        "completion_mask": [0, 0, 1, 1, 0, 1, 0, 0],
        "advantages": [0, 0, -1, -1, 0, 0.5, 0, 0],
        "sampler_logprobs": [0, 0, -1, -2, 0, -1, 0, 0],
        "conversation": [1, 1, 1, 1, 0, 0, -1, -1],
    }
    for name, values in expected.items():
        assert getattr(rows, name).tolist() == [values], name
    assert rows.tokens.dtype == np.int32
    assert rows.advantages.dtype == np.float32


def test_best_fit_decreasing():
    """Lengths 7, 5, 4, 3, 2 in rows of 10: 7 + 3, 5 + 4; 2 fits nowhere."""
    items = [conversation((k, 0, 0), n - 1, 1) for k, n in enumerate([2, 3, 4, 5, 7])]
    config = b.PackConfig(row_tokens=10, rows=2, length_buckets=2)
    batches = b.pack(items, config)
    assert [rows.tokens.shape for rows in batches] == [(2, 10), (2, 5)]
    in_rows = [
        [sorted({i for i in row if i >= 0}) for row in rows.conversation.tolist()]
        for rows in batches
    ]
    assert in_rows == [[[1, 4], [2, 3]], [[0], []]]
    # A row that is missing is padding: nothing in it is seen or learned.
    assert batches[1].positions[1].tolist() == [-1] * 5
    assert not batches[1].completion_mask[1].any()


def test_shapes_are_few():
    config = b.PackConfig(row_tokens=9216, rows=1, length_buckets=4)
    assert config.lengths == (2304, 4608, 6912, 9216)
    assert b.PackConfig(row_tokens=10, length_buckets=3).lengths == (4, 7, 10)
    items = like_rollouts(0, 60)
    config = b.PackConfig(row_tokens=24, rows=3, length_buckets=2)
    shapes = {rows.tokens.shape for rows in b.pack(items, config)}
    assert shapes <= {(3, 12), (3, 24)}


def unpacked(micro, row):
    """The conversations of a row, told by `reach` alone: for each leaf its path."""
    length = micro.tokens.shape[1]
    reach, positions = micro.reach[row], micro.positions[row]
    paths = []
    for i in range(length):
        is_last = i + 1 == length or positions[i + 1] != positions[i] + 1
        if positions[i] >= 0 and (is_last or reach[i] == i + 1):
            paths.append([j for j in range(i + 1) if reach[j] > i])
    return paths


def like_rollouts(seed, count, shared=True):
    """Prompts that begin alike now and then; some are equal, some another's prefix."""
    rng = random.Random(seed)
    bases = [[rng.randrange(3) for _ in range(10)] for _ in range(3)]
    items = []
    for i in range(count):
        prompt = list(rng.choice(bases)[: rng.randint(1, 10)])
        prompt += [rng.randrange(3) for _ in range(rng.choice([0, 0, 1, 3]))]
        new = [rng.randrange(3) for _ in range(rng.randint(1, 6))]
        items.append(
            b.Conversation(
                index=(i // 8 if shared else i, i % 8, 0),
                prompt_ids=tuple(prompt),
                completion_ids=tuple(new),
                sampler_logprobs=tuple(rng.uniform(-3, 0) for _ in new),
                advantage=rng.uniform(-1, 1),
            )
        )
    return items


@hypothesis.given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    rows=st.integers(1, 4),
    spare=st.integers(0, 60),
    share=st.booleans(),
)
@hypothesis.settings(max_examples=80, deadline=None)
def test_packing_loses_nothing(seed, count, rows, spare, share):
    items = like_rollouts(seed, count)
    config = b.PackConfig(
        row_tokens=19 + spare, rows=rows, length_buckets=3, share_prefixes=share
    )
    batches = b.pack(items, config)
    found = []
    for micro in batches:
        assert micro.tokens.shape[0] == rows
        assert micro.tokens.shape[1] in config.lengths
        for row in range(rows):
            padding = micro.positions[row] < 0
            assert not micro.completion_mask[row][padding].any()
            place = np.flatnonzero(padding)
            assert micro.reach[row][padding].tolist() == (place + 1).tolist()
            for path in unpacked(micro, row):
                assert micro.positions[row, path].tolist() == list(range(len(path)))
                owner = int(micro.conversation[row, path[-1]])
                item = items[owner]
                tokens = tuple(micro.tokens[row, path].tolist())
                assert tokens == item.prompt_ids + item.completion_ids
                # The last prompt token and all sampled ones are the leaf's own.
                own = path[len(item.prompt_ids) - 1 :]
                assert set(micro.conversation[row, own].tolist()) == {owner}
                assert micro.completion_mask[row, own].tolist() == [0] + [1] * (
                    len(own) - 1
                )
                found.append(owner)
    assert sorted(found) == list(range(count))
    assert sum(micro.completion_mask.sum() for micro in batches) == sum(
        len(item.completion_ids) for item in items
    )
    counts = row_counts.count_rows(batches)
    every = sum(map(len, items))
    assert counts.tokens <= every
    if not share:
        assert counts.tokens == every
        # Never more than half empty on the whole, but for one row.
        assert (counts.rows - 1) * config.row_tokens <= 2 * every
    assert counts.pairs == sum(
        len(path)
        for micro in batches
        for row in range(rows)
        for path in (
            np.flatnonzero(micro.reach[row][: i + 1] > i)
            for i in np.flatnonzero(micro.positions[row] >= 0)
        )
    )
    back = b.unpack([micro.sampler_logprobs for micro in batches], batches, count)
    for item, values in zip(items, back, strict=True):
        np.testing.assert_array_equal(
            values, np.asarray(item.sampler_logprobs, np.float32)
        )


def test_a_group_by_hand():
    """Three rollouts of a question: two with equal memories, one with its own.

    Prompts 7 8 9 1 5, 7 8 9 1 5 and 7 8 9 2 5, a row of 16: the first two share four
    tokens (never the last), the third shares three with them.
    """
    items = [
        b.Conversation(
            index=(0, g, 0),
            prompt_ids=prompt,
            completion_ids=new,
            sampler_logprobs=(-1.0,) * len(new),
            advantage=float(g),
        )
        for g, (prompt, new) in enumerate(
            [
                ((7, 8, 9, 1, 5), (11,)),
                ((7, 8, 9, 2, 5), (12, 13)),
                ((7, 8, 9, 1, 5), (14,)),
            ]
        )
    ]
    (rows,) = b.pack(items, b.PackConfig(row_tokens=16, length_buckets=1))
    expected = {
        "tokens": [7, 8, 9, 1, 5, 11, 5, 14, 2, 5, 12, 13, 0, 0, 0, 0],
        "positions": [0, 1, 2, 3, 4, 5, 4, 5, 3, 4, 5, 6, -1, -1, -1, -1],
        "reach": [12, 12, 12, 8, 6, 6, 8, 8, 12, 12, 12, 12, 13, 14, 15, 16],
        "completion_mask": [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0],
        "advantages": [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 0],
        "conversation": [0, 0, 0, 0, 0, 0, 2, 2, 1, 1, 1, 1, -1, -1, -1, -1],
    }
    for name, values in expected.items():
        assert getattr(rows, name).tolist() == [values], name
    assert row_counts.count_rows([rows]) == row_counts.RowCounts(
        rows=1, tokens=12, padding=4, pairs=54
    )


def test_other_questions_share_nothing():
    one = conversation((0, 0, 0), 6, 2)
    other = conversation((1, 0, 0), 6, 2)
    (rows,) = b.pack([one, other], b.PackConfig(row_tokens=16, length_buckets=1))
    assert rows.positions.tolist() == [[*range(8), *range(8)]]


def test_nothing_shared_gives_a_plain_pack():
    items = like_rollouts(5, 30, shared=False)
    shared, plain = (
        b.pack(items, b.PackConfig(row_tokens=40, rows=2, share_prefixes=share))
        for share in (True, False)
    )
    for ours, theirs in zip(shared, plain, strict=True):
        for name, values in vars(ours).items():
            np.testing.assert_array_equal(values, getattr(theirs, name))


def test_the_order_given_does_not_matter():
    items = like_rollouts(3, 30)
    shuffled = random.Random(0).sample(items, len(items))
    config = b.PackConfig(row_tokens=24, rows=2)
    for first, second in zip(b.pack(items, config), b.pack(shuffled, config)):
        for name in ("tokens", "reach", "advantages", "sampler_logprobs"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_as_many_as_in_a_step_of_the_published_run():
    """128 questions, 16 rollouts, 7 turns: 14336 conversations, a tenth as long."""
    rng = random.Random(0)
    sizes = [rng.randint(10, 700) for _ in range(14336)]
    items = [conversation((i, 0, 0), n - 1, 1) for i, n in enumerate(sizes)]
    batches = b.pack(items, b.PackConfig(row_tokens=922, rows=8))
    owners = [set(np.unique(micro.conversation)) - {-1} for micro in batches]
    assert sum(map(len, owners)) == len(items)
    # Less than a tenth is padding.
    assert sum(micro.tokens.size for micro in batches) < 1.1 * sum(sizes)


def test_a_conversation_longer_than_a_row_is_named():
    items = [conversation((0, 0, 0), 4, 2), conversation((2, 1, 3), 6, 3)]
    message = (
        "turn 3 of rollout 1 of question 2 has 6 prompt and 3 sampled tokens, more "
        "than a row of 8"
    )
    with pytest.raises(InputError, match=message):
        b.pack(items, b.PackConfig(row_tokens=8))


def test_nothing_to_pack():
    assert b.pack([], b.PackConfig()) == []
    assert b.unpack([], [], 0) == []


def test_unpack_wants_arrays_of_the_packed_shape():
    batches = b.pack([conversation((0, 0, 0), 2, 2)], b.PackConfig(row_tokens=4))
    with pytest.raises(ValueError, match="values"):
        b.unpack([np.zeros((1, 3))], batches, 1)


def test_conversations_of_trajectories(make):
    """The answer turn's advantage is the last column, whatever was reached."""
    runs = [
        make.trajectory([make.memory_turn(0, True, tokens=2)]),
        make.trajectory([make.memory_turn(0, True), make.memory_turn(1, False)]),
    ]
    advantages = np.array([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    items = b.conversations([runs], advantages)
    got = {item.index: item.advantage for item in items}
    assert got == pytest.approx(
        {
            (0, 0, 0): 0.1,
            (0, 0, 1): 0.3,
            (0, 1, 0): 0.4,
            (0, 1, 1): 0.5,
            (0, 1, 2): 0.6,
        }
    )
    assert items[0].prompt_ids == (20, 21, 22, 23, 24)
    assert items[0].completion_ids == (1, 2)
    assert items[0].sampler_logprobs == (-0.1, -0.2)
    assert len(items[0]) == 7


def test_cut_completions_can_be_left_out(make):
    cut = make.memory_turn(0, None, well_formed=False, finish_reason="length")
    runs = [make.trajectory([cut, make.memory_turn(1, True)])]
    kept = b.conversations([runs], np.zeros((1, 1, 3)), drop_cut=True)
    assert [item.index for item in kept] == [(0, 0, 1), (0, 0, 2)]


def test_untraced_trajectories_are_refused(make):
    untraced = make.memory_turn(0, True, prompt_ids=None)
    runs = [make.trajectory([untraced])]
    with pytest.raises(InputError, match="turn 0 of rollout 0 of question 0"):
        b.conversations([runs], np.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match="advantages"):
        b.conversations([runs], np.zeros((1, 2, 2)))


def test_mini_batches_keep_questions_whole():
    items = [conversation((p, g, 0), 1, 1) for p in (0, 2, 3, 7, 9) for g in range(2)]
    parts = b.mini_batches(items, 2)
    assert [[item.index[0] for item in part] for part in parts] == [
        [0, 0, 2, 2, 3, 3],
        [7, 7, 9, 9],
    ]
    assert b.mini_batches(items, 1) == [items]
    with pytest.raises(InputError, match="5 questions cannot be split into 6"):
        b.mini_batches(items, 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_ids": ()}, "has no prompt or no completion"),
        ({"completion_ids": (), "sampler_logprobs": ()}, "no completion"),
        ({"sampler_logprobs": (0.0,)}, "has 2 sampled tokens and 1 logprobs"),
    ],
)
def test_bad_conversations_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(conversation((0, 0, 0), 2, 2), **fields)


@pytest.mark.parametrize(
    "fields", [{"row_tokens": 1}, {"rows": 0}, {"length_buckets": 0}]
)
def test_bad_configurations_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        b.PackConfig(**fields)
