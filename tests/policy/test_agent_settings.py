"""How a policy samples by default: generation_config.json, gru_mem.json before it."""

import json

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import open_policy_dir


def settings(directory, generation=None, own=None):
    for name, record in (("generation_config", generation), ("gru_mem", own)):
        if record is not None:
            (directory / f"{name}.json").write_text(json.dumps(record))
    return policy_settings(open_policy_dir(directory))


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        (None, {}),
        ({}, {}),
        # As Qwen2.5, Llama 3 and Gemma 3 have it; a penalty is not applied.
        (
            {
                "do_sample": True,
                "temperature": 0.7,
                "top_p": 0.8,
                "top_k": 20,
                "repetition_penalty": 1.05,
            },
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
        ),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, None),
        ({"do_sample": True, "top_k": 64, "top_p": 0.95}, None),
        ({"do_sample": True}, {}),
        ({"temperature": 0.6}, {"temperature": 0.6}),
        # As Qwen2.5 without Instruct: greedily.
        ({"do_sample": False, "max_new_tokens": 2048}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.7, "top_k": 5}, {"temperature": 0.0}),
        ({"temperature": None, "top_p": 1, "top_k": None}, {}),
        ({"top_k": -1}, {}),
        ({"top_k": 0, "temperature": 1}, {}),
        ({"temperature": 0}, {"temperature": 0.0}),
    ],
)
def test_generation_config_gives_the_defaults(tmp_path, generation, sampling):
    if sampling is None:
        sampling = {n: v for n, v in generation.items() if n != "do_sample"}
    expected = AgentConfig(sampling=SamplingConfig(**sampling))
    assert settings(tmp_path, generation) == expected


def test_gru_mem_goes_before_field_by_field(tmp_path):
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    found = settings(tmp_path, generation, {"chunk_size": 7})
    assert (found.chunk_size, found.sampling.temperature) == (7, 0.6)
    own = {"sampling": {"temperature": 0.2, "seed": 3}}
    assert settings(tmp_path, generation, own).sampling == SamplingConfig(
        temperature=0.2, top_p=0.9, seed=3
    )


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"do_sample": "yes"}, "do_sample must be true or false, got 'yes'"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be at most 1"),
        ({"top_k": 2.5}, "top_k must be an integer"),
        ({"top_k": True}, "top_k must be an integer"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, generation, message):
    with pytest.raises(PolicyError, match=rf"generation_config\.json: {message}"):
        settings(tmp_path, generation)


def test_errors_of_gru_mem_name_it(tmp_path):
    for own in ({"sampling": [1]}, {"sampling": {"topp": 0.5}}, {"chunksize": 1}):
        with pytest.raises(InputError, match=r"gru_mem\.json"):
            settings(tmp_path, {"temperature": 0.5}, own)
    with pytest.raises(InputError, match=r"gru_mem\.json must be an object"):
        settings(tmp_path, None, [1])
