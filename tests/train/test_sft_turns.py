"""What supervised steps learn of documents with several questions, and of gates."""

import dataclasses
import itertools
import random

import jax
import numpy as np
import pytest
from train_settings import AGENT, of_policy, quick_sft

from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch, host_count
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.summary import summarize_rows
from gru_mem_jax.tiny import oracle
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate
from gru_mem_jax.train.data_check import make_judge
from gru_mem_jax.train.held_out import gate_columns
from gru_mem_jax.train.plan import open_start, plan
from gru_mem_jax.train.questions import QuestionStage
from gru_mem_jax.train.sft import TurnStream, as_conversations, describe_turns

READS = dataclasses.replace(
    AGENT,
    chunk_size=48,
    memory_tokens=48,
    completion_tokens=72,
    prompt_tokens=192,
    prompt=PromptConfig(style="compact", order="chunk_first"),
)
CONFIG = SyntheticConfig(tasks=("multi_key",), num_chunks=4, chunk_tokens=48)


def questions_on(number, count=4):
    """Of each of some needles of one document."""
    for index in itertools.count(100 * number):
        document = generate(CONFIG, index).document
        facts = oracle.facts_with_spans(document)
        if len(facts) >= count:
            break
    return [
        Example(
            id=f"{number}/{key}",
            question=f"Which code belongs to {key}?",
            answers=(value,),
            document=document,
            evidence=(span,),
        )
        for (key, value), span in facts[:count]
    ]


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Examples again and again, as they stand."""

    examples: tuple[Example, ...]
    on_bad_record: str = "skip"

    def example(self, position):
        return self.examples[position % len(self.examples)]


FOUR = tuple(example for n in range(6) for example in questions_on(n))


def settings_of(policy_dir, examples=FOUR, packing=None, **fields):
    learner = LearnerConfig(
        learning_rate=1e-3,
        row_tokens=512,
        rows_per_device=2,
        length_buckets=1,
        logits_chunk=64,
        remat=False,
        **(packing or {}),
    )
    defaults = {
        "agent": READS,
        "source": InOrder(examples),
        "turns": EvidenceTurns(off_evidence=2.0),
        "short_steps": 0,
        "short_source": None,
        "held_out": None,
        "pool_turns": 20,
        "learner": learner,
    }
    settings = of_policy(quick_sft(eval_every=0), policy_dir)
    return dataclasses.replace(settings, **(defaults | fields))


def stream_of(settings, tmp_path, note=lambda line: None):
    directory = open_start(settings, tmp_path)
    planned = plan(settings, directory)
    stage = QuestionStage(settings.source, make_judge(settings, planned), note=note)
    packing = settings.learner.packing(1)
    return TurnStream(settings, planned.encoder, planned.agent, stage, None, packing)


def first_pool(settings, tmp_path):
    """The steps of the first pool."""
    steps = []
    for step in stream_of(settings, tmp_path).steps(0, 0, 0):
        steps.append(step)
        if step.taken == 0:
            break
    return steps


def batches_of(steps):
    return [rows for step in steps for rows in step.micro_batches]


def saved_of(steps):
    tokens = sum(step.tokens for step in steps)
    return summarize_rows(batches_of(steps), tokens)["rows/saved"] / tokens


def test_questions_on_one_document_share_their_chunks(policy_dir, tmp_path):
    """Of four questions each chunk that several ask about stands once in a row."""
    shared = first_pool(settings_of(policy_dir), tmp_path)
    apart = [dataclasses.replace(e, document=f"{e.document} {e.id}") for e in FOUR]
    alone = first_pool(settings_of(policy_dir, tuple(apart)), tmp_path)
    off = settings_of(policy_dir, packing={"share_prefixes": False})
    assert saved_of(first_pool(off, tmp_path)) == 0
    assert saved_of(alone) == 0
    assert saved_of(shared) > 0.35


def test_a_pool_does_not_cut_a_documents_questions_apart(policy_dir, tmp_path):
    steps = stream_of(settings_of(policy_dir, pool_turns=10), tmp_path).steps(0, 0, 0)
    ends = [s.position for s in itertools.islice(steps, 40) if s.taken == 0]
    assert len(ends) > 3
    assert [end % 4 for end in ends] == [0] * len(ends)
    # All on one document: a pool ends nevertheless.
    one = settings_of(policy_dir, FOUR[:4], pool_turns=20)
    steps = first_pool(one, tmp_path)
    assert 40 <= int(steps[0].described.split(" ")[0]) < 40 + 5


def test_the_stream_of_documents_begins_anywhere(policy_dir, tmp_path):
    """Bad examples between the questions of a document are met, and told, once."""
    bad = [dataclasses.replace(e, evidence=()) for e in FOUR[2:24:5]]
    examples = list(FOUR)
    for number, example in enumerate(bad):
        again = dataclasses.replace(example, id=f"bad {number}")
        examples.insert(2 + 5 * number, again)
    settings = settings_of(policy_dir, tuple(examples), pool_turns=8)
    notes = []
    stream = stream_of(settings, tmp_path, notes.append)
    steps = list(itertools.islice(stream.steps(0, 0, 0), 30))
    whole = [i for i, step in enumerate(steps) if step.taken == 0][-1]
    told = [line for line in notes if "skipped" in line]
    assert len(told) == len(set(told))
    met = sum(step.met_bad for step in steps[: whole + 1])
    positions = [i % len(examples) for i in range(steps[whole].position)]
    assert met == sum(not examples[i].evidence for i in positions) > 3
    for done in (1, 2, 5, 9):
        at = steps[done - 1]
        again = stream_of(settings, tmp_path).steps(done, at.position, at.taken)
        for found, wanted in zip(itertools.islice(again, 4), steps[done:]):
            assert found[1:5] == wanted[1:5]
            jax.tree.map(
                np.testing.assert_array_equal,
                found.micro_batches,
                wanted.micro_batches,
            )


@pytest.fixture(scope="module")
def learner_and_params(policy_dir):
    """Larger weights than at the start: distributions that differ."""
    policy, params = load_policy(policy_dir)
    params = jax.tree.map(lambda x: 3 * x, params)
    return compile_learner(policy, None, settings_of(policy_dir).learner), params


def gradient_of(learner, params, steps):
    """Of all tokens of some steps together, and the loss."""
    batches = batches_of(steps)
    carry, count = learner.begin(), host_count(batches)
    for rows in batches:
        carry = learner.accumulate(params, {}, carry, Batch(rows, None, None, count))
    return carry.grads, carry.sums["loss"].value()


def test_shared_turns_have_the_gradient_of_separate_ones(
    policy_dir, tmp_path, learner_and_params
):
    learner, params = learner_and_params
    shared, separate = (
        gradient_of(learner, params, first_pool(settings, tmp_path))
        for settings in (
            settings_of(policy_dir, gate_weight=5.0),
            settings_of(policy_dir, gate_weight=5.0, packing={"share_prefixes": False}),
        )
    )
    assert shared[1] == pytest.approx(separate[1], rel=1e-6)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(shared[0]))
    assert largest > 1e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        *(shared[0], separate[0]),
    )


def turns_of(policy_dir, tmp_path, examples=FOUR[:8], **fields):
    settings = settings_of(policy_dir, examples)
    planned = plan(settings, open_start(settings, tmp_path))
    made = EvidenceTurns(off_evidence=2.0, **fields).oracle(planned.encoder, READS)
    return [t for e in examples for t in made.turns(e, random.Random(0))]


def test_gate_tokens_weigh_what_is_set(policy_dir, tmp_path, learner_and_params):
    """The loss is sum(w nll) / sum(w), by hand from the logprobs of single tokens."""
    learner, params = learner_and_params
    steps = first_pool(settings_of(policy_dir, gate_weight=7.0), tmp_path)
    total, weight, gates = 0.0, 0.0, 0
    for rows in batches_of(steps):
        logprobs = np.asarray(learner.logprobs(params, rows).logprobs, np.float64)
        w = np.where(rows.completion_mask > 0, 1.0, 0.0)
        w[rows.completion_mask == 7] = 7.0
        np.testing.assert_array_equal(w, rows.completion_mask)
        total, weight = total - float((w * logprobs).sum()), weight + float(w.sum())
        gates += int((w == 7).sum())
    assert gradient_of(learner, params, steps)[1] == pytest.approx(
        total / weight, rel=1e-5
    )
    told = steps[0].described
    gated = sum(int(part.split(": ")[1].strip(")")) for part in told.split("; ")[1:])
    assert gates == 2 * gated


def test_weights_lie_on_the_words_of_the_gates(policy_dir, tmp_path):
    turns = turns_of(policy_dir, tmp_path)
    weighted = as_conversations(turns, (3, 1), 4.0)
    assert [item.index for item in weighted] == [(3, 1, k) for k in range(len(turns))]
    for turn, item in zip(turns, weighted, strict=True):
        if turn.kind == "answer":
            assert item.weights is None
            continue
        places = [k for k, w in enumerate(item.weights) if w != 1]
        assert places == [gate.place for gate in turn.gates]
        assert [item.weights[k] for k in places] == [4.0, 4.0]
    assert all(item.weights is None for item in as_conversations(turns, (0, 0)))


def test_the_turns_of_a_pool_are_counted(policy_dir, tmp_path):
    turns = turns_of(policy_dir, tmp_path, kinds=("gated", "memagent", "answer"))
    told = describe_turns(turns)
    count = dict.fromkeys(("answer", "gated", "memagent"), 0)
    for part in told[told.index("(") + 1 : -1].split("; "):
        name, number = part.rsplit(": ", 1)
        count[name.split(",")[0]] += int(number)
    assert count == {name: sum(t.kind == name for t in turns) for name in count}
    ends = sum(t.kind == "gated" and t.evidence for t in turns)
    assert f"gated, with evidence, end: {ends}" in told
    assert "gated, without evidence, continue: " in told


def test_gates_against_whole_distributions(policy_dir, tmp_path, learner_and_params):
    """AUC over all pairs, from the logits of each sequence by itself."""
    learner, params = learner_and_params
    policy, _ = load_policy(policy_dir)
    turns = turns_of(policy_dir, tmp_path, FOUR[2:6], kinds=("gated",))
    found = gate_columns(learner, params, turns)

    def log_softmax(sequences):
        tokens = np.zeros((len(sequences), 256), np.int32)
        for row, ids in zip(tokens, sequences, strict=True):
            row[: len(ids)] = ids
        places = np.broadcast_to(np.arange(256, dtype=np.int32), tokens.shape)
        logits = np.asarray(policy.apply(params, tokens, places), np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    scores = {"update": [], "exit": [], "unaided_update": []}
    of_replies = log_softmax([turn.prompt + turn.completion for turn in turns])
    of_closed = log_softmax([turn.prompt + turn.closed for turn in turns])
    for turn, reply, closed in zip(turns, of_replies, of_closed, strict=True):
        begins = len(turn.prompt) - 1  # its state predicts the first token
        for name, gate in zip(scores, turn.gates):
            opening, closing = reply[begins + gate.place, [gate.opens, gate.closes]]
            scores[name].append((opening - closing, gate.open))
        logp = sum(closed[begins + k, i] for k, i in enumerate(turn.closed))
        scores["unaided_update"].append((-logp - np.log(2), turn.evidence))
    assert set(found) == {
        f"gates/{name}_{measure}"
        for name in scores
        for measure in ("auc", "balanced_accuracy")
    }
    for name, values in scores.items():
        opens = np.array([score for score, is_open in values if is_open])
        closed = np.array([score for score, is_open in values if not is_open])
        above = opens[:, None] - closed
        assert np.abs(above).min() > 1e-5  # float32 orders them alike
        assert found[f"gates/{name}_auc"] == pytest.approx(np.mean(above > 0))
        shares = np.mean(opens >= 0), np.mean(closed < 0)
        accuracy = found[f"gates/{name}_balanced_accuracy"]
        assert accuracy == pytest.approx(np.mean(shares))


def test_gates_of_one_kind_are_absent(policy_dir, tmp_path, learner_and_params):
    learner, params = learner_and_params
    turns = turns_of(policy_dir, tmp_path)
    on = [turn for turn in turns if turn.evidence]
    assert set(gate_columns(learner, params, on).values()) == {None}
    answers = [turn for turn in turns if turn.kind == "answer"]
    assert gate_columns(learner, params, answers) == {}


@pytest.mark.parametrize("weight", [0, -1, float("nan"), "2"])
def test_bad_gate_weights_are_refused(policy_dir, weight):
    with pytest.raises(InputError, match="gate_weight must be a number from 1e-06"):
        settings_of(policy_dir, gate_weight=weight)
