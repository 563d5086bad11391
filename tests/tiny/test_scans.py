"""Oracle turns in any order of reading: scans and second passes close the loop."""

import bisect
import collections
import dataclasses
import random

import pytest

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.data.turns import completion_ids
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in
from gru_mem_jax.tiny import oracle
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tiny.synthetic import TASKS, SyntheticConfig, generate
from gru_mem_jax.tiny.turns import TurnConfig
from gru_mem_jax.tokenization import TextTokenizer

AGENT = AgentConfig(
    chunk_size=64, prompt=PromptConfig(style="compact", order="chunk_first")
)
GATED = TurnConfig(kinds=("gated",), off_evidence=100, scans=1.0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer.save(path)
    return TextTokenizer.from_pretrained(path)


def facts_of(asked, memory):
    """The facts that a memory lists, by its slots of five words."""
    words = memory.split()
    slots = [words[i : i + 5] for i in range(0, len(words), 5)]
    at = 1 if asked.kind == "values" else 0
    found = [(slot[at], " ".join(slot[2:])) for slot in slots]
    return [fact for fact in found if fact[1] != oracle.MISSING]


def says(question, memory, chunk):
    """What the oracle says to a prompt; None: the answer turn."""
    asked = oracle.parse_question(question)
    memory = memory.strip()
    found = facts_of(asked, "" if memory == "none" else memory)
    if chunk is None:
        return oracle.answer_turn(asked, found)
    new = oracle.new_facts(asked, found, oracle.facts_in(chunk))
    return oracle.gated_turn(asked, found, new)


def run(encoder, example, capacity=4, **settings):
    """A reading with the oracle as the policy; its trajectory and its requests."""
    agent = dataclasses.replace(AGENT, **settings)
    builder = PromptBuilder(encoder, agent.prompt)

    def script(request):
        said = said_in(request, encoder)
        reply = says(said["question"], said["memory"], said.get("chunk"))
        return completion_ids(builder, reply)

    generator = ScriptedGenerator(
        script, encoder, capacity=capacity, shuffle_seed=capacity
    )
    loop = Recurrence(builder, agent, example.question, example.document)
    for _ in driver.run(generator, [loop]):
        pass
    return loop.trajectory, generator.requests


def test_memories_are_read_back():
    for question, found in (
        ("Which code belongs to oak?", [("oak", "a b c")]),
        ("Which codes belong to oak fir yew?", [("fir", "a b c")]),
        ("Which first second third codes belong to oak?", [("oak", "a b c")]),
        ("Which linked code belongs to oak?", [("oak", "that of fir")]),
        ("Which linked code belongs to oak?", []),
    ):
        asked = oracle.parse_question(question)
        assert facts_of(asked, oracle.memory_text(asked, found)) == found


@pytest.mark.parametrize(
    ("question", "found", "chunk", "new"),
    [
        # The needle of a chain is wanted once its link is known.
        ("linked code belongs to oak", [], ["fir"], []),
        ("linked code belongs to oak", [], ["link"], ["link"]),
        ("linked code belongs to oak", [], ["fir", "link"], ["fir", "link"]),
        ("linked code belongs to oak", ["link"], ["fir"], ["fir"]),
        ("linked code belongs to oak", ["link"], ["link"], []),
        ("linked code belongs to oak", ["link"], ["oak2"], []),
        # Values of a key, as many as asked for, each once.
        ("first second codes belong to oak", [], ["oak", "fir"], ["oak"]),
        ("first second codes belong to oak", ["oak"], ["oak"], []),
        ("first second codes belong to oak", ["oak2"], ["oak"], ["oak"]),
        ("first second codes belong to oak", ["oak"], ["oak2", "oak3"], ["oak2"]),
        ("first second codes belong to oak", ["oak", "oak2"], ["oak3"], []),
        # Keys in any order.
        ("codes belong to oak fir", ["fir"], ["fir", "oak"], ["oak"]),
        ("code belongs to oak", ["oak"], ["oak"], []),
    ],
)
def test_what_a_chunk_adds_to_a_memory(question, found, chunk, new):
    facts = {
        "oak": ("oak", "gold wool zinc"),
        "oak2": ("oak", "ruby teal lens"),
        "oak3": ("oak", "vase jade onyx"),
        "fir": ("fir", "silk coin bell"),
        "link": ("oak", "that of fir"),
    }
    asked = oracle.parse_question(f"Which {question}?")
    added = oracle.new_facts(
        asked, [facts[name] for name in found], [facts[name] for name in chunk]
    )
    assert added == tuple(facts[name] for name in new)


def examples(task, count, num_chunks=12, **settings):
    config = SyntheticConfig(
        tasks=(task,), num_chunks=num_chunks, split="test", varied=0.5, **settings
    )
    return [generate(config, index) for index in range(count)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "settings", [{"mode": "parallel"}, {"mode": "parallel", "scan_chunks": 5}]
)
def test_in_parallel_the_oracle_answers_every_task(encoder, task, settings):
    for number, example in enumerate(examples(task, 3)):
        trajectory, _ = run(encoder, example, capacity=1 + 3 * number, **settings)
        assert trajectory.answer == example.answers[0]
        assert trajectory.well_formed
        merged = [t for t in trajectory.memory_turns if t.step == "merge"]
        if task == "single_key":
            assert not merged
        if task in ("multi_value", "multi_query") and "scan_chunks" not in settings:
            assert len(merged) == len(example.evidence) - 1


@pytest.mark.parametrize("task", TASKS)
def test_reading_again_the_oracle_answers_every_task(encoder, task):
    for example in examples(task, 2):
        trajectory, _ = run(encoder, example, mode="reread")
        assert trajectory.answer == example.answers[0]
        # The second pass knows all, and changes nothing.
        assert len(trajectory.memory_turns) == 24
        assert not any(t.update for t in trajectory.memory_turns[12:])


@pytest.mark.parametrize("gap", [0, 1, 8])
def test_passes_bridge_a_gap_that_one_reading_does_not(encoder, gap):
    answered = collections.Counter()
    for example in examples("chain", 3, gap=gap):
        for mode in ("without_exit_gate", "reread", "parallel"):
            trajectory, _ = run(encoder, example, mode=mode)
            answered[mode] += trajectory.answer == example.answers[0]
    assert answered["reread"] == answered["parallel"] == 3
    assert answered["without_exit_gate"] == (0 if gap else 3)


@pytest.mark.parametrize(
    ("task", "settings"),
    [*((task, {}) for task in TASKS), ("chain", {"gap": 3}), ("chain", {"gap": -3})],
)
def test_what_is_taught_of_scans_is_what_the_oracle_says(encoder, task, settings):
    """To each prompt; and all prompts of both ways of reading are taught."""
    builder = PromptBuilder(encoder, AGENT.prompt)
    config = dataclasses.replace(GATED, blank_memory=0.0)
    turns, rng = config.oracle(encoder, AGENT), random.Random(0)
    (example,) = examples(task, 1, num_chunks=6, max_items=2, **settings)
    turns.check(example)
    taught = {}
    for _ in range(60):
        for row in turns.turns(example, rng):
            assert taught.setdefault(row.prompt, row.completion) == row.completion
            opened = "<check>yes" in encoder.decode(row.completion)
            assert row.evidence == opened
            assert row.closed
    for mode in ("parallel", "reread"):
        _, requests = run(encoder, example, mode=mode)
        for request in requests[:-1]:
            said = said_in(request, encoder)
            reply = says(said["question"], said["memory"], said["chunk"])
            ids = taught[prompt_ids(request.prompt)]
            assert ids == completion_ids(builder, reply)


def test_a_share_of_the_gated_turns_is_taught_as_scans(encoder):
    """The others, answers and MemAgent's turns are those of one reading."""
    plain = TurnConfig(off_evidence=100, memagent_off_evidence=100, blank_memory=0.0)
    mixed = dataclasses.replace(plain, scans=0.4).oracle(encoder, AGENT)
    scanned = total = 0
    for example in examples("multi_value", 60, num_chunks=6):
        usual = plain.oracle(encoder, AGENT).turns(example, random.Random(0))
        rows = mixed.turns(example, random.Random(example.id))
        assert [row.kind for row in rows] == [row.kind for row in usual]
        for row, other in zip(rows, usual):
            if row.kind != "gated":
                assert row == other
            else:
                total += 1
                scanned += row.prompt != other.prompt
    # Of the 40% some see what one reading leaves, by chance.
    assert 0.2 < scanned / total < 0.4


def test_half_of_the_scans_see_an_empty_memory(encoder):
    turns, rng = GATED.oracle(encoder, AGENT), random.Random(0)
    seen, opened = collections.Counter(), 0
    for example in examples("multi_query", 40, max_items=4):
        asked = oracle.parse_question(example.question)
        for row in turns.turns(example, rng):
            text = encoder.decode(row.prompt).split("<memory>")[1]
            memory = text.split("</memory>")[0].strip()
            seen[len(facts_of(asked, memory if memory != "none" else ""))] += 1
            opened += row.evidence
    total = sum(seen.values())
    assert 0.4 < seen[0] / total < 0.6
    assert set(seen) == {0, 1, 2, 3, 4}
    assert opened > 40


@pytest.mark.parametrize("kinds", [("gated", "memagent", "answer"), ("gated",)])
def test_a_second_hop_before_the_first_is_taught_by_scans(encoder, kinds):
    """MemAgent reads once: of such a chain it has nothing to learn."""
    config = TurnConfig(kinds=kinds, scans=0.01)
    turns = config.oracle(encoder, AGENT)
    (example,) = examples("chain", 1, gap=4)
    turns.check(example)
    rows = turns.turns(example, random.Random(0))
    assert {row.kind for row in rows} == {*kinds} - {"memagent"}
    alone = TurnConfig(kinds=("memagent", "answer"), scans=1.0).oracle(encoder, AGENT)
    for refused in (alone, TurnConfig().oracle(encoder, AGENT)):
        with pytest.raises(InputError, match=r"TurnConfig\.scans"):
            refused.check(example)
        with pytest.raises(InputError, match="second hop is read before the first"):
            refused.turns(example, random.Random(0))


@pytest.mark.parametrize("name", ["reversed_chains", "joined_chains"])
def test_facts_of_a_share_of_the_chains_lie_elsewhere(encoder, name):
    """Their words are those of the others; nothing else changes."""
    plain = SyntheticConfig(tasks=("chain", "multi_key"), num_chunks=6)
    mixed = dataclasses.replace(plain, **{name: 0.4})

    def is_moved(example):
        if name == "reversed_chains":
            return example.evidence_order == (1, 0)
        ends = [chunk.end for chunk in iter_chunks(example.document, encoder, 64)]
        read = {bisect.bisect_left(ends, end) for _, end in example.evidence}
        return example.task == "chain" and len(read) == 1

    moved = 0
    for index in range(80):
        example, other = generate(plain, index), generate(mixed, index)
        assert (example.question, example.answers) == (other.question, other.answers)
        assert not is_moved(example)
        moved += is_moved(other)
        if not is_moved(other):
            assert example == other
    assert 8 < moved < 24
    with pytest.raises(InputError, match=f"{name} must be 0"):
        SyntheticConfig(tasks=("chain",), gap=2, **{name: 0.5})
    with pytest.raises(InputError, match=f"{name} must be a number"):
        SyntheticConfig(**{name: 2.0})


def test_both_facts_of_a_chain_in_one_chunk_are_taught_in_one_turn(encoder):
    config = SyntheticConfig(tasks=("chain",), num_chunks=4, joined_chains=1.0)
    oracle = TurnConfig(kinds=("gated",), off_evidence=0.0).oracle(encoder, AGENT)
    for index in range(8):
        example = generate(config, index)
        (turn,) = oracle.turns(example, random.Random(0))
        assert turn.evidence
        reply = encoder.decode(turn.completion)
        assert example.answers[0] in reply
        assert "<next>end</next>" in reply
    with pytest.raises(InputError, match="chunk_tokens must be at least 48"):
        SyntheticConfig(tasks=("chain",), chunk_tokens=40, joined_chains=0.1)
    SyntheticConfig(tasks=("multi_key",), chunk_tokens=40, joined_chains=0.1)
