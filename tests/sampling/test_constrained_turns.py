"""Random weights read documents in constrained turns: each is well formed."""

import random

import jax
import numpy as np

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.data.example import Example
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.rollout import rollout
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

ENCODER = ByteEncoder()
CONFIG = AgentConfig(
    format="constrained",
    mode="without_exit_gate",
    chunk_size=40,
    question_tokens=16,
    memory_tokens=24,
    completion_tokens=80,
    prompt_tokens=384,
    update_threshold=0.5,
    prompt=PromptConfig(style="compact", order="chunk_first"),
)


def test_rollouts_of_random_weights_are_well_formed():
    """3 chunks for each of 4 rollouts; more rows of the embedding than ids."""
    policy = make_policy(
        PolicyConfig(
            vocab_size=ENCODER.vocab_size + 5,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.3,
        )
    )
    sizes = EngineConfig(
        slots=4, max_length=384, prefill_blocks=(128,), prefill_tokens=128
    )
    engine = Engine(policy, policy.init(jax.random.key(0)), sizes, ENCODER)
    text = random.Random(0)
    example = Example(
        id="0",
        question="which?",
        answers=("x",),
        document="".join(text.choices("abcdefgh", k=110)),
        evidence=((0, 1),),
    )
    builder = PromptBuilder(ENCODER, CONFIG.prompt)
    (group,) = rollout(engine, builder, CONFIG, {0: example}, 4, step=1, seed=0)
    for trajectory in group:
        assert trajectory.answer is not None
        assert [turn.kind for turn in trajectory.turns[:-1]] == ["memory"] * 3
        for turn in trajectory.turns:
            assert turn.well_formed, turn.text
            forced = np.asarray(turn.supports) == -1
            assert forced.sum() > 2
            assert not np.asarray(turn.logprobs)[forced].any()
            assert (np.asarray(turn.logprobs)[~forced] < 0).any()
        for turn in trajectory.turns[:-1]:
            assert turn.update == (turn.update_probability >= 0.5)
            assert 0 <= turn.exit_probability <= 1
