"""What tests of training share with the processes that they kill."""

import dataclasses
import pathlib
import tempfile

import jax

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.rewards import RewardConfig
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tiny.sources import SyntheticSource, SyntheticSuite
from gru_mem_jax.tiny.start import TinyModel, structured_adamw
from gru_mem_jax.tiny.synthetic import SyntheticConfig
from gru_mem_jax.tiny.turns import TurnConfig
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train.config import LoopConfig, RolloutConfig, SFTConfig, TrainConfig


def make_policy_dir(parent, seed=0):
    """A random Qwen2 of width 16 with the word tokenizer."""
    target = pathlib.Path(parent) / f"policy{seed}"
    with tempfile.TemporaryDirectory() as scratch:
        names = word_tokenizer.save(scratch)
        encoder = TextTokenizer.from_pretrained(scratch)
        policy = make_policy(
            PolicyConfig(
                vocab_size=encoder.vocab_size,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=512,
                eos_token_ids=encoder.stop_ids,
            )
        )
        export_policy(
            policy,
            policy.init(jax.random.key(seed)),
            target,
            tokenizer_files=[pathlib.Path(scratch) / name for name in names],
        )
    return target


def share_of_even_ids(example, trajectory):
    """A reward that a policy of random weights can learn: half right at the start."""
    ids = trajectory.turns[-1].completion_ids
    return sum(i % 2 == 0 for i in ids) / len(ids)


AGENT = AgentConfig(
    chunk_size=48,
    question_tokens=24,
    memory_tokens=24,
    completion_tokens=8,
    prompt_tokens=192,
    prompt=PromptConfig(style="compact"),
)


def of_policy(settings, policy_dir):
    """Settings of a run that begins with a policy."""
    return changed(settings, loop={"policy": str(policy_dir)})


def quick_settings(mode="with_exit_gate", **fields):
    """A step in about a tenth of a second, evaluation and KL included.

    Fields are of the loop, or of the rollouts.
    """
    defaults = {
        "num_steps": 5,
        "questions_per_step": 2,
        "group_size": 4,
        "max_refills": 0,
        "eval_every": 2,
        "save_every": 2,
        "sample_every": 2,
        "samples": 3,
        "logprob_gap_limit": 1e-4,
        "seed": 3,
    }
    values = defaults | fields
    of_loop = {field.name for field in dataclasses.fields(LoopConfig)}
    return TrainConfig(
        loop=LoopConfig(**{k: v for k, v in values.items() if k in of_loop}),
        rollouts=RolloutConfig(**{k: v for k, v in values.items() if k not in of_loop}),
        agent=dataclasses.replace(AGENT, mode=mode),
        source=SyntheticSource(
            config=SyntheticConfig(tasks=("single_key",), num_chunks=2, chunk_tokens=48)
        ),
        rewards=RewardConfig(reward_fn=share_of_even_ids),
        objective=ObjectiveConfig(beta=0.01),
        learner=LearnerConfig(
            learning_rate=0.03,
            warmup_steps=2,
            row_tokens=256,
            rows_per_device=4,
            length_buckets=1,
            remat=False,
            logits_chunk=64,
            optimizer_steps_per_batch=2,
        ),
        engine=EngineConfig(
            slots=8, max_length=256, prefill_blocks=(64,), decode_block=8
        ),
        suite=SyntheticSuite(
            tasks=("single_key",),
            contexts=(("uniform", 2),),
            num_questions=2,
            chunk_tokens=48,
        ),
    )


def quick_sft(**fields):
    """A supervised run in seconds, from scratch; fields are of the loop."""
    loop = {"num_steps": 6, "eval_every": 3, "save_every": 2, "seed": 3, **fields}

    def source(**changes):
        return SyntheticSource(config=SyntheticConfig(num_chunks=5, **changes))

    return SFTConfig(
        loop=LoopConfig(**loop),
        start=TinyModel(hidden_size=96, intermediate_size=32),
        source=source(),
        turns=TurnConfig(answers_alone=0.5),
        rows=2,
        pool_turns=40,
        short_steps=2,
        short_source=source(chunk_tokens=32, max_distractors=1),
        short_chunk_size=32,
        held_out=source(split="test"),
        held_out_turns=24,
        learner=LearnerConfig(
            learning_rate=2e-3,
            warmup_steps=2,
            optimizer=structured_adamw,
            row_tokens=256,
            rows_per_device=2,
            length_buckets=1,
            remat=False,
            unroll_layers=2,
            logits_chunk=64,
        ),
    )


def changed(settings, **parts):
    """Settings with fields of their parts changed: loop={"num_steps": 3}, ..."""
    return dataclasses.replace(
        settings,
        **{
            name: dataclasses.replace(getattr(settings, name), **fields)
            for name, fields in parts.items()
        },
    )
