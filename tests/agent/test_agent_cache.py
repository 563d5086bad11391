"""Which store an agent gives to the engine that it makes, and when it keeps."""

import asyncio
import shutil

import numpy as np
import pytest
from loops import BYTES, CONFIG

from gru_mem_jax.agent import AgentConfig, Document, GRUMemAgent
from gru_mem_jax.agent.config import replace_settings, trunk_and_tail
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy import hf
from gru_mem_jax.sampling import engine_pool, prefix_store
from gru_mem_jax.sampling.prefix_store import PrefixStore
from gru_mem_jax.testing.scripted import ScriptedGenerator
from gru_mem_jax.tiny import tokenizer as word_tokenizer

FIRST = replace_settings(CONFIG, order="chunk_first", mode="memagent")
TEXT = "0123456789" * 4
DEFAULT = 12345


class Sampler:
    """What a policy is recognised by."""

    sampling_params = None


PAIR = (Sampler(), {"layers": {}})


class FakeEngine(ScriptedGenerator):
    """Remembers what it was made of, and says nothing of interest."""

    def __init__(self, policy, params, config, decoder, mesh=None, store=None):
        super().__init__(lambda request: "m", decoder, capacity=config.slots)
        self.config, self.store = config, store


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(engine_pool, "Engine", FakeEngine)
    monkeypatch.setattr(prefix_store, "default_memory_bytes", lambda: DEFAULT)


def agent_of(config=FIRST, **kwargs):
    return GRUMemAgent(PAIR, BYTES, config, **kwargs)


def budget(agent):
    return agent.generator.store.memory_bytes


def test_memory_keeps_documents_alone():
    agent = agent_of()
    agent.answer("Who?", TEXT)
    agent.answer_many([("Who?", TEXT), ("Who?", TEXT[1:])])
    assert budget(agent) == 0
    agent.answer("Who?", Document(TEXT))
    assert budget(agent) == DEFAULT


@pytest.mark.parametrize("way", ["many", "many_async", "lazily", "stream", "async"])
def test_equal_contexts_and_documents_are_kept(way):
    agent = agent_of(cache_bytes=77)
    pairs = [("Who?", TEXT), ("Why?", TEXT)]
    if way == "many":
        agent.answer_many(pairs)
    elif way == "many_async":
        asyncio.run(agent.answer_many_async(pairs))
    elif way == "lazily":
        agent.answer_many(iter(pairs))
    elif way == "stream":
        next(agent.stream("Who?", Document(TEXT)))
    else:
        asyncio.run(agent.answer_async("Who?", Document(TEXT)))
    assert budget(agent) == 77


def test_without_a_store():
    assert agent_of(cache_bytes=0).generator.store is None
    assert agent_of(cache_bytes=0).generator.config.trunks == 0
    first = agent_of(CONFIG)
    first.answer("Who?", Document(TEXT))  # memory_first: nothing can be shared
    assert first.generator.store is None
    assert first.generator.config.trunks == 0


def test_a_given_store_is_taken_as_it_is():
    store = PrefixStore("one", 5)
    agent = agent_of(cache=store)
    agent.answer("Who?", Document(TEXT))
    assert agent.generator.store is store
    assert store.memory_bytes == 5


def test_sizes_of_an_engine_with_trunks_by_hand():
    builder = PromptBuilder(BYTES, FIRST.prompt)
    overhead = max(map(builder.overhead_tokens, ("gated", "memagent", "answer")))
    trunk, tail = trunk_and_tail(builder, FIRST)
    assert (trunk, tail) == (overhead + 10 + 32, overhead + 16 + 200)
    sizes = agent_of(slots=3).generator.config
    assert (sizes.slots, sizes.trunks, sizes.max_length) == (3, 3, 600)
    assert sizes.tail_length == -(-tail // 64) * 64
    assert sizes.trunk_length == 600 - sizes.tail_length  # more than a trunk needs
    ahead = replace_settings(FIRST, prefill_ahead=2)
    assert agent_of(ahead, slots=3).generator.config.trunks == 9
    assert agent_of(ahead, slots=3, cache_bytes=0).generator.config.trunks == 9
    long = replace_settings(FIRST, chunk_size=1000, prompt_tokens=1300)
    sizes = agent_of(long).generator.config
    assert sizes.trunk_length + sizes.tail_length >= sizes.max_length == 1500
    assert sizes.trunk_length >= overhead + 1000 + 32
    given = prefix_store.with_trunks(sizes, builder, ahead)
    assert given == sizes  # they have trunks


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    """Files of a policy that is never loaded."""
    folder = tmp_path_factory.mktemp("policy")
    word_tokenizer.save(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


@pytest.fixture
def loads(monkeypatch):
    class Policy(Sampler):
        class config:
            vocab_size = 1 << 20

    monkeypatch.setattr(hf, "load_policy", lambda root: (Policy(), PAIR[1]))


SMALL = {"chunk_size": 16, "style": "compact", "order": "chunk_first"}


def test_a_folder_keeps_for_later_processes(policy_dir, loads, tmp_path):
    ids, keys = np.arange(20, dtype=np.int32), tmp_path / "keys"
    first, later, bounded = (
        GRUMemAgent.from_pretrained(policy_dir, cache=keys, **more, **SMALL)
        for more in ({}, {}, {"cache_bytes": 7})
    )
    assert [budget(agent) for agent in (first, later, bounded)] == [DEFAULT] * 2 + [7]
    first.generator.store.put(ids, np.ones((1, 2, 1, 20, 4), np.float32))
    assert later.generator.store.find(ids, 1).length == 20
    store = PrefixStore("one", 5)
    given = GRUMemAgent.from_pretrained(policy_dir, cache=store, **SMALL)
    assert given.generator.store is store
    plain = GRUMemAgent.from_pretrained(policy_dir, cache_bytes=9, **SMALL)
    plain.answer("which code ?", Document("the heron"))
    assert budget(plain) == 9


@pytest.mark.parametrize("mode", ["reread", "parallel"])
def test_what_is_read_again_is_kept(mode):
    """Any text, where passes over its chunks may follow."""
    long = {"chunk_size": 256, "prompt_tokens": 700, "mode": mode}
    for settings, kept in (({}, DEFAULT), ({"chunk_size": 255}, 0)):
        agent = agent_of(replace_settings(FIRST, **long | settings))
        assert budget(agent) == 0
        agent.answer("Who?", TEXT)
        assert budget(agent) == kept
    memory_first = agent_of(replace_settings(CONFIG, **long))
    memory_first.answer("Who?", TEXT)
    assert memory_first.generator.store is None


@pytest.mark.parametrize("mode", ["reread", "parallel"])
def test_a_policy_that_was_never_taught_a_gate(policy_dir, loads, tmp_path, mode):
    folder = tmp_path / "ungated"
    shutil.copytree(policy_dir, folder)
    (folder / "gru_mem.json").write_text('{"mode": "memagent"}')
    for given in ({"mode": mode}, {"config": AgentConfig(mode=mode)}):
        with pytest.raises(InputError, match=f"mode {mode}: MemAgent has no gate"):
            GRUMemAgent.from_pretrained(folder, **given)
    for own in ("memagent", "with_exit_gate"):
        assert GRUMemAgent.from_pretrained(folder, mode=own).config.mode == own


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cache": "keys", "order": "memory_first"}, "cache: nothing of a document"),
        ({"cache": 5}, "cache must be a folder or a PrefixStore, got 5"),
        ({"cache": ""}, "cache must be a folder or a PrefixStore, got ''"),
        ({"cache_bytes": -1}, "cache_bytes must be at least 0"),
        ({"cache_bytes": 1.5}, "cache_bytes must be an integer"),
        (
            {"cache": PrefixStore("", 1), "cache_bytes": 1},
            "a PrefixStore has its own memory_bytes",
        ),
    ],
)
def test_refuses(policy_dir, loads, given, message):
    with pytest.raises(InputError, match=message):
        GRUMemAgent.from_pretrained(policy_dir, **SMALL | given)


def test_a_generator_has_its_own_store():
    for given in ({"cache": PrefixStore("", 1)}, {"cache_bytes": 0}):
        with pytest.raises(InputError, match="cache is for an engine that the agent"):
            GRUMemAgent(ScriptedGenerator([], BYTES), BYTES, FIRST, **given)
    with pytest.raises(InputError, match="a folder needs the policy"):
        agent_of(cache="keys")
