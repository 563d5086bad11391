"""Settings are checked where they are made, and survive JSON."""

import json
import math

import pytest

from gru_mem_jax.agent.config import (
    AgentConfig,
    check_budgets,
    config_from_json,
    config_to_dict,
    replace_settings,
)
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder


def test_defaults_are_the_papers():
    config = AgentConfig()
    assert (config.chunk_size, config.prompt_tokens) == (5000, 8192)
    budgets = (config.question_tokens, config.memory_tokens, config.completion_tokens)
    assert budgets == (1024, 1024, 1024)
    check_budgets(PromptBuilder(ByteEncoder(format_tags=True)), replace_settings(
        config, chunk_size=4900  # a byte is a long token: the wording has over 900
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "gated"}, "mode must be one of with_exit_gate, without_exit_gate"),
        ({"chunk_size": 0}, "chunk_size must be .*, got 0"),
        ({"chunk_size": 10.0}, "chunk_size must be an integer"),
        ({"chunk_size": True}, "chunk_size must be an integer"),
        ({"memory_tokens": "1024"}, "memory_tokens must be an integer"),
        ({"question_tokens": -1}, "question_tokens must be"),
        ({"completion_tokens": 1 << 40}, "completion_tokens must be"),
        ({"prompt_tokens": None}, "prompt_tokens must be an integer"),
        ({"max_chunks": 0}, "max_chunks must be at least 1"),
        ({"deadline_seconds": -1}, "deadline_seconds must be a number"),
        ({"deadline_seconds": math.nan}, "deadline_seconds must be a number"),
        ({"deadline_seconds": math.inf}, "deadline_seconds must be a number"),
        ({"prompt": {}}, "prompt must be a PromptConfig"),
        ({"sampling": None}, "sampling must be a SamplingConfig"),
        ({"temperature": -0.1}, "temperature must be a number from 0 to 100"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"chunksize": 10}, r"unknown setting 'chunksize' \(did you mean chunk_size"),
        ({"xyz": 10}, "unknown setting 'xyz'$"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(InputError, match=message):
        replace_settings(AgentConfig(), **settings)


def test_parts_are_set_by_their_own_names():
    config = replace_settings(
        AgentConfig(), chunk_size=7, order="chunk_first", temperature=0, seed=3
    )
    assert config == AgentConfig(
        chunk_size=7,
        prompt=PromptConfig(order="chunk_first"),
        sampling=SamplingConfig(temperature=0, seed=3),
    )


def test_json_there_and_back():
    config = replace_settings(
        AgentConfig(), mode="memagent", style="compact", max_chunks=3, top_k=5
    )
    assert config_from_json(json.dumps(config_to_dict(config))) == config
    partial = '{"chunk_size": 64, "prompt": {"style": "compact"}, "max_chunks": null}'
    expected = replace_settings(AgentConfig(), chunk_size=64, style="compact")
    assert config_from_json(partial) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"gru_mem\.json: no JSON"),
        ("[" * 100_000, r"gru_mem\.json: no JSON"),
        ("[]", "must be an object, got list"),
        ('{"chunk_sise": 1}', r"unknown field 'chunk_sise' \(did you mean chunk_size"),
        ('{"chunk_size": "1"}', r"gru_mem\.json\.chunk_size must be int, got '1'"),
        ('{"chunk_size": 1.0}', "chunk_size must be int"),
        ('{"chunk_size": true}', "chunk_size must be int"),
        ('{"chunk_size": 0}', "chunk_size must be from 1"),
        ('{"mode": "fast"}', "mode must be one of with_exit_gate"),
        ('{"prompt": "compact"}', r"gru_mem\.json\.prompt must be an object"),
        ('{"prompt": {"style": 1}}', r"gru_mem\.json\.prompt\.style must be one of"),
        ('{"sampling": {"temperature": NaN}}', "temperature must be"),
        ('{"sampling": {"temperature": "0"}}', "temperature must be float"),
    ],
)
def test_refuses_json(text, message):
    with pytest.raises(InputError, match=message):
        config_from_json(text)


def test_budgets_that_cannot_fit_are_named():
    builder = PromptBuilder(ByteEncoder(), PromptConfig(style="compact"))
    overhead = builder.overhead_tokens("gated")
    config = replace_settings(
        AgentConfig(),
        style="compact",
        chunk_size=100,
        question_tokens=20,
        memory_tokens=30,
        prompt_tokens=overhead + 150,
    )
    check_budgets(builder, config)  # exactly
    with pytest.raises(InputError, match=f"may need {overhead + 150}: template "):
        check_budgets(builder, replace_settings(config, prompt_tokens=overhead + 149))
    small = replace_settings(config, memory_tokens=1)
    # " none" stands for an empty memory and has five bytes.
    check_budgets(builder, replace_settings(small, prompt_tokens=overhead + 125))
    with pytest.raises(InputError, match="memory 5"):
        check_budgets(builder, replace_settings(small, prompt_tokens=overhead + 124))
