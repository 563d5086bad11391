"""Numbers of hand-made steps and trajectories."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.errors import RunError
from gru_mem_jax.rl.learner import Report
from gru_mem_jax.rl.objective import TokenSum
from gru_mem_jax.rl.outcomes import STOP_REASONS, Outcomes, concatenate, outcomes
from gru_mem_jax.rl.packing import Conversation
from gru_mem_jax.rl.rollout import RolloutBatch
from gru_mem_jax.rl.summary import (
    summarize,
    summarize_gaps,
    summarize_rollouts,
    summarize_updates,
)
from gru_mem_jax.train.rollouts import check_gap


def flags(*rows):
    return np.asarray([[c == "x" for c in row] for row in rows])[None]


def a_step(mode="with_exit_gate", well_formed="xx", **changes):
    """One question on 4 chunks, evidence in 1 and 2; two rollouts.

    The first reads 0 to 2 and updates on 1 alone; the second reads all and always
    updates, but its turn 3 is malformed.
    """
    shape = (1, 2)
    arrays = {
        "correct": np.asarray([[1.0, 0.0]], np.float32),
        "scored": np.ones(shape, bool),
        "mode": np.full(shape, MODES.index(mode), np.int32),
        "stop": np.full(shape, STOP_REASONS.index("exit_gate"), np.int32),
        "exit_gate": np.full(shape, mode == "with_exit_gate"),
        "exit_offset": np.asarray([[0, 1]], np.int32),
        "last_evidence": np.asarray([[2, 2]], np.int32),
        "num_chunks": np.asarray([[4, 4]], np.int32),
        "passes": np.ones(shape, np.int32),
        "merges": np.zeros(shape, np.int32),
        "well_formed": flags(well_formed)[0][None, 0],
        "turn_mask": flags("xxx.", "xxxx"),
        "turn": np.asarray([[[0, 1, 2, 0], [0, 1, 2, 3]]], np.int32),
        "update": flags(".x..", "xxx."),
        "evidence": flags(".xx.", ".xx."),
        "excused": flags("....", "...."),
        "turn_well_formed": flags("xxx.", "xxx."),
        "memory_tokens": np.asarray([[[0, 5, 5, 0], [4, 6, 9, 9]]], np.int32),
        "memory_cut": flags("....", "..x."),
        "completion_tokens": np.asarray(
            [[[10, 20, 10, 0, 5], [20, 20, 20, 40, 6]]], np.int32
        ),
        "cut": flags(".....", "...x."),
    } | changes
    turn = Conversation(
        index=(0, 0, 0),
        prompt_ids=(1, 2, 3),
        completion_ids=(4, 5),
        sampler_logprobs=(-1.0, -1.0),
        advantage=0.0,
    )
    return RolloutBatch(
        questions=(7,),
        outcomes=Outcomes(**arrays),
        turns=(turn, turn),
        problems={"<think> missing": 2, "cut at the token limit": 1},
        refills=1,
        position=8,
        shared_tokens=3,
    )


TERMS = {
    "outcome": np.asarray([[1.0, 0.0]]),
    "update": np.asarray([[[1.0, 1.0, -1.0, 0.0], [-1.0, 1.0, 1.0, -1.0]]]),
}


def columns_of(batch, keep=True, signal=True):
    return summarize_rollouts(
        batch, TERMS, np.asarray([[2.0, 1.0]]), np.asarray([keep]), np.asarray([signal])
    )


def test_gates_by_hand():
    row = columns_of(a_step())
    assert row["reward/trajectory"] == 1.5
    assert row["reward/update"] == pytest.approx(1 / 7)  # over the 7 turns read
    assert row["exact"] == 0.5
    # Turns on evidence: rollout 0 chunks 1 (right), 2 (wrong); rollout 1 both right.
    assert row["update_on_evidence"] == 0.75
    # Off: rollout 0 chunk 0 right; rollout 1 chunk 0 wrong, chunk 3 malformed: wrong.
    assert row["update_off_evidence"] == pytest.approx(1 / 3)
    assert row["balanced_update"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert (row["exact_exit"], row["late_exit"], row["early_exit"]) == (0.5, 0.5, 0)
    assert (row["exit_deviation"], row["exit_offset"]) == (0.5, 0.5)
    assert row["chunks_read"] == pytest.approx((3 / 4 + 1) / 2)
    assert row["well_formed_turns"] == pytest.approx(6 / 7)


def test_lengths_by_hand():
    row = columns_of(a_step())
    assert row["completion_tokens"] == pytest.approx(151 / 9)  # 7 turns, 2 answers
    assert row["longest_completion"] == 40
    assert row["trajectory_tokens"] == pytest.approx((45 + 106) / 2)
    assert row["memory_tokens"] == pytest.approx(38 / 7)
    assert row["longest_memory"] == 9
    assert row["cut_turns"] == pytest.approx(1 / 9)
    assert row["cut_memories"] == pytest.approx(1 / 7)
    assert (row["tokens/sampled"], row["tokens/prompts"]) == (4, 6)
    assert row["tokens/shared"] == 3


def test_groups_and_reasons():
    row = columns_of(a_step(), keep=False, signal=False)
    assert (row["groups/sampled"], row["groups/flat"]) == (1, 1)
    assert (row["groups/learned"], row["groups/refills"]) == (0, 1)
    assert row["unparsed/think_missing"] == 2
    assert row["unparsed/cut_at_the_token_limit"] == 1
    assert row["unparsed_turns"] == 3


def test_what_has_no_denominator_is_none():
    none = np.full((1, 2), -1, np.int32)
    row = columns_of(a_step(last_evidence=none, evidence=flags("....", "....")))
    assert row["exact_exit"] is row["exit_deviation"] is None
    assert row["update_on_evidence"] is row["balanced_update"] is None
    assert row["update_off_evidence"] is not None
    nobody = flags("....", "....")
    row = columns_of(a_step(turn_mask=nobody))
    assert row["memory_tokens"] is row["well_formed_turns"] is None
    assert row["longest_memory"] is None


GATES = {
    "update_on_evidence",
    "update_off_evidence",
    "exact_exit",
    "early_exit",
    "late_exit",
    "exit_deviation",
    "exit_offset",
    "well_formed",
    "well_formed_turns",
}


def test_memagent_has_no_gates():
    row = columns_of(a_step("memagent"))
    assert not GATES & set(row)
    assert row["chunks_read"] == 0.875
    assert set(columns_of(a_step())) > GATES


def test_beside_memagent_gates_are_those_of_the_others():
    """Of two rollouts the second is MemAgent's."""
    mode = np.asarray([[MODES.index("with_exit_gate"), MODES.index("memagent")]])
    row = summarize(dataclasses.replace(a_step().outcomes, mode=mode))
    assert row["update_on_evidence"] == 0.5
    assert row["update_off_evidence"] == 1.0
    assert (row["exact_exit"], row["late_exit"]) == (1.0, 0.0)
    assert row["well_formed_turns"] == 1.0
    assert row["completion_tokens"] == pytest.approx(151 / 9)  # of both


def test_updates_without_bounds_have_no_clipping():
    sums = {"loss": TokenSum(jnp.float32(5.0), jnp.float32(10))}
    only = Report(sums, jnp.float32(1), jnp.float32(0.5), jnp.asarray(True))
    assert set(summarize_updates([only])) == {
        "loss",
        "grad_norm",
        "learning_rate",
        "optimizer_steps",
        "skipped_steps",
    }


def report(taken=True, clip=2.0, norm=3.0):
    sums = {
        "loss": TokenSum(jnp.float32(5.0), jnp.float32(10)),
        "clip_high": TokenSum(jnp.float32(clip), jnp.float32(10)),
        "clip_low": TokenSum(jnp.float32(1.0), jnp.float32(10)),
    }
    return Report(sums, jnp.float32(norm), jnp.float32(0.5), jnp.asarray(taken))


def test_updates_by_hand():
    row = summarize_updates([report(), report(clip=0.0, norm=5.0)])
    assert (row["loss"], row["clip_high"], row["clip_low"]) == (0.5, 0.1, 0.1)
    assert row["clipped"] == pytest.approx(0.2)
    assert (row["grad_norm"], row["learning_rate"]) == (4.0, 0.5)
    assert (row["optimizer_steps"], row["skipped_steps"]) == (2, 0)
    row = summarize_updates([report(), report(taken=False, norm=float("nan"))])
    assert (row["grad_norm"], row["skipped_steps"]) == (3.0, 1)
    assert summarize_updates([report(taken=False)])["grad_norm"] is None
    assert summarize_updates([]) == {}


def test_gaps():
    gaps = [
        (TokenSum(jnp.float32(1.0), jnp.float32(4)), jnp.float32(0.5)),
        (TokenSum(jnp.float32(2.0), jnp.float32(2)), jnp.float32(1.5)),
    ]
    row = summarize_gaps(gaps)
    assert (row["logprob_gap"], row["largest_logprob_gap"]) == (0.5, 1.5)
    check_gap(row, 0.5, 1)
    check_gap(row, None, 1)
    check_gap(summarize_gaps([]), 0.0, 1)
    for gap in (0.51, float("nan")):
        with pytest.raises(RunError, match=r"step 9: .* above logprob_gap_limit 0.5"):
            check_gap({"logprob_gap": gap}, 0.5, 9)


def test_what_has_no_score_is_in_no_mean_and_counted():
    scored = np.asarray([[False, True]])
    row = columns_of(a_step(scored=scored))
    assert row["reward/unscored"] == 1
    assert (row["exact"], row["reward/outcome"], row["reward/trajectory"]) == (0, 0, 1)
    assert row["reward/update"] == pytest.approx(
        1 / 7
    )  # gates are labelled all the same
    row = columns_of(a_step(scored=np.zeros((1, 2), bool)))
    assert row["reward/unscored"] == 2
    assert row["exact"] is row["reward/outcome"] is row["reward/trajectory"] is None
    assert "reward/unscored" not in columns_of(a_step())


# From trajectories


def summary(make, turns, evidence=(0, 1, 0, 0), **fields):
    """Of one trajectory on chunks that hold evidence or not."""
    return summarize(done(make, turns, evidence, **fields))


def done(make, turns, evidence=(0, 1, 0, 0), **fields):
    labels = tuple(map(bool, evidence))
    last = max((i for i, held in enumerate(labels) if held), default=None)
    run = make.trajectory(turns, **fields)
    return outcomes([[run]], [make.example()], [(labels, last)])


def test_right_gates_and_an_exact_exit(make):
    turns = [make.memory_turn(0, False), make.memory_turn(1, True, exits=True)]
    assert summary(make, turns) == {
        "exact": 1.0,
        "update_on_evidence": 1.0,
        "update_off_evidence": 1.0,
        "balanced_update": 1.0,
        "exact_exit": 1.0,
        "early_exit": 0.0,
        "late_exit": 0.0,
        "exit_deviation": 0.0,
        "exit_offset": 0.0,
        "well_formed": 1.0,
        "well_formed_turns": 1.0,
        "chunks_read": 0.5,
        "completion_tokens": 17 / 3,
        "longest_completion": 7,
        "trajectory_tokens": 17.0,
        "memory_tokens": 0.5,
        "longest_memory": 1,
        "cut_turns": 0.0,
        "cut_memories": 0.0,
    }


def test_early_and_late_exits_and_wrong_gates(make):
    early = done(make, [make.memory_turn(0, True, exits=True)], answer=None)
    late = done(make, [make.memory_turn(i, False, exits=i == 3) for i in range(4)])
    row = summarize(concatenate([early, late]))
    assert row["exact"] == 0.5
    # Chunk 1 was read by the late one alone, which did not update.
    assert row["update_on_evidence"] == 0.0
    # Off evidence: chunk 0 wrong in one, right in the other; chunks 2 and 3 right.
    assert row["update_off_evidence"] == pytest.approx(3 / 4)
    assert (row["early_exit"], row["late_exit"]) == (0.5, 0.5)
    assert row["chunks_read"] == pytest.approx((1 / 4 + 4 / 4) / 2)


def test_reading_to_the_end_is_exact_where_the_end_is_evidence(make):
    turns = [make.memory_turn(i, i == 3) for i in range(4)]
    assert summary(make, turns, (0, 0, 0, 1))["exact_exit"] == 1.0


def test_a_malformed_turn_is_wrong_on_and_off_evidence(make):
    """The loop keeps the memory, which off evidence is what a right gate does."""
    turns = [
        make.memory_turn(0, None, well_formed=False),
        make.memory_turn(1, True, exits=True),
    ]
    row = summary(make, turns)
    assert (row["update_off_evidence"], row["update_on_evidence"]) == (0.0, 1.0)
    assert (row["well_formed"], row["well_formed_turns"]) == (0.0, 0.5)
    turns = [make.memory_turn(i, None, well_formed=False) for i in range(4)]
    row = summary(make, turns)
    assert row["update_off_evidence"] == row["update_on_evidence"] == 0.0


def test_what_is_not_counted_is_none(make):
    nothing = summarize(outcomes([], [], []))
    assert set(nothing.values()) == {None}
    no_evidence = summary(make, [make.memory_turn(0, False)], evidence=(0,))
    assert no_evidence["update_on_evidence"] is None
    assert no_evidence["exact_exit"] is None
    assert summary(make, [], evidence=())["chunks_read"] is None


def test_outcomes_of_several_lengths_side_by_side(make):
    short = done(make, [make.memory_turn(0, True)], evidence=(1,))
    long = done(make, [make.memory_turn(i, False) for i in range(3)], (0, 0, 1))
    both = concatenate([short, long])
    assert both.turn_mask.tolist() == [[[True, False, False]], [[True, True, True]]]
    # The answer turn stays the last.
    assert both.completion_tokens.tolist() == [[[7, 0, 0, 3]], [[7, 7, 7, 3]]]
    assert both.correct.shape == (2, 1)
    assert concatenate([short]).update.tolist() == short.update.tolist()
