"""Turns against memories that one reading does not leave, and that they close the loop.

A policy that says them, in modes parallel and reread, finds what it should.
"""

import collections
import random

import pytest
from turn_replay import ADA, CASES, agent, example

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.parse import parse_memory_turn
from gru_mem_jax.agent.prompts import ORDERS, STYLES, PromptBuilder
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator

ENCODER = ByteEncoder()
FIRST, SECOND = "Ada lives in the tower.", "The tower is in Paris."
# Chunks of 24: rain, the second hop, rain, the first hop, rain.
RAIN = "It rains.".ljust(24)
HOPS = example(
    f"{RAIN}{SECOND.ljust(24)}{RAIN}{FIRST.ljust(24)}{RAIN}",
    *(SECOND, FIRST),
    question="In which city does Ada live?",
    evidence_order=(1, 0),
)


def taught_by(item, config, draws=80, **fields):
    """What many draws teach, by prompt; no prompt has two replies."""
    taught = {}
    for scans in (1.0, 0.5, 0.0) if "scans" not in fields else (fields.pop("scans"),):
        made = EvidenceTurns(off_evidence=1000, scans=scans, **fields)
        if item.evidence_order and not scans:
            continue  # one reading cannot know that the second hop matters
        oracle = made.oracle(ENCODER, config)
        for seed in range(draws):
            for turn in oracle.turns(item, random.Random(seed)):
                assert taught.setdefault(turn.prompt, turn).completion == (
                    turn.completion
                )
    return taught


def replayed(item, config, taught, capacity=3):
    generator = ScriptedGenerator(
        lambda request: taught[prompt_ids(request.prompt)].completion,
        ENCODER,
        capacity=capacity,
        shuffle_seed=1,
    )
    builder = PromptBuilder(ENCODER, config.prompt)
    run = Recurrence(builder, config, item.question, item.document)
    for _ in driver.run(generator, [run]):
        pass
    return run.trajectory


@pytest.mark.parametrize("name", ["first_and_last", "two_in_a_chunk", "a_cut_tag"])
@pytest.mark.parametrize("mode", ["parallel", "reread"])
def test_the_loop_closes(name, mode):
    item, size, lines = CASES[name]
    order, style = ORDERS[mode == "reread"], STYLES[name > "g"]
    config = agent(mode=mode, order=order, style=style, chunk_size=size)
    run = replayed(item, config, taught_by(item, config, draws=40))
    assert run.well_formed
    assert score(run.answer, item.answers, item.scoring) == 1
    assert run.turns[-1].memory == ("\n" if style == "full" else " ").join(lines)
    assert max(turn.pass_number for turn in run.turns) <= 2


@pytest.mark.parametrize("until_exit", [False, True])
def test_hops_are_found_in_their_order(until_exit):
    config = agent(mode="parallel", chunk_size=24, merge_until_exit=until_exit)
    taught = taught_by(HOPS, config)
    run = replayed(HOPS, config, taught)
    opened = [(t.pass_number, t.chunk) for t in run.memory_turns if t.update]
    assert opened == [(1, 3), (2, 1)]
    assert run.turns[-1].memory == f"{FIRST}\n{SECOND}"
    assert run.answer == "Paris"
    assert run.stop_reason == ("exit_gate" if until_exit else "end_of_context")
    assert max(turn.pass_number for turn in run.turns) == (2 if until_exit else 3)
    # With the order unknown both matter at once, and are merged as they stand.
    unknown = example(HOPS.document, SECOND, FIRST, question=HOPS.question)
    run = replayed(unknown, config, taught_by(unknown, config))
    opened = [(t.step, t.chunk) for t in run.memory_turns if t.update]
    assert opened == [("scan", 1), ("scan", 3), ("merge", 3)]
    assert run.turns[-1].memory == f"{SECOND}\n{FIRST}"


def test_gates_of_every_memory_by_hand():
    """(chunk, memory) to (update, exit), of all that is ever taught."""
    config = agent(chunk_size=24, mode="parallel")
    builder = PromptBuilder(ENCODER, config.prompt)
    taught = taught_by(HOPS, config, kinds=("gated",), scans=1.0)
    first, both = FIRST, f"{FIRST}\n{SECOND}"
    chunks = [HOPS.document[i : i + 24] for i in range(0, 120, 24)]
    no, end = (False, False), (False, True)
    gates = {
        "": [no, no, no, (True, False), no],
        first: [no, (True, True), no, no, no],
        both: [end] * 5,
    }
    question = builder.encode_content(HOPS.question)
    expected = {
        prompt_ids(
            builder.gated(
                question, builder.encode_content(memory), ENCODER.encode(chunk)
            )
        ): gate
        for memory, row in gates.items()
        for chunk, gate in zip(chunks, row)
    }
    said = {
        prompt: parse_memory_turn(ENCODER.decode(turn.completion[:-1]))
        for prompt, turn in taught.items()
    }
    got = {prompt: (output.update, output.exit) for prompt, output in said.items()}
    assert got == expected
    assert {turn.evidence for turn in taught.values()} == {False, True}
    for prompt, turn in taught.items():
        assert turn.evidence == expected[prompt][0]
        assert bool(turn.closed)


def test_the_share_of_scans():
    """Half of the memories are empty; without scans nothing is drawn or changed."""
    item = example(f"{'It rains. ' * 12}{ADA}", "Paris")
    config = agent(chunk_size=40, style="compact")

    def turns(rng=0, **fields):
        made = EvidenceTurns(kinds=("gated",), off_evidence=1000, **fields)
        return made.oracle(ENCODER, config).turns(item, random.Random(rng))

    assert turns(scans=0.0) == turns()
    reading = {turn.prompt for turn in turns()}
    seen = collections.Counter(
        turn.prompt in reading for seed in range(100) for turn in turns(seed, scans=0.5)
    )
    # Half of half see the evidence in their memory: no reading does before its end.
    assert 0.7 < seen[True] / sum(seen.values()) < 0.8
    assert turns(3, scans=0.5) == turns(3, scans=0.5) != turns(4, scans=0.5)


def test_memories_that_cannot_be_whole_are_not_taught():
    long = "Long " * 20 + "too."
    item = example(f"{ADA.ljust(120)}{long}", "Paris", "too.")
    config = agent(chunk_size=120, memory_tokens=60, mode="parallel")
    for turn in taught_by(item, config).values():
        assert len(turn.completion) <= config.completion_tokens
        if turn.kind == "gated":
            output = parse_memory_turn(ENCODER.decode(turn.completion[:-1]))
            assert output.memory in ("", ADA)


def test_settings_that_are_refused():
    for scans in (-0.1, 1.5, "x"):
        with pytest.raises(InputError, match="scans must be a number from 0 to 1"):
            EvidenceTurns(scans=scans)
