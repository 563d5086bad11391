"""Which chunks are taught, and where their turns decide the gates."""

import dataclasses
import math
import random

import pytest
from turn_replay import ADA, agent, example

from gru_mem_jax.agent.parse import parse_memory_turn
from gru_mem_jax.agent.prompts import STYLES
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.turn_choice import likeness
from gru_mem_jax.data.turn_wording import (
    Reading,
    compact_wording,
    no_thought_wording,
    quoting_wording,
)
from gru_mem_jax.grammar.automaton import EXIT, UPDATE
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

ENCODER = ByteEncoder()
ALL = EvidenceTurns(off_evidence=1000, memagent_off_evidence=1000)


def said(config, item, rng=0, **fields):
    oracle = EvidenceTurns(**fields).oracle(ENCODER, config)
    turns = oracle.turns(item, random.Random(rng))
    return [(turn, ENCODER.decode(turn.completion[:-1])) for turn in turns]


def gates_of(turns):
    """(update, exit) of gated turns, as their replies say."""
    outputs = [parse_memory_turn(t) for turn, t in turns if turn.kind == "gated"]
    return [(output.update, output.exit) for output in outputs]


def test_the_share_of_turns_after_the_evidence():
    document = f"{'It rains. ' * 20}{ADA}{' It rains.' * 20}"
    item = example(document, "Paris")
    gates = gates_of(said(agent(), item, off_evidence=4, after_evidence=0.25))
    assert gates == [*[(False, False)] * 3, (True, True), (False, True)]
    fields = {"memagent_off_evidence": 4, "after_evidence": 0.5}
    turns = said(agent(), item, kinds=("gated", "memagent"), **fields)
    held = [turn.evidence for turn, _ in turns if turn.kind == "memagent"]
    assert held == [False, False, True, False, False]
    # A part of a turn is drawn: every fourth of these, in the mean.
    gates = [
        gates_of(said(agent(), item, rng, after_evidence=0.25)) for rng in range(300)
    ]
    after = sum(each.count((False, True)) for each in gates)
    before = sum(each.count((False, False)) for each in gates)
    assert after == pytest.approx(75, abs=4 * (300 * 0.25 * 0.75) ** 0.5)
    assert before == pytest.approx(225, abs=4 * (300 * 0.25 * 0.75) ** 0.5)
    # There is no chunk before the evidence: there are fewer turns.
    first = example(f"{ADA}{' It rains.' * 20}", "Paris")
    gates = gates_of(said(agent(), first, off_evidence=4, after_evidence=0.25))
    assert gates == [(True, True), (False, True)]


def test_hard_negatives_are_like_the_evidence():
    needle = "The code of {} is 7."
    chunks = ["It rains, and it rains again all day."] * 8
    chunks[2], chunks[5] = needle.format("Bob"), needle.format("Ada")
    document = "".join(chunk.ljust(40) for chunk in chunks)
    item = dataclasses.replace(
        example(document, chunks[5]), question="Which code?", answers=("7",)
    )
    for share, rngs, found in ((1.0, 5, 5), (0.0, 60, None)):
        fields = {"off_evidence": 1.0, "hard_negatives": share, "kinds": ("gated",)}
        with_bob = 0
        for rng in range(rngs):
            (first, _), *_ = said(agent(), item, rng, **fields)
            with_bob += "Bob" in ENCODER.decode(first.prompt)
        assert with_bob == found if found else 0 < with_bob < 30


@pytest.mark.parametrize("opens", ["", "<think>", "<think>\n\n</think>\n\n"])
@pytest.mark.parametrize("format_tags", [True, False])
def test_a_turn_says_where_its_gates_are_decided(opens, format_tags):
    class Thinking(ByteEncoder):
        def render_chat(self, messages, variables=None):
            return super().render_chat(messages) + opens

    encoder = Thinking(format_tags=format_tags)
    item = example(f"{ADA} {'It rains. ' * 4}She died there.", "Paris", "died")
    for style in STYLES:
        oracle = ALL.oracle(encoder, agent(style=style, chunk_size=30))
        turns = oracle.turns(item, random.Random(0))
        assert (turns[-1].kind, turns[-1].gates) == ("answer", ())
        for turn in turns[:-1]:
            text = opens + encoder.decode(turn.completion[:-1])
            said_ = parse_memory_turn(text)
            update, exit_ = turn.gates
            assert (update.open, exit_.open) == (said_.update, said_.exit)
            assert (update.gate, exit_.gate) == (UPDATE, EXIT)
            assert (update.opens, update.closes) == tuple(map(ord, "yn"))
            assert (exit_.opens, exit_.closes) == tuple(map(ord, "ec"))
            for gate in turn.gates:
                own = gate.opens if gate.open else gate.closes
                assert turn.completion[gate.place] == own
            # What would be said off evidence, up to the n of its no.
            assert encoder.decode(turn.closed).endswith("<check>n")
            if not said_.update:
                assert turn.closed == turn.completion[: update.place + 1]
            elif opens != "<think>\n\n</think>\n\n" and style == "compact":
                assert opens + encoder.decode(turn.closed) == (
                    f"{opens or '<think>'}</think><check>n"
                )


def test_ready_made_wordings():
    item = example(f"{ADA} {'It rains. ' * 4}She died there.", "Paris", "died")
    for wording, thoughts in (
        (compact_wording, [ADA, "", "She died there."]),
        (no_thought_wording, ["", "", ""]),
    ):
        for style in STYLES:
            config = agent(chunk_size=30, style=style)
            texts = [t for _, t in said(config, item, off_evidence=9, wording=wording)]
            outputs = [parse_memory_turn(text) for text in texts[:-1]]
            assert [output.think for output in outputs] == thoughts
            assert outputs[-1].memory == f"{ADA} She died there."


def test_a_thought_that_always_quotes():
    item = example(f"{ADA} {'It rains. ' * 4}She died there.", "Paris", "died")
    config = agent(chunk_size=30, style="compact")
    said_so = said(config, item, off_evidence=9, wording=quoting_wording)
    outputs = [parse_memory_turn(text) for _, text in said_so[:-1]]
    # The second chunk begins within a sentence.
    assert [o.think for o in outputs] == [ADA, "s.", "She died there."]
    assert [o.update for o in outputs] == [True, False, True]
    assert outputs[-1].memory == f"{ADA} She died there."


def test_what_a_thought_quotes_off_evidence():
    def thought(section, question="Where does the heron nest?"):
        reading = Reading(
            question=question,
            section=section,
            memory="",
            sentences=(),
            continues=False,
            is_last=False,
        )
        return quoting_wording(reading).thought

    told = "It rains a lot.  The heron\nsleeps. A heron eats. The nest is empty."
    # "the" stands in most sentences, "nest" in one: it tells the most.
    assert thought(told) == "The nest is empty."
    assert thought("It rains. It snows.") == "It rains."
    assert thought("") == ""
    assert thought("heron " * 100) == ("heron " * 50).strip()
    assert thought("x" * 400) == "x" * 300


def test_likeness_by_hand():
    """Of four chunks: "rains" is in all and counts 0, "code" in two, "ada" in one."""
    chunks = ["Rains. Code Bob", "rains", "It rains: CODE ADA code", "rains"]
    found = likeness(chunks, ["Which code?", "ada rains"])
    wanted = [math.log(5 / 3), 0, math.log(5 / 3) + math.log(5 / 2), 0]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert likeness([], ["x"]) == []
