"""Reinforcement learning without the training loop: `minimal_rl.py OUT [POLICY]`.

Trains POLICY, a Hugging Face directory (else a tiny one of random weights), for five
steps on two synthetic questions, eight rollouts each, and writes the result to OUT.
"""

import dataclasses
import sys
import tempfile

from gru_mem_jax import agent, policy, rl, sampling, tiny, tokenization
from gru_mem_jax.agent.config import longest_turn
from gru_mem_jax.policy.files import tokenizer_files
from gru_mem_jax.rl.learner import host_count
from gru_mem_jax.rl.rollout import rollout


def reward(example, trajectory):
    """Share of short words in all replies: what random weights can learn to raise."""
    words = " ".join(turn.text for turn in trajectory.turns).split()
    return sum(len(word) < 5 for word in words) / max(1, len(words))


def main(start: str, out: str) -> None:
    model, params = policy.load_policy(start, "float32")
    encoder = tokenization.TextTokenizer.from_pretrained(start)
    settings = policy.policy_settings(directory := policy.open_policy_dir(start))
    reader = dataclasses.replace(settings, sampling=agent.SamplingConfig())
    prompts = agent.PromptBuilder(encoder, reader.prompt)
    size = longest_turn(prompts, reader)  # in tokens, prompt and completion
    engine = sampling.Engine(model, params, sampling.EngineConfig().sized_for(size))
    config = rl.LearnerConfig(
        learning_rate=3e-3, warmup_steps=0, row_tokens=size, length_buckets=1
    )
    learner = rl.compile_learner(model, rl.ObjectiveConfig(beta=0), config)
    state, carry, frozen = learner.init(params), learner.begin(), learner.freeze(params)
    examples = {n: tiny.generate(tiny.SyntheticConfig(num_chunks=4), n) for n in (0, 1)}
    for step in range(5):
        # 1. Sample; score each turn beside those of the question's other rollouts.
        groups = rollout(engine, prompts, reader, examples, 8, step=step, seed=0)
        batch = rl.make_batch(groups, examples, encoder, reader.chunk_size, reward)
        worth = rl.score_groups(batch.outcomes, rl.RewardConfig(), rl.AdvantageConfig())
        turns = rl.learnable(batch, worth.advantages, batch.outcomes.scored.any(-1))
        # 2. Forward and backward, micro-batch by micro-batch.
        for rows in (packed := rl.pack(turns, learner.packing)):
            one = rl.Batch(rows, None, None, host_count(packed))
            carry = learner.accumulate(state.params, frozen, carry, one)
        # 3. Optimiser step; from here on the engine samples with the new weights.
        state, carry, _ = learner.apply(state, carry)
        engine.set_params(params := learner.policy_params(state.params, frozen))
        print(f"step {step + 1}: reward {worth.terms['outcome'].mean():.3f}")
    # 4. Save, for `gru-mem ask` and transformers.
    small = {"tokenizer_files": tokenizer_files(directory), "agent_settings": settings}
    policy.export_policy(model, params, out, **small)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        tiny.TinyModel().write(scratch, seed=0)
        main([scratch, *sys.argv[2:]][-1], sys.argv[1])
