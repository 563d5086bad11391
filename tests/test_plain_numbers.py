"""Every configuration takes numbers of numpy, and holds Python's own afterwards."""

import dataclasses
import json

import numpy as np
import pytest

from gru_mem_jax.agent import AgentConfig, PromptConfig, SamplingConfig
from gru_mem_jax.bench.sampling import BenchConfig
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.data.squad import SQuADSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.rope_config import RopeConfig
from gru_mem_jax.records import to_record
from gru_mem_jax.rl.advantages import AdvantageConfig
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.packing import PackConfig
from gru_mem_jax.rl.rewards import RewardConfig
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.tiny.sources import SyntheticSuite
from gru_mem_jax.tiny.synthetic import SyntheticConfig
from gru_mem_jax.tiny.turns import TurnConfig
from gru_mem_jax.train.config import LoopConfig, RolloutConfig, SFTConfig

DIMENSIONS = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "eos_token_ids": (1, 2),
}
CONFIGS = [
    AgentConfig(max_chunks=3, deadline_seconds=2.5),
    PromptConfig(),
    SamplingConfig(temperature=0.5, seed=7),
    JsonlSource(path="a", seed=1),
    HotpotQASource(path="a", seed=1),
    SQuADSource(path="a", seed=1),
    SyntheticConfig(tasks=("single_key", "multi_value"), weights=(1.0, 2.0), seed=4),
    TurnConfig(),
    EvidenceTurns(kinds=("gated",)),
    SyntheticSuite(),
    MeshConfig(data=-1, tensor=2),
    PolicyConfig(**DIMENSIONS),
    RopeConfig(),
    AdvantageConfig(normalize_std=True),
    PackConfig(),
    LoraConfig(),
    ObjectiveConfig(dual_clip=3.0),
    LearnerConfig(),
    RewardConfig(),
    BenchConfig(),
    EngineConfig(refill_after=2),
    SFTConfig(),
    LoopConfig(eval_modes=("memagent",)),
    RolloutConfig(overlap=True),
]


def of_numpy(value):
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    if type(value) is tuple:
        return tuple(map(of_numpy, value))
    return value


def plain_types(record):
    """Types of all leaves of JSON values."""
    if isinstance(record, dict):
        return {t for item in record.values() for t in plain_types(item)}
    if isinstance(record, list):
        return {t for item in record for t in plain_types(item)}
    return {type(record)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_numbers_of_numpy(config):
    values = {
        field.name: of_numpy(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init
    }
    built = type(config)(**values)
    assert built == config
    record = to_record(built)
    assert plain_types(record) <= {int, float, bool, str, type(None)}
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(to_record(config)))


def test_a_float32_is_the_number_that_it_is():
    assert SamplingConfig(temperature=np.float32(0.1)).temperature == float(
        np.float32(0.1)
    )
    assert EngineConfig(prefill_blocks=np.array([16, 64])).prefill_blocks == (16, 64)
    assert type(EngineConfig(prefill_blocks=np.array([16])).prefill_blocks[0]) is int


@pytest.mark.parametrize("source", [JsonlSource, HotpotQASource, SQuADSource])
def test_paths_of_sources(source, tmp_path):
    built = source(path=tmp_path / "a.json")
    assert built == source(path=str(tmp_path / "a.json"))
    assert type(built.path) is str
    for path in (None, "", 3, b"a", ["a"]):
        with pytest.raises(InputError, match="path must be the name of a file, got"):
            source(path=path)
