"""Rollouts by a scripted generator: who is sampled, with which seeds, what is kept."""

import dataclasses
import json
import math

import numpy as np
import pytest

from gru_mem_jax.agent.config import AgentConfig, longest_turn
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import Completion, SamplingConfig
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.rl.rollout import (
    check_agent,
    join,
    learnable,
    make_batch,
    rollout,
    rollout_id,
    sample,
)
from gru_mem_jax.runs.rollouts import load_rollouts, rollout_file, save_rollouts
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator

ENCODER = ByteEncoder()
CONFIG = AgentConfig(
    chunk_size=10,
    question_tokens=8,
    memory_tokens=8,
    completion_tokens=64,
    prompt_tokens=120,
    prompt=PromptConfig(style="compact"),
    sampling=SamplingConfig(seed=99),
)
BUILDER = PromptBuilder(ENCODER, CONFIG.prompt)


def gated(update="no", exits="continue", memory=""):
    return (
        f"<think>t</think><check>{update}</check><update>{memory}</update>"
        f"<next>{exits}</next>"
    )


def says(request):
    """Reads on to the end; says "no" to every chunk but those with an x."""
    text = ENCODER.decode(
        [i for s in request.prompt if s.role == "chunk" for i in s.ids]
    )
    if not text:
        return r"\boxed{x}"
    return gated("yes", memory="x") if "x" in text else gated()


def example(number, chunks=3):
    """Evidence, an x, in the chunk before the last."""
    document = "." * (10 * chunks - 15) + "x" + "." * 14
    at = document.index("x")
    return Example(
        id=f"e{number}",
        question="?",
        answers=("x",),
        document=document,
        evidence=((at, at + 1),),
    )


def groups_of(examples, *, capacity=3, shuffle=None, step=5, seed=1, size=2):
    generator = ScriptedGenerator(
        says, ENCODER, capacity=capacity, shuffle_seed=shuffle
    )
    groups = rollout(generator, BUILDER, CONFIG, examples, size, step=step, seed=seed)
    return groups, generator


def batch_of(examples, **options):
    groups, _ = groups_of(examples, **options)
    return make_batch(groups, examples, ENCODER, CONFIG.chunk_size)


class Thinking(ByteEncoder):
    """A template that opens the thought."""

    def render_chat(self, messages, variables=None):
        return super().render_chat(messages, variables) + "<think>\n"


def test_what_a_template_has_opened_is_read_and_not_learnt():
    encoder = Thinking()
    builder = PromptBuilder(encoder, CONFIG.prompt)
    examples = {7: example(7)}
    plain, _ = groups_of(examples)
    generator = ScriptedGenerator(
        lambda request: says(request).removeprefix("<think>"), encoder
    )
    groups = rollout(generator, builder, CONFIG, examples, 2, step=5, seed=1)
    batch = make_batch(groups, examples, encoder, CONFIG.chunk_size)
    expected = make_batch(plain, examples, ENCODER, CONFIG.chunk_size)
    assert batch.outcomes.well_formed.all()
    np.testing.assert_array_equal(batch.outcomes.update, expected.outcomes.update)
    turn, other = groups[0][0].turns[0], plain[0][0].turns[0]
    assert turn.text == "<think>\n" + other.text.removeprefix("<think>")
    # The tag is the prompt's, and the loss is on what was sampled.
    assert len(turn.completion_ids) == len(other.completion_ids) - 1
    assert encoder.decode(turn.prompt_ids).endswith("<think>\n")


def test_groups_are_in_order_and_traced_whatever_ends_first():
    examples = {7: example(7), 3: example(3, chunks=2)}
    groups, generator = groups_of(examples, shuffle=4)
    assert [[t.metadata["question"] for t in group] for group in groups] == [
        [7, 7],
        [3, 3],
    ]
    assert generator.most_submitted == 4  # a capacity of 3, and the rest of a group
    for group, chunks in zip(groups, (3, 2)):
        for trajectory in group:
            assert [turn.kind for turn in trajectory.turns] == [
                *["memory"] * chunks,
                "answer",
            ]
            for turn in trajectory.turns:
                assert len(turn.sampling_logprobs) == len(turn.completion_ids) > 0
    # Rollouts of a group begin one after the other.
    assert [len(r.prompt) for r in generator.requests[:2]]


def test_seeds_depend_on_run_step_question_rollout_and_turn_alone():
    def seeds(examples, **options):
        groups, generator = groups_of(examples, **options)
        ids = [t.trajectory_id for group in groups for t in group]
        return ids, sorted(r.seed for r in generator.requests)

    both, alone = {7: example(7), 3: example(3)}, {3: example(3)}
    ids, drawn = seeds(both)
    alone_ids, alone_drawn = seeds(alone, capacity=1)
    assert ids[2:] == alone_ids == [rollout_id(5, 3, 0), rollout_id(5, 3, 1)]
    assert set(alone_drawn) < set(drawn)
    assert len(set(drawn)) == 4 * 4  # every turn of every rollout has its own
    assert not set(seeds(alone, step=6)[1]) & set(alone_drawn)
    assert not set(seeds(alone, seed=2)[1]) & set(alone_drawn)
    assert rollout_id(5, 3, 1) == 173201812767450  # must not change between versions


def test_batches_hold_labels_gates_and_turns():
    batch = batch_of({7: example(7), 9: example(9, chunks=2)})
    done = batch.outcomes
    assert batch.questions == (7, 9)
    assert batch.position == 10
    assert done.turn_mask.shape == (2, 2, 8)  # K is rounded up
    assert done.turn_mask.sum(-1).tolist() == [[3, 3], [2, 2]]
    assert done.evidence[:, 0, :3].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert done.update[:, 0, :3].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert done.last_evidence[:, 0].tolist() == [1, 0]
    assert done.correct.tolist() == [[1, 1], [1, 1]]
    assert len(batch.turns) == 2 * 4 + 2 * 3
    assert [t.index for t in batch.turns[:5]] == [
        *((0, 0, k) for k in range(4)),
        (0, 1, 0),
    ]
    assert batch.problems == {}


def test_rounds_are_joined_with_the_answer_turn_last():
    few, many = batch_of({0: example(0)}), batch_of({1: example(1, chunks=9)})
    whole = join([few, many])
    assert whole.outcomes.turn_mask.shape == (2, 2, 16)
    assert whole.outcomes.completion_tokens.shape == (2, 2, 17)
    for p, part in enumerate((few, many)):
        before, after = part.outcomes, whole.outcomes
        for name in ("completion_tokens", "cut"):
            got, want = getattr(after, name)[p], getattr(before, name)[0]
            np.testing.assert_array_equal(got[:, -1], want[:, -1])
            np.testing.assert_array_equal(got[:, :8], want[:, :8])
    assert [t.index[0] for t in whole.turns] == [0] * 8 + [1] * 20
    assert (whole.refills, whole.position, whole.questions) == (1, 2, (0, 1))


def refilled(flat, questions=4, max_refills=2):
    """Samples where the numbers in `flat` teach nothing; returns what was drawn."""
    drawn = []

    def draw(numbers):
        drawn.append(list(numbers))
        return batch_of({i: example(i) for i in numbers}, size=2)

    def signal(batch):
        return np.asarray([q not in flat for q in batch.questions])

    batch = sample(
        draw, signal, position=10, questions=questions, max_refills=max_refills
    )
    return drawn, batch


def test_groups_without_signal_are_replaced_up_to_a_bound():
    drawn, batch = refilled(flat=())
    assert drawn == [[10, 11, 12, 13]]
    assert (batch.refills, batch.position) == (0, 14)
    drawn, batch = refilled(flat=(10, 12, 14))
    assert drawn == [[10, 11, 12, 13], [14, 15], [16]]
    assert batch.questions == (10, 11, 12, 13, 14, 15, 16)
    assert (batch.refills, batch.position) == (2, 17)
    drawn, batch = refilled(flat=range(100), questions=2)
    assert drawn == [[10, 11], [12, 13], [14, 15]]
    assert refilled(flat=range(100), max_refills=0)[0] == [[10, 11, 12, 13]]


def test_what_is_learned_from():
    batch = batch_of({0: example(0), 1: example(1, chunks=2)})
    advantages = np.arange(2 * 2 * 9, dtype=np.float32).reshape(2, 2, 9)
    turns = learnable(batch, advantages, np.array([False, True]))
    assert [(t.index, t.advantage) for t in turns] == [
        ((1, 0, 0), 18),
        ((1, 0, 1), 19),
        ((1, 0, 2), 26),  # the answer turn: the last column
        ((1, 1, 0), 27),
        ((1, 1, 1), 28),
        ((1, 1, 2), 35),
    ]
    cut = np.zeros((2, 2, 9), bool)
    cut[1, 0, 1] = cut[1, 1, 8] = True
    batch = dataclasses.replace(
        batch, outcomes=dataclasses.replace(batch.outcomes, cut=cut)
    )
    turns = learnable(batch, advantages, np.array([True, True]), drop_cut=True)
    kept = {t.index for t in turns}
    assert (1, 0, 1) not in kept
    assert (1, 1, 2) not in kept
    assert len(turns) == len(batch.turns) - 2


def test_rollouts_without_a_score_are_not_learned_from():
    batch = batch_of({0: example(0), 1: example(1, chunks=2)})
    scored = np.array([[True, False], [False, False]])
    batch = dataclasses.replace(
        batch, outcomes=dataclasses.replace(batch.outcomes, scored=scored)
    )
    turns = learnable(batch, np.zeros((2, 2, 9)), np.array([True, True]))
    assert {t.index[:2] for t in turns} == {(0, 0)}


def test_what_a_turn_raises_ends_the_rollouts():
    calls = []

    def on_turn():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    generator = ScriptedGenerator(says, ENCODER, capacity=2)
    with pytest.raises(KeyboardInterrupt):
        rollout(
            generator,
            BUILDER,
            CONFIG,
            {0: example(0)},
            4,
            step=1,
            seed=0,
            on_turn=on_turn,
        )
    assert len(calls) == 3


def test_a_request_that_is_given_up_is_no_rollout_to_learn_from():
    gone = [gated(), Completion.failed("the server is gone"), gated(), gated()]
    generator = ScriptedGenerator([*gone, *[gated()] * 9], ENCODER)
    with pytest.raises(RunError, match="the server is gone"):
        rollout(generator, BUILDER, CONFIG, {0: example(0)}, 2, step=1, seed=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"temperature": 0}, "temperature 0 is greedy"),
        ({"top_k": 50}, "top_k is 50: .* another support"),
        ({"top_p": 0.95}, "top_p is 0.95: .* another support"),
    ],
)
def test_agents_that_cannot_be_learned_from(changes, says):
    sampling = dataclasses.replace(CONFIG.sampling, **changes)
    with pytest.raises(InputError, match=says):
        check_agent(dataclasses.replace(CONFIG, sampling=sampling))


def test_a_deadline_cannot_be_learned_from():
    with pytest.raises(InputError, match="depend on the clock"):
        check_agent(dataclasses.replace(CONFIG, deadline_seconds=10))
    check_agent(CONFIG)


@pytest.mark.parametrize("name", ["update_threshold", "exit_threshold"])
def test_gates_that_a_threshold_decides_cannot_be_learned_from(name):
    constrained = dataclasses.replace(CONFIG, format="constrained")
    check_agent(constrained)
    with pytest.raises(InputError, match=f"{name} is 0.25: a gate that a threshold"):
        check_agent(dataclasses.replace(constrained, **{name: 0.25}))


def test_turns_whose_every_token_was_forced_are_not_learned(tmp_path):
    batch = batch_of({4: example(4)})
    first = batch.turns[0]
    forced = (-1,) * len(first.completion_ids)
    turns = (dataclasses.replace(first, supports=forced), *batch.turns[1:])
    advantages = np.ones(batch.outcomes.completion_tokens.shape, np.float32)
    kept = [
        [turn.index for turn in learnable(each, advantages, np.ones(1, bool))]
        for each in (batch, dataclasses.replace(batch, turns=turns))
    ]
    assert kept[0][0] == first.index
    assert kept[1] == kept[0][1:]


def test_no_turn_is_longer_than_the_bound():
    longest = longest_turn(BUILDER, CONFIG)
    prompts = BUILDER.overhead_tokens("gated") + 10 + 8 + 8
    assert longest == prompts + 64


# Files


def random_scores(batch, seed=0):
    rng = np.random.default_rng(seed)
    shape = batch.outcomes.completion_tokens.shape
    terms = {"outcome": rng.random(shape[:2]), "update": rng.random(shape)[..., 1:]}
    return terms, rng.random(shape).astype(np.float32)


def test_rollouts_come_back_from_their_file_exactly(tmp_path):
    batch = join([batch_of({4: example(4)}), batch_of({5: example(5, chunks=2)})])
    logprobs = tuple(
        -math.pi / i for i in range(1, 1 + len(batch.turns[0].completion_ids))
    )
    first = dataclasses.replace(batch.turns[0], sampler_logprobs=logprobs)
    batch = dataclasses.replace(
        batch,
        turns=(first, *batch.turns[1:]),
        problems={"<think> missing": 3},
        shared_tokens=17,
    )
    path = save_rollouts(tmp_path / "rollouts", 12, batch, *random_scores(batch))
    assert path.name == "step_00000012.npz"
    again = load_rollouts(tmp_path / "rollouts", 12)
    assert again.turns == batch.turns
    for field in dataclasses.fields(batch.outcomes):
        got, want = (getattr(b.outcomes, field.name) for b in (again, batch))
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    for name in ("questions", "problems", "refills", "position", "shared_tokens"):
        assert getattr(again, name) == getattr(batch, name)
    with np.load(path) as arrays:  # readable by anybody: ids, gates, rewards
        assert arrays["outcome_update"].shape == (2, 2, 8)
        assert arrays["reward_outcome"].shape == (2, 2)
        assert arrays["completion_ends"][-1] == len(arrays["completion_ids"])


def test_supports_and_weights_come_back_and_make_a_newer_file(tmp_path):
    """A file without them is as earlier versions wrote it, and as they read it."""
    batch = batch_of({4: example(4)})
    one, two, *others = batch.turns
    size = len(one.completion_ids)
    one = dataclasses.replace(one, supports=(-1, *range(size - 1)))
    two = dataclasses.replace(two, weights=(0.1,) * len(two.completion_ids))
    both = dataclasses.replace(batch, turns=(one, two, *others))
    for given, version in ((batch, 1), (both, 2)):
        path = save_rollouts(tmp_path, version, given, *random_scores(batch))
        assert load_rollouts(tmp_path, version).turns == given.turns
        with np.load(path) as arrays:
            record = json.loads(arrays["record"].tobytes())
            assert record["format"] == version
            names = {n for n in arrays.files if n.startswith(("supports", "weights"))}
        assert len(names) == (4 if version == 2 else 0)


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    "damage", ["missing", "cut", "pickle", "other", "newer", "supports"]
)
def test_files_that_are_no_rollouts(tmp_path, damage, capsys):
    batch = batch_of({4: example(4)})
    path = save_rollouts(tmp_path, 1, batch, *random_scores(batch))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        np.savez(path, record=np.asarray([Bomb()], object))
    elif damage == "other":
        np.savez(path, x=np.zeros(3))
    else:
        with np.load(path) as file:
            arrays = dict(file)
        if damage == "supports":  # of fewer tokens than there are
            arrays |= {"supports": np.zeros(3, np.int32)}
            arrays["supports_ends"] = np.full(len(arrays["turn_index"]), 3)
        else:
            record = json.loads(arrays["record"].tobytes()) | {"format": 3}
            arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        np.savez(path, **arrays)
    with pytest.raises(InputError, match=str(rollout_file(tmp_path, 1))):
        load_rollouts(tmp_path, 1)
    assert "unpickled" not in capsys.readouterr().out
