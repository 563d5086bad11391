"""Configurations and other arguments of the agent, of neighbouring types."""

import decimal
import fractions
import json

import numpy as np
import pytest
from callers import agent_on, policy
from loops import BYTES, CONFIG

from gru_mem_jax.agent import AgentConfig, GRUMemAgent, SamplingConfig
from gru_mem_jax.agent.config import config_from_json, config_to_dict
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.scripted import ScriptedGenerator


def built(config, **kwargs):
    return GRUMemAgent(ScriptedGenerator(policy, BYTES), BYTES, config, **kwargs).config


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"chunk_size": np.int64(32)}, {"chunk_size": 32}),
        ({"chunk_size": np.array(32)}, {"chunk_size": 32}),
        ({"mode": np.str_("memagent")}, {"mode": "memagent"}),
        ({"deadline_seconds": np.float32(0.5)}, {"deadline_seconds": 0.5}),
        ({"deadline_seconds": fractions.Fraction(1, 2)}, {"deadline_seconds": 0.5}),
        ({"deadline_seconds": decimal.Decimal("0.5")}, {"deadline_seconds": 0.5}),
        (
            {"sampling": {"seed": np.uint8(4)}, "temperature": 0},
            {"sampling": SamplingConfig(seed=4, temperature=0)},
        ),
    ],
)
def test_a_dict_is_a_config_and_numbers_are_numbers(config, expected):
    config = built(config)
    assert config == AgentConfig(**expected)
    assert config_from_json(json.dumps(config_to_dict(config))) == config
    for name, value in expected.items():
        assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (32, "config must be an AgentConfig or a dict of settings, got 32"),
        ("chunk_size", "config must be an AgentConfig"),
        (
            AgentConfig,
            "config must be an AgentConfig or a dict of settings, got <class",
        ),
        ([], "config must be an AgentConfig"),
        ({1: 2}, "config has a key that is not a name: 1"),
        (
            {"chunk_sice": 2},
            r"unknown setting 'chunk_sice' \(did you mean chunk_size\?\)",
        ),
        (
            {"prompt": {"stile": "full"}},
            r"config.prompt has an unknown setting 'stile' \(did you mean style\?\)",
        ),
        ({"chunk_size": {}}, "chunk_size must be an integer"),
        ({"sampling": 3}, "sampling must be a SamplingConfig, got 3"),
        ({"chunk_size": np.bool_(True)}, "chunk_size must be an integer"),
        ({"chunk_size": np.float64(3)}, "chunk_size must be an integer"),
        ({"chunk_size": np.array([3])}, "chunk_size must be an integer"),
        ({"chunk_size": 10**5000}, "got an integer of 16610 bits"),
        ({"deadline_seconds": 10**400}, "got an integer of 1329 bits"),
        ({"deadline_seconds": np.float64("nan")}, "deadline_seconds must be a number"),
        ({"deadline_seconds": decimal.Decimal("NaN")}, "deadline_seconds must be a"),
        ({"deadline_seconds": 1j}, "deadline_seconds must be a number"),
        ({"mode": ["memagent"]}, r"mode must be one of .*; got \['memagent'\]"),
        ({"mode": np.array(["memagent", "x"])}, "mode must be one of"),
    ],
)
def test_configs_that_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        built(config)


@pytest.mark.parametrize(
    ("policy_argument", "tokenizer", "message"),
    [
        ([1, 2], BYTES, r"policy must be a generator, .*; got \(int, int\)"),
        ((1, 2, 3), BYTES, r"got \(int, int, int\)"),
        (None, BYTES, "policy must be a generator, .*; got None"),
        ("runs/policy", BYTES, "from_pretrained loads a directory"),
        (ScriptedGenerator, BYTES, "policy must be a generator, .*; got <class"),
        (
            ScriptedGenerator([], BYTES),
            None,
            "tokenizer must be an Encoder .*, got None",
        ),
        (ScriptedGenerator([], BYTES), "name", "tokenizer must be an Encoder"),
        (ScriptedGenerator([], BYTES), type(BYTES), "tokenizer must be an Encoder"),
    ],
)
def test_constructor_arguments_that_are_refused(policy_argument, tokenizer, message):
    with pytest.raises(InputError, match=message):
        GRUMemAgent(policy_argument, tokenizer, CONFIG)


@pytest.mark.parametrize("devices", [0, 2.0, True, "all"])
def test_devices_that_are_refused(devices):
    with pytest.raises(InputError, match="devices must be"):
        built(None, devices=devices)
    with pytest.raises(InputError, match="devices must be"):
        GRUMemAgent.from_pretrained("anywhere", devices=devices)


@pytest.mark.parametrize("slots", [0, 2.0, None, True, "4"])
def test_slots_that_are_refused(slots):
    with pytest.raises(InputError, match="slots must be"):
        built(None, slots=slots)
    with pytest.raises(InputError, match="slots must be"):
        GRUMemAgent.from_pretrained("anywhere", slots=slots)


@pytest.mark.parametrize("directory", [None, 3, b"policy", "", ["policy"]])
def test_directories_that_are_refused(directory):
    with pytest.raises(InputError, match="directory must be the path of a policy"):
        GRUMemAgent.from_pretrained(directory)


def test_callbacks_that_are_refused():
    async def on_turn(turn):
        pass

    for callback, message in (
        ("print", "on_turn must be a function of a turn, got 'print'"),
        (on_turn, "on_turn must be a plain function, got a coroutine function"),
    ):
        generator = ScriptedGenerator(policy, BYTES)
        with pytest.raises(InputError, match=message):
            agent_on(generator).answer("Q", "abc", callback)
        assert generator.requests == []


def test_what_a_directory_says_counts_before_its_weights_are_read(
    tmp_path, monkeypatch
):
    """generation_config.json where gru_mem.json is silent, as in `gru-mem ask`."""
    from gru_mem_jax.policy import hf
    from gru_mem_jax.tiny import tokenizer as word_tokenizer

    word_tokenizer.save(tmp_path)
    (tmp_path / "gru_mem.json").write_text('{"chunk_size": 48}')
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 7}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    read = []

    def refuse(*args, **kwargs):
        read.append(args)
        raise InputError("weights")

    monkeypatch.setattr(hf, "load_policy", refuse)
    monkeypatch.setattr(
        "gru_mem_jax.agent.gru_mem_agent.check_budgets",
        lambda builder, config: read.append(config),
    )
    with pytest.raises(InputError, match="weights"):
        GRUMemAgent.from_pretrained(tmp_path, top_k=3)
    config = read[0]
    assert (config.chunk_size, config.sampling.temperature) == (48, 0.6)
    assert config.sampling.top_k == 3
    monkeypatch.undo()
    monkeypatch.setattr(hf, "load_policy", refuse)
    read.clear()
    with pytest.raises(InputError, match="prompt_tokens is 8192, but the gated prompt"):
        GRUMemAgent.from_pretrained(tmp_path, chunk_size=10**6)
    assert read == []
