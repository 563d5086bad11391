"""Configuration of supervised training."""

import dataclasses

from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.rope import RopeConfig
from gru_mem_jax.records import plain_numbers
from gru_mem_jax.tiny.structured import StructuredConfig
from gru_mem_jax.tiny.synthetic import SyntheticConfig
from gru_mem_jax.tiny.turns import TurnConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyModel:
    """Shape of a tiny policy trained from a structured start; a Qwen2.

    Attributes:
      hidden_size: D.
      intermediate_size: F.
      num_layers: N, at least 2.
      num_heads: query heads, and as many key heads.
      head_dim: H. Matching and copying go through so many dimensions.
      rope_theta: base of the RoPE wavelengths.
      max_positions: window written into its config.json.
      structure: how attention is wired at the start.
    """

    hidden_size: int = 96
    intermediate_size: int = 256
    num_layers: int = 2
    num_heads: int = 8
    head_dim: int = 32
    rope_theta: float = 1e6
    max_positions: int = 1024
    structure: StructuredConfig = dataclasses.field(default_factory=StructuredConfig)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) and its schedule.

    The rate rises over `warmup_steps`, stays, and falls linearly over the last
    `decay_share` of the steps to `final_share` of itself.
    """

    learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay_share: float = 0.3
    final_share: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self):
        plain_numbers(self)
        limits = {
            "learning_rate": (0.0, 10.0),
            "decay_share": (0.0, 1.0),
            "final_share": (0.0, 1.0),
            "b1": (0.0, 1.0),
            "b2": (0.0, 1.0),
            "weight_decay": (0.0, 10.0),
            "clip_norm": (0.0, 1e9),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise InputError(
                    f"{name} must be between {low:g} and {high:g}, got {value}"
                )
        if self.warmup_steps < 0:
            raise InputError(
                f"warmup_steps must be at least 0, got {self.warmup_steps}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """A supervised warm start from scratch on oracle turns of synthetic contexts.

    Training begins on short chunks, where attention finds its feet sooner, and goes
    on with chunks of the size that the policy is made for.

    Attributes:
      policy: a policy directory to go on from, with its tokenizer; None: from scratch.
      model: shape and start of the policy, from scratch.
      optimizer: rates.
      data: the contexts; `split` must be "train". Chunks have `chunk_tokens` of them.
      prompt: order and style of the prompts.
      turns: which turns are taught.
      short_data: the contexts of the first `short_steps` steps.
      short_steps: how many.
      steps: all steps.
      rows: packed rows in a batch.
      row_tokens: tokens of a packed row.
      pool_turns: turns that are shuffled together.
      seed: of the start and of the data's order.
      eval_every: steps between looks at held-out turns; 0: only at the end.
      eval_turns: held-out turns looked at.
      log_every: steps between rows of metrics.jsonl.
      question_tokens, memory_tokens, completion_tokens: budgets written into the
        policy directory's gru_mem.json.
    """

    policy: str | None = None
    model: TinyModel = dataclasses.field(default_factory=TinyModel)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    data: SyntheticConfig = dataclasses.field(default_factory=SyntheticConfig)
    prompt: PromptConfig = dataclasses.field(
        default_factory=lambda: PromptConfig(style="compact")
    )
    turns: TurnConfig = dataclasses.field(default_factory=TurnConfig)
    short_data: SyntheticConfig = dataclasses.field(
        default_factory=lambda: SyntheticConfig(chunk_tokens=32, max_distractors=1)
    )
    short_steps: int = 1000
    steps: int = 3000
    rows: int = 5
    row_tokens: int = 256
    pool_turns: int = 1024
    seed: int = 0
    eval_every: int = 500
    eval_turns: int = 400
    log_every: int = 20
    question_tokens: int = 32
    memory_tokens: int = 64
    completion_tokens: int = 64

    def __post_init__(self):
        plain_numbers(self)
        for name, least in (
            ("short_steps", 0),
            ("steps", 1),
            ("rows", 1),
            ("row_tokens", 1),
            ("pool_turns", 1),
            ("eval_every", 0),
            ("eval_turns", 1),
            ("log_every", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be an int >= {least}, got {value!r}")
        for name in ("data", "short_data"):
            if (split := getattr(self, name).split) != "train":
                raise InputError(f"{name}.split must be 'train', got {split!r}")
