"""The public class: answers, streams, many at once."""

import asyncio
import pathlib

import numpy as np
import pytest
from callers import together
from loops import BYTES, CONFIG, reply

from gru_mem_jax.agent import AgentConfig, GRUMemAgent, PromptConfig, Turn
from gru_mem_jax.agent.config import replace_settings
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in
from gru_mem_jax.tiny import tokenizer as word_tokenizer


def policy(request):
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{said['question'].strip()} {said['memory'].strip()}}}"
    return reply(
        update=said["chunk"][:3], exit_="end" if "!" in said["chunk"] else "continue"
    )


def agent(**kwargs):
    return GRUMemAgent(ScriptedGenerator(policy, BYTES, **kwargs), BYTES, CONFIG)


def test_answer_and_callback():
    turns = []
    trajectory = agent().answer("Who?", "abc 123456def 12345!ghi", turns.append)
    assert trajectory.answer == "Who? def"
    assert trajectory.stop_reason == "exit_gate"
    assert tuple(turns) == trajectory.turns


def test_stream_yields_turns_as_they_end():
    the_agent = agent()
    stream = the_agent.stream("Who?", ("abc 123456" for _ in range(1000)))
    first = next(stream)
    assert isinstance(first, Turn)
    assert (first.chunk, first.memory) == (0, "abc")
    assert len(the_agent.generator.requests) == 1  # the second is not asked for yet
    stream.close()


@pytest.mark.parametrize("capacity", [1, 4])
def test_answer_many_keeps_the_order(capacity):
    pairs = [(f"Q{i}", f"{i:03d}" + "x" * 7 * i) for i in range(9)]
    many = agent(capacity=capacity, shuffle_seed=1).answer_many(pairs)
    assert [t.question for t in many] == [q for q, _ in pairs]
    assert [t.trajectory_id for t in many] == list(range(9))
    assert many[0].turns == agent().answer(*pairs[0]).turns
    assert agent().answer_many([]) == []


def test_defaults_are_the_papers():
    the_agent = GRUMemAgent(ScriptedGenerator(policy, BYTES), BYTES)
    assert the_agent.config == AgentConfig()


def test_bad_input_is_refused_before_anything_runs():
    the_agent = agent()
    with pytest.raises(InputError, match="question"):
        the_agent.answer("", "text")
    assert the_agent.generator.requests == []


# -- from a policy directory ---------------------------------------------------------


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    """A tiny policy with random weights, its tokenizer and its settings."""
    jax = pytest.importorskip("jax")
    from gru_mem_jax.policy.config import PolicyConfig
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.hf_export import export_policy

    tokenizer_dir = tmp_path_factory.mktemp("tokenizer")
    names = word_tokenizer.save(tokenizer_dir)
    policy = make_policy(
        PolicyConfig(
            family="qwen2",
            vocab_size=word_tokenizer.build().get_vocab_size() + 7,  # rows to spare
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    settings = AgentConfig(
        chunk_size=16,
        question_tokens=16,
        memory_tokens=8,
        completion_tokens=8,
        prompt_tokens=96,
        prompt=PromptConfig(style="compact"),
    )
    directory = tmp_path_factory.mktemp("policies") / "policy"
    export_policy(
        policy,
        policy.init(jax.random.key(0)),
        directory,
        tokenizer_files=[tokenizer_dir / name for name in names],
        agent_settings=settings,
    )
    return directory


@pytest.fixture(scope="module")
def loaded(policy_dir):
    return GRUMemAgent.from_pretrained(policy_dir, temperature=0, slots=2)


def test_from_pretrained(loaded):
    # The policy's own settings, but for the one that was given.
    assert loaded.config.chunk_size == 16
    assert loaded.config.prompt.style == "compact"
    assert loaded.config.sampling.temperature == 0
    document = "the red heron walks to the lake . " * 6
    trajectory = loaded.answer("Which code ?", document)
    assert trajectory.num_chunks == -(-len(loaded.encoder.encode(document)) // 16)
    assert "".join(document[a:b] for a, b in trajectory.borders) == document
    assert all(t.completion_tokens <= 8 for t in trajectory.turns)
    assert trajectory.turns[-1].kind == "answer"
    many = loaded.answer_many([("Which code ?", document)] * 3)
    assert [t.text for t in many[2].turns] == [t.text for t in trajectory.turns]


def test_threads_and_tasks_share_a_loaded_policy(loaded):
    documents = ["the red heron walks to the lake . " * n for n in (1, 3, 5)]
    alone = [loaded.answer("Which code ?", d) for d in documents]
    other = GRUMemAgent(loaded.generator, loaded.encoder, loaded.config)

    async def in_tasks():
        asked = [("Which code ?", d) for d in documents]
        calls = [other.answer_async(*pair) for pair in asked]
        return await asyncio.gather(*calls, loaded.answer_many_async(asked))

    def in_a_thread():
        for turn in other.stream("Which code ?", documents[2]):
            first = turn.text
            break
        return [loaded.answer("Which code ?", d) for d in documents], first

    *threads, tasks = together(*[in_a_thread] * 3, lambda: asyncio.run(in_tasks()))

    def texts(trajectories):
        return [[turn.text for turn in t.turns] for t in trajectories]

    for answers, first in threads:
        assert texts(answers) == texts(alone)
        assert first == alone[2].turns[0].text
    assert texts(tasks[:-1]) == texts(tasks[-1]) == texts(alone)
    assert texts([loaded.answer("Which code ?", documents[0])]) == texts(alone[:1])


def test_many_questions_are_answered_on_several_devices(policy_dir, loaded):
    spread = GRUMemAgent.from_pretrained(policy_dir, temperature=0, slots=1, devices=3)
    assert spread.generator.capacity == 3
    asked = [(f"Which code {i} ?", "the lake " * (9 * i)) for i in range(1, 6)]
    for one, other in zip(
        loaded.answer_many(asked), spread.answer_many(asked), strict=True
    ):
        assert [turn.text for turn in one.turns] == [turn.text for turn in other.turns]
    counts = [engine.stats()["requests"] for engine in spread.generator.engines]
    assert min(counts) > 0
    with pytest.raises(InputError, match="needs 9 devices, there are 8"):
        GRUMemAgent.from_pretrained(policy_dir, devices=9)


def test_a_pair_may_be_a_list_and_a_config_a_dict(policy_dir, loaded):
    from gru_mem_jax.policy.hf import load_policy

    policy, params = load_policy(policy_dir)
    built = GRUMemAgent([policy, params], loaded.encoder, loaded.config, slots=2)
    one, other = (a.answer("Which code ?", "the lake " * 20) for a in (loaded, built))
    assert [t.text for t in one.turns] == [t.text for t in other.turns]
    with pytest.raises(
        InputError, match=r"policy must be a generator.*got \(dict, Pol"
    ):
        GRUMemAgent((params, policy), loaded.encoder)
    changed = GRUMemAgent.from_pretrained(
        pathlib.Path(policy_dir), {"max_chunks": np.int64(2)}, seed=np.uint8(3)
    )
    assert changed.config == replace_settings(
        loaded.config,
        max_chunks=2,
        seed=3,
        temperature=changed.config.sampling.temperature,
    )
    assert type(changed.config.max_chunks) is int


def test_a_loaded_policy_and_a_tokenizer_of_transformers(policy_dir, loaded):
    transformers = pytest.importorskip("transformers")
    from gru_mem_jax.policy.hf import load_policy

    tokenizer = transformers.AutoTokenizer.from_pretrained(policy_dir)
    built = GRUMemAgent(load_policy(policy_dir), tokenizer, loaded.config, slots=2)
    one, other = (a.answer("Which code ?", "the lake " * 20) for a in (loaded, built))
    assert [t.text for t in one.turns] == [t.text for t in other.turns]


def test_from_pretrained_refuses(policy_dir, tmp_path):
    with pytest.raises(InputError, match=r"did you mean chunk_size\?"):
        GRUMemAgent.from_pretrained(policy_dir, chunk_sice=5)
    with pytest.raises(PolicyError, match="no such policy directory"):
        GRUMemAgent.from_pretrained(tmp_path / "none")
