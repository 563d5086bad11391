"""Trajectories that read chunks more than once, each number read off their turns."""

import dataclasses
import random

import numpy as np
import pytest
from test_rollout import example

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.rl import passes
from gru_mem_jax.rl.advantages import AdvantageConfig, score_groups
from gru_mem_jax.rl.outcomes import concatenate, earlier, outcomes
from gru_mem_jax.rl.packing import PackConfig, assign_rows
from gru_mem_jax.rl.rewards import RewardConfig, rewards
from gru_mem_jax.rl.rollout import join, learnable, make_batch, rollout
from gru_mem_jax.rl.summary import summarize
from gru_mem_jax.runs.rollouts import load_rollouts, save_rollouts
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

ENCODER = ByteEncoder()
# The first hop is in chunk 3, the second in chunk 1.
HOPS = ((False, True, False, True), 3)


def read(make, *turns, mode="parallel", stop="end_of_context", **settings):
    """A trajectory of (pass, step, chunk, memory before, memory left).

    The gate is open where a memory is left, and closed where it is None. The memory of
    an accepted scan is in a tuple.
    """
    accepted = [isinstance(left, tuple) for *_, left in turns]
    turns = [
        (*most, left[0] if own else left) for (*most, left), own in zip(turns, accepted)
    ]
    made = [
        dataclasses.replace(
            make.memory_turn(chunk, left is not None, pass_number=number, step=step),
            accepted=own,
            memory_before=before,
            memory=before if left is None else left,
        )
        for (number, step, chunk, before, left), own in zip(turns, accepted)
    ]
    final = ""
    for turn, (*_, left) in zip(made, turns):
        if turn.step != "scan" and left is not None:
            final = left
    final = settings.pop("final", final)
    end = make.answer_turn(memory_before=final)
    run = make.trajectory(made, mode=mode, stop=stop, end=end)
    return dataclasses.replace(run, settings=settings)


def scan(number, before, *left):
    """A scan; what each chunk's turn would leave, "-" for those merged before."""
    return [
        (number, "scan", chunk, before, each)
        for chunk, each in enumerate(left)
        if each != "-"
    ]


def both_hops(make, *, last=True):
    """Finds the first hop in pass 1, the second in pass 2, nothing more in pass 3."""
    turns = [
        *scan(1, "", None, None, None, ("a",)),
        *scan(2, "a", None, ("ab",), None, "-"),
        *(scan(3, "ab", None, "-", None, "-") if last else ()),
    ]
    return read(make, *turns, final="ab")


def first_hop_only(make):
    turns = scan(1, "", None, None, None, ("a",)) + scan(2, "a", None, None, None, "-")
    return read(make, *turns, final="a")


def turn_rewards(run, labels=HOPS):
    """r_update of each memory turn, in order."""
    done = outcomes([[run]], [example(0)], [labels])
    worth = rewards(done, RewardConfig()).turn[0, 0]
    columns = [passes.column(turn, len(labels[0])) for turn in run.memory_turns]
    assert np.asarray(done.turn_mask).sum() == len(columns) == len(set(columns))
    return [int(worth[column]) for column in columns]


def test_a_column_is_a_pass_a_step_and_a_chunk(make):
    def columns(step, *numbers):
        return [
            passes.column(make.memory_turn(2, True, step=step, pass_number=n), 5)
            for n in numbers
        ]

    assert columns("scan", 1, 2, 3) == [2, 12, 17]
    assert columns("merge", 1, 2, 3) == [7, 7, 7]  # a chunk is merged but once
    assert columns("read", 1, 2, 3) == [2, 7, 12]


def test_the_second_hop_cannot_be_known_in_the_first_pass(make):
    assert turn_rewards(both_hops(make)) == [1] * 9
    # Passed by for good: wrong once, where it could still be mended.
    assert turn_rewards(first_hop_only(make)) == [1, 1, 1, 1, 1, -1, 1]
    # Nothing is found: this was the last look at either.
    nothing = read(make, *scan(1, "", None, None, None, None))
    assert turn_rewards(nothing) == [1, -1, 1, -1]
    # Opened at once, as if it were known: right too.
    eager = read(
        make,
        *scan(1, "", None, ("b",), None, "a"),
        (1, "merge", 3, "b", "ba"),
        *scan(2, "ba", None, "-", None, "-"),
    )
    assert turn_rewards(eager) == [1] * 7


def test_what_is_opened_for_nothing_is_wrong_in_each_turn(make):
    run = read(
        make,
        *scan(1, "", ("x",), None, "y", "a"),
        (1, "merge", 2, "x", None),  # the second look closes the gate: right
        (1, "merge", 3, "x", None),  # and here wrong: chunk 3 is not read again
        *scan(2, "x", "-", None, "-", "-"),
        final="x",
    )
    assert turn_rewards(run) == [-1, 1, -1, 1, 1, -1, -1]


def test_rereading_what_the_memory_has(make):
    turns = [(1, "read", chunk, "", None) for chunk in range(3)]
    turns += [(1, "read", 3, "", "a")]
    turns += [(2, "read", 0, "a", None), (2, "read", 1, "a", "ab")]
    turns += [(2, "read", chunk, "ab", None) for chunk in (2, 3)]
    turns += [(3, "read", chunk, "ab", None) for chunk in range(4)]
    run = read(make, *turns, mode="reread")
    assert turn_rewards(run) == [1] * 12
    # A miss in the last pass is one; the passes before it could not know.
    once = read(make, *turns[:4], mode="reread")
    assert turn_rewards(once) == [1, -1, 1, 1]


@pytest.mark.parametrize(
    ("cut", "stop", "offset", "reward"),
    [
        (9, "end_of_context", 1, -0.5),  # a pass more than was needed
        (7, "exit_gate", 0, 0.0),
        (7, "end_of_context", 0, 0.0),  # max_passes, and just enough
        (4, "exit_gate", -1, -0.75),  # the second hop is missing
        (4, "end_of_context", -1, 0.0),  # and this was not the gate's choice
    ],
)
def test_exits_of_mode_parallel(make, cut, stop, offset, reward):
    whole = both_hops(make)
    final = "ab" if cut > 4 else "a"
    run = dataclasses.replace(
        whole,
        turns=(*whole.turns[:cut], make.answer_turn(memory_before=final)),
        stop_reason=stop,
        settings={"merge_until_exit": True},
    )
    assert passes.exit_offset(run, HOPS[0]) == offset
    done = outcomes([[run]], [example(0)], [HOPS])
    terms = rewards(done, RewardConfig()).terms
    assert terms["exit"].tolist() == [[reward]]
    row = summarize(done)
    assert (row["exact_exit"], row["late_exit"]) == (offset == 0, offset > 0)
    # Where the gate is not obeyed it has neither reward nor columns.
    free = outcomes([[dataclasses.replace(run, settings={})]], [example(0)], [HOPS])
    assert rewards(free, RewardConfig()).terms["exit"].tolist() == [[0.0]]
    assert "exact_exit" not in summarize(free)


def test_an_exit_behind_a_needless_merge_is_late(make):
    turns = [
        *scan(1, "", None, ("b",), "y", "a"),
        (1, "merge", 2, "b", "by"),
        (1, "merge", 3, "by", "bya"),
    ]
    exact = read(make, *turns, stop="exit_gate", merge_until_exit=True)
    assert passes.exit_offset(exact, HOPS[0]) == 0
    late = read(make, *turns, stop="exit_gate", merge_until_exit=True)
    assert passes.exit_offset(late, (False, True, True, False)) == 1
    assert passes.exit_offset(late, (False,) * 4) == 3
    assert passes.exit_offset(late, (True, False, True, True, True)) == -2


def test_turns_are_compared_chunk_by_chunk(make):
    """Rollout 1 merges a needless chunk: its later turns have other numbers."""
    group = [
        both_hops(make),
        read(
            make,
            *scan(1, "", ("x",), None, None, "a"),
            (1, "merge", 3, "x", "xa"),
            *scan(2, "xa", "-", None, None, "-"),
        ),
    ]
    done = outcomes([group], [example(0)], [HOPS])
    config = AdvantageConfig(alpha=0.0)
    scores = score_groups(done, RewardConfig(), config)

    def advantages(g):
        return [
            float(scores.advantages[0, g, passes.column(turn, 4)])
            for turn in group[g].memory_turns
        ]

    # Pass 1: chunk 0 is opened by rollout 1 alone. Pass 2: chunk 0 has no other to be
    # compared with; chunk 1 is missed by rollout 1; chunk 2 is right in both. Pass 3
    # and the merge are of one rollout.
    assert advantages(0) == [1, 0, 0, 0, 0, 1, 0, 0, 0]
    assert advantages(1) == [-1, 0, 0, 0, 0, -1, 0]
    row = summarize(done)
    assert row["passes"] == 2.5
    assert row["scans"] == (9 + 6) / 2
    assert row["merges"] == 0.5
    assert row["chunks_read"] == 1.0
    # On evidence 3 of 3 and 3 of 4 turns are right, off it 6 of 6 and 2 of 3.
    assert row["update_on_evidence"] == 6 / 7
    assert row["update_off_evidence"] == 8 / 9


# Rollouts


CONFIG = AgentConfig(
    mode="parallel",
    chunk_size=10,
    question_tokens=8,
    memory_tokens=12,
    completion_tokens=64,
    prompt_tokens=130,
    prompt=PromptConfig(style="compact", order="chunk_first"),
)


def says(request):
    """Opens gates and writes memories by prompt and seed."""
    said = said_in(request, ENCODER)
    if "chunk" not in said:
        return r"\boxed{x}"
    rng = random.Random(f"{request.seed} {said}")
    if rng.random() < 0.05:
        return "malformed"
    opens, ends = rng.random() < 0.3, rng.random() < 0.1
    memory = f"{said['memory'].strip()[-5:]}{said['chunk'][:2]}" if opens else ""
    return (
        f"<think>t</think><check>{'yes' if opens else 'no'}</check>"
        f"<update>{memory}</update><next>{'end' if ends else 'continue'}</next>"
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"merge_until_exit": True}, {"scan_chunks": 3}, {"mode": "reread"}],
)
def test_taken_turns_make_the_memory(settings):
    """Followed one after the other they lead from nothing to the answer's memory."""
    config = dataclasses.replace(CONFIG, **settings)
    builder = PromptBuilder(ENCODER, config.prompt)
    document = "".join(f"{i:02d}".ljust(10, ".") for i in range(11))
    several = 0
    for number in range(20):
        run = Recurrence(builder, config, "?", document, trajectory_id=number)
        generator = ScriptedGenerator(says, ENCODER, capacity=4, shuffle_seed=number)
        for _ in driver.run(generator, [run]):
            pass
        done, memory = run.trajectory, ""
        entered = [turn.sets_memory for turn in done.memory_turns]
        for turn, entry in zip(done.memory_turns, entered):
            if entry:
                assert turn.memory_before == memory
                memory = turn.memory
        assert memory == done.turns[-1].memory_before
        several += sum(entered) > 1
        chunks = [t.chunk for t, e in zip(done.memory_turns, entered) if e]
        assert config.mode == "reread" or len(chunks) == len(set(chunks))
    assert several > 10


def batch_of(config, *numbers, size=3, capacity=5):
    examples = {i: example(i, chunks=4 + i) for i in numbers}
    builder = PromptBuilder(ENCODER, config.prompt)
    generator = ScriptedGenerator(
        says, ENCODER, capacity=capacity, shuffle_seed=capacity
    )
    groups = rollout(generator, builder, config, examples, size, step=1, seed=0)
    return groups, make_batch(groups, examples, ENCODER, config.chunk_size)


@pytest.mark.parametrize("mode", ["parallel", "reread"])
def test_rollouts_are_learned_from(mode, tmp_path):
    config = dataclasses.replace(CONFIG, mode=mode)
    groups, batch = batch_of(config, 0, 1)
    done = batch.outcomes
    assert done.turn_mask.shape[-1] in (16, 32)  # at most 4 * 5 columns, rounded up
    # Slots and order of completion change nothing.
    _, other = batch_of(config, 0, 1, capacity=1)
    for field in dataclasses.fields(done):
        one, two = (getattr(b.outcomes, field.name) for b in (batch, other))
        np.testing.assert_array_equal(one, two)
    assert batch.turns == other.turns
    # Every turn gets the advantage of its own column, and the answer turn the last.
    advantages = np.arange(done.completion_tokens.size, dtype=np.float32)
    advantages = advantages.reshape(done.completion_tokens.shape)
    learned = learnable(batch, advantages, np.ones(2, bool))
    assert (
        len(learned) == len(batch.turns) == sum(len(t.turns) for g in groups for t in g)
    )
    for turn in learned:
        p, g, k = turn.index
        said = groups[p][g].turns[k]
        column = -1
        if said.kind == "memory":
            column = passes.column(said, 4 + p)
            assert done.evidence[p, g, column] == (said.chunk == 2 + p)
            assert done.update[p, g, column] == said.update
        assert turn.advantage == advantages[p, g, column]
        assert done.completion_tokens[p, g, column] == said.completion_tokens
    # Files, and rounds of other sizes.
    scores = score_groups(done, RewardConfig(), AdvantageConfig())
    save_rollouts(tmp_path, 1, batch, scores.terms, scores.advantages)
    again = load_rollouts(tmp_path, 1)
    assert again.turns == batch.turns
    whole = join([again, batch_of(config, 7)[1]])
    for field in dataclasses.fields(done):
        got = getattr(concatenate([again.outcomes]), field.name)
        np.testing.assert_array_equal(got, getattr(done, field.name))
    wide = score_groups(whole.outcomes, RewardConfig(), AdvantageConfig())
    size = done.turn_mask.shape[-1]
    np.testing.assert_array_equal(
        wide.advantages[:2, :, :size], scores.advantages[:, :, :size]
    )


def test_files_of_earlier_versions_are_of_one_reading(tmp_path):
    config = dataclasses.replace(CONFIG, mode="with_exit_gate")
    _, batch = batch_of(config, 0, 1)
    held = {
        f.name: getattr(batch.outcomes, f.name)
        for f in dataclasses.fields(batch.outcomes)
    }
    old = dict(held)
    old["exit_chunk"] = old.pop("exit_offset") + old["last_evidence"]
    for name in ("exit_gate", "passes", "merges", "turn", "excused", "scored"):
        del old[name]
    for name, value in earlier(old).items():
        np.testing.assert_array_equal(value, held[name], err_msg=name)
        assert value.dtype == held[name].dtype


def trie_tokens(items):
    """Tokens of conversations whose equal beginnings of prompts stand once."""
    nodes = {t.prompt_ids[:n] for t in items for n in range(1, len(t.prompt_ids))}
    return len(nodes) + sum(1 + len(t.completion_ids) for t in items)


@pytest.mark.parametrize("order", ["chunk_first", "memory_first"])
def test_looks_of_a_group_at_a_chunk_share_what_they_see(order):
    """Scans of pass 1 share a whole prompt, later looks all before the memory."""
    prompt = dataclasses.replace(CONFIG.prompt, order=order)
    config = dataclasses.replace(CONFIG, prompt=prompt)
    groups, batch = batch_of(config, 2, size=4)
    said = [groups[0][g].turns[k] for _, g, k in (t.index for t in batch.turns)]
    packing = PackConfig(row_tokens=1 << 14)

    def packed(items):
        return sum(tree.size for row in assign_rows(items, packing) for tree in row)

    for chunk in range(6):
        looks = [t for t, s in zip(batch.turns, said) if s.chunk == chunk]
        first = [
            t
            for t, s in zip(batch.turns, said)
            if (s.chunk, s.step, s.pass_number) == (chunk, "scan", 1)
        ]
        assert len({t.prompt_ids for t in first}) == 1 < len(first) == 4
        assert packed(first) == trie_tokens(first)
        assert packed(looks) == trie_tokens(looks)
    together = sum(map(len, batch.turns))
    saved = 1 - packed(batch.turns) / together
    assert 1 - trie_tokens(batch.turns) / together >= saved
    assert saved > 0.6
