"""Passes over chunks whose keys are kept: what they compute, and what they say.

A random policy with realistic proportions: chunks of 420 tokens, 40 to 50 behind them
(question, memory and completion), a head that is an eighth of its layers. Its turns are
constrained, every gate is open, and memories are drawn at temperature 1, so that each
pass changes the memory and none is the last before `max_passes`.
"""

import dataclasses
import json

import pytest
from cli_helpers import random_policy

from gru_mem_jax.agent import (
    AgentConfig,
    GRUMemAgent,
    PromptBuilder,
    Recurrence,
    driver,
)
from gru_mem_jax.agent.config import replace_settings
from gru_mem_jax.cli.main import main
from gru_mem_jax.planning.models import model_shape
from gru_mem_jax.planning.work import turn_flops
from gru_mem_jax.sampling import prefix_store
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

SETTINGS = {
    "chunk_size": 420,
    "question_tokens": 16,
    "memory_tokens": 8,
    "completion_tokens": 28,
    "prompt_tokens": 470,
    "prompt": {"style": "compact", "order": "chunk_first"},
    "format": "constrained",
    "thought_tokens": 1,
    "update_threshold": 0.0,
    "mode": "reread",
    "sampling": {"temperature": 1.0},
}
SHAPE = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4}
QUESTION = "Which code belongs to heron?"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("kept"), SETTINGS, **SHAPE)


@pytest.fixture(scope="module")
def text():
    return generate(SyntheticConfig(num_chunks=4, chunk_tokens=415), 0).document


def flops(policy, turns):
    shape = model_shape(str(policy))
    return sum(
        turn_flops(shape, t.prompt_tokens, t.completion_tokens, t.shared_prompt_tokens)
        for t in turns
    )


def words(trajectory):
    return [(t.pass_number, t.step, t.chunk, t.text) for t in trajectory.turns]


class Agents:
    """Of one policy: one that keeps chunks, and one that keeps nothing."""

    def __init__(self, policy):
        self.by_name = {
            "kept": GRUMemAgent.from_pretrained(policy, slots=2),
            "none": GRUMemAgent.from_pretrained(policy, slots=2, cache_bytes=0),
        }

    def answer(self, name, text, **settings):
        """The trajectory, and the tokens that the engine says it has computed."""
        made = self.by_name[name]
        config = replace_settings(made.config, **settings)
        agent = GRUMemAgent(made.generator, made.encoder, config)
        engine = made.generator
        if name == "kept":
            made.recurrence(QUESTION, "")  # begins to keep
            engine._trunks.store.clear()
        engine.reset()
        before = engine.stats()
        trajectory = agent.answer(QUESTION, text)
        after = engine.stats()
        fed = sum(after[n] - before[n] for n in ("prefill_tokens", "new_tokens"))
        return trajectory, fed


@pytest.fixture(scope="module")
def agents(policy):
    return Agents(policy)


def test_three_passes_cost_at_most_1_3_times_one(agents, policy, text):
    cost, found = {}, {}
    for name in ("kept", "none"):
        for passes in (1, 2, 3) if name == "kept" else (1, 3):
            made, fed = agents.answer(name, text, max_passes=passes)
            found[name, passes] = words(made)
            cost[name, passes] = flops(policy, made.turns)
            assert len(made.turns) == 4 * passes + 1
            # What the formula counts is what the engine has fed: of a turn all that is
            # not shared, and its completion but for the last token.
            counted = sum(
                t.prompt_tokens - t.shared_prompt_tokens + t.completion_tokens - 1
                for t in made.turns
            )
            assert counted == fed
    for passes in (1, 3):
        assert found["kept", passes] == found["none", passes]
    tails = [t.prompt_tokens - 420 + t.completion_tokens for t in made.turns[:3]]
    assert all(30 <= tail <= 60 for tail in tails)
    times = {key: value / cost["none", 1] for key, value in cost.items()}
    assert times["kept", 3] <= 1.3
    assert times["kept", 2] <= 1.15
    assert times["kept", 1] < 1.01  # slots share some tokens of a template too
    assert times["none", 3] > 2.5


def test_parallel_passes_keep_too(agents, policy, text):
    """Its merges read a chunk again as well."""
    settings = {"mode": "parallel", "max_passes": 3}
    kept, _ = agents.answer("kept", text, **settings)
    none, _ = agents.answer("none", text, **settings)
    assert words(kept) == words(none)
    assert sum(t.step == "merge" for t in kept.turns) >= 2
    again = [t for t in kept.turns if t.step == "merge" or t.pass_number > 1]
    assert all(t.shared_prompt_tokens >= 400 for t in again[:-1] if t.chunk != 3)
    assert flops(policy, kept.turns) < 0.75 * flops(policy, none.turns)


@pytest.mark.parametrize("name", ["kept", "none"])
def test_a_scan_that_was_cut_and_resumed_says_the_same(agents, text, name):
    """Company and kept keys change last bits only, and here no word."""
    whole, _ = agents.answer(name, text, mode="parallel", max_passes=2)
    agent = agents.by_name[name]
    config = replace_settings(agent.config, mode="parallel", max_passes=2)
    builder = PromptBuilder(agent.encoder, config.prompt)
    for cut in (2, 6):
        part = dataclasses.replace(
            whole, answer=None, turns=whole.turns[:cut], stop_reason=None
        )
        part = dataclasses.replace(part, interrupted=True)
        agent.generator.reset()
        resumed = Recurrence(builder, config, QUESTION, text, resume=part)
        for _ in driver.run(agent.generator, [resumed]):
            pass
        assert words(resumed.trajectory) == words(whole)


def ask(policy, text, folder, *flags):
    (folder / "text").write_text(text)
    command = ["ask", f"--policy={policy}", f"--question={QUESTION}", *flags]
    command += [f"--context={folder / 'text'}", f"--json={folder / 'out'}"]
    assert main(command) == 0
    return json.loads((folder / "out").read_text())


def said(document):
    return [(t["pass_number"], t["chunk"], t["text"]) for t in document["turns"]]


@pytest.fixture
def memory(monkeypatch):
    """Sets how many bytes there are for kept chunks."""

    def set_to(size):
        monkeypatch.setattr(prefix_store, "default_memory_bytes", lambda: size)

    return set_to


def test_ask_keeps_chunks_and_does_without(policy, text, tmp_path, memory):
    """Too little memory changes nothing but how much is computed again."""
    whole = ask(policy, text, tmp_path)
    assert whole["settings"]["max_passes"] == 3
    shared = [t["shared_prompt_tokens"] for t in whole["turns"]]
    assert shared[:4] == [0] * 4
    assert all(n >= 400 for n in shared[4:7] + shared[8:11])
    shape = model_shape(str(policy))
    chunk = shared[4] * 2 * shape.num_hidden_layers * shape.num_key_value_heads
    chunk *= shape.head_dim * 4  # bytes of its keys and values in float32
    for size, found in ((0, 0), (2 * chunk, 2)):
        memory(size)
        less = ask(policy, text, tmp_path)
        assert said(less) == said(whole)
        # Of a text that is too long the first chunks stay.
        again = [t["shared_prompt_tokens"] > 0 for t in less["turns"][4:12]]
        assert again == [i < found for i in range(4)] * 2


def test_which_agents_keep_chunks():
    agent = AgentConfig(prompt=AgentConfig().prompt)
    first = replace_settings(agent, order="chunk_first")

    def keeps(config, **settings):
        return replace_settings(config, **settings).keeps_chunks

    for mode in ("with_exit_gate", "without_exit_gate", "memagent"):
        assert not keeps(first, mode=mode)
    for mode in ("reread", "parallel"):
        assert keeps(first, mode=mode)
        assert not keeps(agent, mode=mode)
        assert not keeps(first, mode=mode, chunk_size=64)
    assert not keeps(first, mode="reread", max_passes=1)
    assert keeps(first, mode="parallel", max_passes=1)  # merges


@pytest.mark.parametrize("model", ["qwen2.5-3b", "qwen2.5-7b"])
def test_passes_at_the_size_of_real_models(model):
    """Chunks of 5000 tokens; by the formula that the engine's counts have borne out."""
    shape = model_shape(model)

    def times(tail, completion, passes):
        one = turn_flops(shape, 5000 + tail, completion)
        again = turn_flops(shape, 5000 + tail, completion, 5000)
        return (one + (passes - 1) * again) / one

    for tail, completion in ((200, 100), (400, 200), (500, 250)):
        assert 1 < times(tail, completion, 2) < times(tail, completion, 3) <= 1.3
    # Both budgets of the paper full in every turn: more than one and a half.
    assert 1.5 < times(1500, 1024, 3) < 2
