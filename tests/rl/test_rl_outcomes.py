"""Trajectories to arrays, each number read off a record above it."""

import dataclasses
import fractions

import jax
import numpy as np
import pytest

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.data.scoring import SCORERS
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.rl.outcomes import STOP_REASONS, outcomes
from gru_mem_jax.rl.rewards import RewardConfig

LABELS = ((False, True, False), 1)


def test_every_array_of_a_group_of_two(make):
    exact = make.trajectory(
        [make.memory_turn(0, False), make.memory_turn(1, True, exits=True)]
    )
    late = make.trajectory(
        [
            make.memory_turn(0, True, memory_cut=True),
            make.memory_turn(1, None, well_formed=False, finish_reason="length"),
            make.memory_turn(2, False, tokens=9),
        ],
        answer=None,
        stop="end_of_context",
        end=make.answer_turn(well_formed=False, finish_reason="length"),
    )
    got = outcomes([[exact, late]], [make.example()], [LABELS])
    expected = {
        "correct": [[1, 0]],
        "scored": [[True, True]],
        "mode": [[0, 0]],
        "stop": [[0, 1]],
        "exit_gate": [[True, True]],
        "exit_offset": [[0, 1]],
        "last_evidence": [[1, 1]],
        "num_chunks": [[3, 3]],
        "passes": [[1, 1]],
        "merges": [[0, 0]],
        "well_formed": [[True, False]],
        "turn_mask": [[[1, 1, 0], [1, 1, 1]]],
        "turn": [[[0, 1, 0], [0, 1, 2]]],
        "excused": [[[0, 0, 0], [0, 0, 0]]],
        "update": [[[0, 1, 0], [1, 0, 0]]],
        # Chunk 2 is there whether or not it was read.
        "evidence": [[[0, 1, 0], [0, 1, 0]]],
        "turn_well_formed": [[[1, 1, 0], [1, 0, 1]]],
        "memory_tokens": [[[0, 1, 0], [0, 1, 2]]],
        "memory_cut": [[[0, 0, 0], [1, 0, 0]]],
        "completion_tokens": [[[7, 7, 0, 3], [7, 7, 9, 3]]],
        "cut": [[[0, 0, 0, 0], [0, 1, 0, 1]]],
    }
    assert {field.name for field in dataclasses.fields(got)} == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(got, name), value, err_msg=name)
    assert got.correct.dtype == np.float32
    assert got.exit_offset.dtype == np.int32
    assert got.update.dtype == bool


def test_outcomes_are_a_pytree(make):
    got = outcomes([[make.trajectory([])]], [make.example()], [((), None)])
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(got)} == {(1, 1)}


def test_an_empty_context_without_evidence(make):
    run = make.trajectory([], stop="empty_context")
    got = outcomes([[run]], [make.example()], [((), None)])
    assert (got.exit_offset, got.last_evidence, got.num_chunks) == (0, -1, 0)
    assert got.passes == 0
    assert got.turn_mask.shape == (1, 1, 0)
    assert got.completion_tokens.tolist() == [[[3]]]


def test_k_is_the_longest_context_or_what_is_asked_for(make):
    groups = [[make.trajectory([make.memory_turn(0, True)])]] * 2
    examples = [make.example()] * 2
    labels = [((True,), 0), ((False,) * 4, None)]
    assert outcomes(groups, examples, labels).update.shape == (2, 1, 4)
    wide = outcomes(groups, examples, labels, num_turns=6)
    assert wide.update.shape == (2, 1, 6)
    assert wide.cut.shape == (2, 1, 7)
    # A K below the context's length, where all runs stop before it (max_chunks).
    narrow = outcomes(groups, examples, labels, num_turns=2)
    assert narrow.evidence.tolist() == [[[True, False]], [[False, False]]]
    assert narrow.num_chunks.tolist() == [[1], [4]]


@pytest.mark.parametrize("mode", MODES)
def test_memagent_always_updates(make, mode):
    run = make.trajectory([make.memory_turn(0, None)], mode=mode)
    got = outcomes([[run]], [make.example()], [((True,), 0)])
    assert got.mode == MODES.index(mode)
    assert got.update.item() == (mode == "memagent")


def test_an_unknown_stop_reason_is_other(make):
    run = make.trajectory([make.memory_turn(0, True)], stop="the user's own")
    got = outcomes([[run]], [make.example()], [((True,), 0)])
    assert STOP_REASONS[got.stop.item()] == "other"


@pytest.mark.parametrize(
    ("config", "answer", "value"),
    [
        (RewardConfig(), "red balloon", 1.0),  # the example's own: exact
        (RewardConfig(), "balloon", 0.0),
        (RewardConfig(scoring="f1"), "balloon", 2 / 3),
        (RewardConfig(scoring="boxed"), "a red balloon flew", 1.0),
        (RewardConfig(scoring="equivalent"), "Red Balloon", 1.0),
        (RewardConfig(scoring="part"), "red balloon", 0.5),
        (RewardConfig(scoring="all"), "red balloon", 0.0),
        (RewardConfig(scoring="f1"), None, 0.0),
        (RewardConfig(reward_fn=lambda example, run: len(run.turns) / 4), None, 0.25),
    ],
)
def test_answers_are_scored_as_asked(make, config, answer, value):
    example = make.example(answers=("red balloon", "blue sky"))
    run = make.trajectory([], answer=answer)
    got = outcomes([[run]], [example], [((), None)], config.answer_reward)
    assert got.correct.item() == pytest.approx(value)


@pytest.mark.parametrize("scoring", SCORERS)
@pytest.mark.parametrize("answer", [None, "", " ", r"\text{}", "{}"])
def test_no_answer_and_an_empty_one_are_worth_nothing(make, scoring, answer):
    """By an example's own scoring, in training and evaluation, and by a reward's."""
    run = make.trajectory([], answer=answer)
    for gold in ("red balloon", "A", "?", ""):
        example = make.example(answers=(gold,), scoring=scoring)
        ways = (None, RewardConfig().answer_reward)
        ways += (RewardConfig(scoring=scoring).answer_reward,)
        for way in ways:
            got = outcomes([[run]], [example], [((), None)], way)
            assert got.correct.item() == 0.0


def test_without_a_reward_function_the_example_says_how(make):
    run = make.trajectory([], answer="red x")
    for scoring, value in (("exact", 0.0), ("boxed", 1.0)):
        example = make.example(scoring=scoring)
        assert outcomes([[run]], [example], [((), None)]).correct.item() == value


def test_a_failing_reward_function_is_named(make):
    def broken(example, run):
        return 1 / 0

    arguments = ([[make.trajectory([])]], [make.example()], [((), None)])
    with pytest.raises(
        RunError, match=r"broken failed on rollout 0 of example '7'.*Zero"
    ):
        outcomes(*arguments, broken)
    with pytest.raises(RunError, match=r"Zero.*test_rl_outcomes.py, line \d+\)$"):
        outcomes(*arguments, broken)


async def later(example, run):
    return 1.0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "gave nan for rollout 0 of example '7': expected a finite"),
        (float("-inf"), "gave -inf for"),
        (1e39, "gave 1e[+]39 for"),  # infinite in float32
        (10**400, "gave an integer of 1329 bits for"),
        ("1.0", "gave '1.0' for"),
        (b"1", "gave b'1' for"),
        ((1.0, "why"), r"gave \(1.0, 'why'\) for"),
        ({"score": 1}, "gave {'score': 1} for"),
        (1j, "gave 1j for"),
        (np.array([1.0, 2.0]), "gave array"),
    ],
    ids=repr,
)
def test_what_is_no_reward_is_named(make, value, says):
    arguments = ([[make.trajectory([])]], [make.example()], [((), None)])
    with pytest.raises(RunError, match=says) as caught:
        outcomes(*arguments, lambda example, run: value)
    assert len(str(caught.value)) < 350
    with pytest.raises(RunError, match="later gave a coroutine"):
        outcomes(*arguments, later)


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        (True, 1.0),
        (0, 0.0),
        (-2, -2.0),
        (np.float16(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array(0.25), 0.25),
        (jax.numpy.float32(0.75), 0.75),
        (fractions.Fraction(1, 4), 0.25),
    ],
)
def test_numbers_of_any_kind_are_rewards(make, value, reward):
    arguments = ([[make.trajectory([])]], [make.example()], [((), None)])
    got = outcomes(*arguments, lambda example, run: value)
    assert (got.correct.item(), got.scored.item()) == (reward, True)


def test_none_is_no_score(make):
    runs = [make.trajectory([], answer=answer) for answer in ("1", None, "0")]
    got = outcomes(
        [runs],
        [make.example()],
        [((), None)],
        lambda example, run: None if run.answer is None else float(run.answer),
    )
    assert got.correct.tolist() == [[1.0, 0.0, 0.0]]
    assert got.scored.tolist() == [[True, False, True]]


def test_what_does_not_fit_is_refused(make):
    run = make.trajectory([make.memory_turn(0, True)])
    one = make.example()
    with pytest.raises(InputError, match="2 groups, 1 examples and 1 labels"):
        outcomes([[run], [run]], [one], [LABELS])
    with pytest.raises(InputError, match=r"equally many rollouts, got \[1, 2\]"):
        outcomes([[run], [run, run]], [one, one], [LABELS, LABELS])
    with pytest.raises(InputError, match="rollout 0 of example '7' has 1 memory turns"):
        outcomes([[run]], [one], [((), None)])
    with pytest.raises(InputError, match="need 1 columns, more than the 0 of num_turn"):
        outcomes([[run]], [one], [LABELS], num_turns=0)
    interrupted = dataclasses.replace(run, turns=run.turns[:-1], interrupted=True)
    with pytest.raises(InputError, match="must end with its answer turn"):
        outcomes([[interrupted]], [one], [LABELS])
