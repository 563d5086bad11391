"""A tiny policy from scratch: shape, structured start, word tokenizer, budgets."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import optax

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.policy.rope import RopeConfig
from gru_mem_jax.tiny import tokenizer
from gru_mem_jax.tiny.structured import StructuredConfig, structured_init
from gru_mem_jax.tokenization import TextTokenizer


def tiny_agent() -> AgentConfig:
    """How a tiny policy reads: small budgets, compact prompts, greedily."""
    return AgentConfig(
        chunk_size=64,
        question_tokens=32,
        memory_tokens=64,
        completion_tokens=64,
        prompt_tokens=192,
        prompt=PromptConfig(style="compact", order="chunk_first"),
        sampling=SamplingConfig(temperature=0.0),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A tiny Qwen2 with a structured start; a `train.config.PolicyStart`.

    Attributes:
      hidden_size: D.
      intermediate_size: F.
      num_layers: N, at least 2.
      num_heads: query heads, and as many key heads.
      head_dim: H, the dimensions of matching and copying.
      rope_theta: base of the RoPE wavelengths.
      max_positions: window, written into its config.json.
      structure: wiring of attention at the start.
      agent: its settings, written into its gru_mem.json.
    """

    hidden_size: int = 96
    intermediate_size: int = 256
    num_layers: int = 2
    num_heads: int = 8
    head_dim: int = 32
    rope_theta: float = 1e6
    max_positions: int = 1024
    structure: StructuredConfig = dataclasses.field(default_factory=StructuredConfig)
    agent: AgentConfig = dataclasses.field(default_factory=tiny_agent)

    def policy_config(self, vocab_size: int, end: int, pad: int) -> PolicyConfig:
        """The policy's shape for a tokenizer.

        Raises:
          PolicyError: a number is out of range.
        """
        return PolicyConfig(
            family="qwen2",
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.max_positions,
            rope=RopeConfig(theta=self.rope_theta),
            tie_word_embeddings=True,
            eos_token_ids=(end,),
            pad_token_id=pad,
        )

    def write(self, directory: str | pathlib.Path, seed: int) -> None:
        """Writes a Hugging Face directory; equal seeds give equal files.

        Raises:
          PolicyError: a number is out of range, or the directory is not empty.
        """
        with tempfile.TemporaryDirectory() as scratch:
            names = tokenizer.save(scratch)
            encoder = TextTokenizer.from_pretrained(scratch)
            files = {n: (pathlib.Path(scratch) / n).read_bytes() for n in names}
        pad = encoder.encode_control(tokenizer.END_OF_TEXT)[0]
        shape = self.policy_config(encoder.vocab_size, encoder.stop_ids[0], pad)
        params = structured_init(
            shape, jax.random.key(seed), self.structure, tokenizer.canonical_ids()
        )
        export_policy(
            make_policy(shape),
            params,
            directory,
            tokenizer_files=files,
            dtype="float32",
            agent_settings=self.agent,
        )


def structured_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.98,
    weight_decay: float = 0.01,
) -> optax.GradientTransformation:
    """AdamW with the structured start's own rates: a `LearnerConfig.optimizer`.

    Its embedding has variance 1 instead of 1/D, and its final norm is D^-1/2 instead of
    1, so that the residual stream begins at variance 1 without a multiplier, which no
    checkpoint format has. Adam's steps do not scale with their parameters: the rates of
    these two are scaled by the same factors. Only kernels decay. It is for policies
    that began so: of others it would change the rate of the embedding.

    Args:
      learning_rate: of all other parameters.
      b1, b2, weight_decay: AdamW's.
    """

    def rated(path: Any, update: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        if names[-1] == "embedding":
            return update * update.shape[-1] ** 0.5
        if "final_norm" in names:
            return update * update.shape[-1] ** -0.5
        return update

    def rate(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(rated, updates)

    def kernels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key == "kernel", params
        )

    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2),
        optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.stateless(rate),
        optax.scale_by_learning_rate(learning_rate),
    )
