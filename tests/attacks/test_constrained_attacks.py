"""Constrained turns, spelled by an adversary: whatever is drawn, they have a form."""

import dataclasses
import functools
import random

import hostile_tokenizers
import numpy as np
import pytest

from gru_mem_jax.agent.completion import read_completion
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.parse import TAGS, extract_boxed, found_tags, parse_memory_turn
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.agent.turn_form import turn_constraint, turn_forms
from gru_mem_jax.errors import RunError
from gru_mem_jax.grammar.automaton import EXIT, FORCED, UPDATE, walk
from gru_mem_jax.testing.random_turns import draw_constrained

WALKS = 150  # of each tokenizer, style and kind of turn
# What the adversary tries to write, each by any of the tokens that spell it.
WRITTEN = (
    *TAGS,
    *(tag[:-1] for tag in TAGS),
    *(f"{tag}{mark}" for tag in TAGS for mark in "\n<. "),
    "</think><check>yes</check>",
    "</think>\n<check>no",
    "</update>\n<next>end</next>",
    "<<</</think",
    r"\boxed{ \fbox{}",
    *("{", "}", "{{{", "}}}", "}.", "} {", "{}", "é", "\ufffd", " \n"),
)


@functools.lru_cache(1)  # of the fixture's present encoder
def ids_by_text(encoder):
    ids = {}
    for i in range(encoder.vocab_size):
        ids.setdefault(encoder.decode([i]), []).append(i)
    return ids


class Adversary:
    """Draws the tokens of texts that would break a turn, where they may come."""

    def __init__(self, encoder, seed):
        self._rng = random.Random(seed)
        self.ids = ids_by_text(encoder)
        self._left = ""

    def choose(self, allowed):
        """One of the ids that may come, bool [V]."""
        rng = self._rng
        if not self._left or rng.random() < 0.05:
            self._left = rng.choice(WRITTEN)
        pieces = [self._left[: n + 1] for n in range(len(self._left))]
        known = [(i, t) for t in pieces for i in self.ids.get(t, ()) if allowed[i]]
        if known and rng.random() < 0.9:
            token, text = rng.choice(known)
            self._left = self._left[len(text) :]
            return token
        self._left = ""
        broken = [i for i in self.ids.get("\ufffd", ()) if allowed[i]]
        if broken and rng.random() < 0.5:
            return rng.choice(broken)
        return int(rng.choice(np.flatnonzero(allowed)))


def config_for(style, **settings):
    small = {"completion_tokens": 160, "memory_tokens": 12, "thought_tokens": 9}
    return AgentConfig(
        prompt=PromptConfig(style=style), format="constrained", **small | settings
    )


def text_of(ids, encoder):
    completion = Completion(
        ids=ids, logprobs=(), sampling_logprobs=(), finish_reason="stop"
    )
    text, problem = read_completion(completion, encoder)
    assert problem is None
    return text


@pytest.mark.parametrize("style", ["compact", "full"])
def test_gated_turns_are_well_formed(encoder, style):
    builder = PromptBuilder(encoder, PromptConfig(style=style))
    adversary, rng = Adversary(encoder, seed=1), random.Random(2)
    ways = set()
    for number in range(WALKS):
        thought, memory = rng.randint(1, 12), rng.randint(1, 12)
        config = config_for(style, thought_tokens=thought, memory_tokens=memory)
        constraint = turn_constraint(builder, config, "gated")
        if number % 2:
            budgets = (rng.randint(1, 4), rng.randint(1, 4))
            constraint = dataclasses.replace(constraint, budgets=budgets)
        ids = tuple(i for i, _ in draw_constrained(constraint, adversary.choose))
        assert len(ids) <= config.completion_tokens
        assert ids[-1] == encoder.stop_ids[0]
        turn = parse_memory_turn(text := text_of(ids, encoder))
        assert turn.well_formed, (turn.problem, text, ids)
        steps = walk(constraint, ids)
        gates = {step.gate: step.opens for step in steps if step.gate >= 0}
        assert gates == {UPDATE: turn.update, EXIT: turn.exit}
        if not turn.update:
            assert "<update></update>" in text
        ways.add((turn.update, turn.exit))
    assert len(ways) == 4


@pytest.mark.parametrize("style", ["compact", "full"])
def test_sentencepiece(style):
    encoder = hostile_tokenizers.sentencepiece_like_encoder()
    assert encoder.decode(encoder.encode(" a <")) == "a <"
    assert encoder.decode(encoder.encode("\n")) == "\n"
    test_gated_turns_are_well_formed(encoder, style)
    test_supports_against_the_texts(encoder, style)


def test_answers_have_a_box(encoder):
    builder = PromptBuilder(encoder, PromptConfig(style="compact"))
    adversary, rng = Adversary(encoder, seed=3), random.Random(4)
    constraint = turn_constraint(builder, config_for("compact"), "answer")
    most = turn_forms(builder).tokens["answer"]
    for _ in range(WALKS):
        budget = rng.randint(1, 30)
        limited = dataclasses.replace(constraint, budgets=(budget, 1))
        ids = tuple(i for i, _ in draw_constrained(limited, adversary.choose))
        text = text_of(ids, encoder)
        assert extract_boxed(text) is not None
        assert text.startswith(r"\boxed{")
        assert text.endswith("}")
        assert text.count("{") == text.count("}")
        assert len(ids) <= budget + most
        walk(limited, ids)


def test_a_walk_takes_nothing_else(encoder):
    builder = PromptBuilder(encoder, PromptConfig(style="full"))
    constraint = turn_constraint(builder, config_for("full"), "gated")
    adversary, rng = Adversary(encoder, seed=5), random.Random(6)
    for _ in range(20):
        ids = [i for i, _ in draw_constrained(constraint, adversary.choose)]
        steps = walk(constraint, ids)
        place = rng.randrange(len(ids))
        other = rng.randrange(encoder.vocab_size)
        support = steps[place].support
        allowed = support != FORCED and constraint.grammar.supports[support, other]
        if other != ids[place] and not allowed:
            with pytest.raises(RunError, match=f"token {place}, id {other}, "):
                walk(constraint, [*ids[:place], other])
        with pytest.raises(RunError, match="does not follow"):
            walk(constraint, [*ids, ids[-1]])
        with pytest.raises(RunError, match="does not follow"):
            walk(constraint, [*ids[:place], encoder.vocab_size + 7])


def _after(grammar, state):
    """int[V], the state after each id."""
    return grammar.next_state[state, grammar.classes]


@pytest.mark.parametrize("style", ["compact", "full"])
def test_supports_against_the_texts(encoder, style):
    """Which tokens may come in a thought, by the text that they make."""
    builder = PromptBuilder(encoder, PromptConfig(style=style))
    constraint = turn_constraint(builder, config_for(style, thought_tokens=30), "gated")
    grammar = constraint.grammar
    between = "" if style == "compact" else "\n"
    control = encoder.control_ids - encoder.format_ids
    adversary, rng = Adversary(encoder, seed=7), random.Random(8)
    telling = [
        i
        for text, ids in adversary.ids.items()
        if any(c in text for c in "<>/") or text in "think check update next"
        for i in ids
    ]
    checked = 0
    for _ in range(30):
        state, ids = constraint.start, []
        for _ in range(rng.randint(1, 12)):
            if (token := int(grammar.forced[state])) < 0:
                allowed = grammar.supports[grammar.support[state]]
                if grammar.segment[state] < 0:  # the thought is passed by, or begins
                    assert grammar.gate[state] < 0
                    allowed = allowed & (grammar.segment[_after(grammar, state)] >= 0)
                token = adversary.choose(allowed)
            after = int(grammar.next_state[state, grammar.classes[token]])
            if grammar.segment[state] >= 0 and grammar.segment[after] < 0:
                break
            ids, state = [*ids, token], after
        if grammar.segment[state] < 0:
            continue
        for token in rng.sample(telling, min(len(telling), 60)):
            text = encoder.decode([*ids, token])
            before, closed, rest = text.partition("</think>")
            wanted = found_tags(before) == ("<think>",)
            if closed:
                wanted &= f"{between}<check>".startswith(rest)
            wanted &= token not in control and token not in encoder.stop_ids
            allowed = grammar.supports[grammar.support[state], token]
            if allowed != wanted:
                # A byte that broken bytes beside it would take along is never drawn.
                assert not allowed, (text, token)
                assert encoder.encode(text[-1:]) != [token], (text, token)
            checked += 1
    assert checked > 100
