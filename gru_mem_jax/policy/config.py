"""The configuration of a policy network, validated before anything is allocated."""

import dataclasses
import math
from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy import checks
from gru_mem_jax.policy.families import FAMILIES, Family
from gru_mem_jax.policy.rope_config import RopeConfig
from gru_mem_jax.records import plain_numbers

FULL = "full_attention"
SLIDING = "sliding_attention"
_DEFAULT_ROPE = RopeConfig()
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")

# Far above any published dense model, far below what exhausts a machine: Python loops
# over layers and tables of positions are safe below these.
_LIMITS = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 4096,
    "max_position_embeddings": 2**31 - 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A decoder of one of the supported families; names as in Hugging Face configs.

    Attributes:
      family: "qwen2", "qwen3", "llama", "mistral" or "gemma3_text".
      vocab_size: V, rows of the embedding.
      hidden_size: D.
      intermediate_size: F.
      num_hidden_layers: N.
      num_attention_heads: query heads.
      num_key_value_heads: K, divides the query heads; None: as many.
      head_dim: H, even; None: hidden_size / num_attention_heads.
      max_position_embeddings: the window that the model was made for.
      rms_norm_eps: under the norms' root.
      tie_word_embeddings: the output head is the embedding.
      hidden_act: "silu" or "gelu_pytorch_tanh"; None: the family's.
      attention_bias: biases on query, key, value and output; only in the families
        that have the switch (Qwen2 always has the first three, whatever it says).
      mlp_bias: biases in the MLP (Llama).
      rope: frequencies of full-attention layers.
      rope_local: frequencies of sliding layers; None: as `rope`.
      sliding_window: keys that a sliding layer sees, the query's own included.
      layer_types: "full_attention" or "sliding_attention" for each layer; None: by
        the family's rule (Mistral slides everywhere if it has a window, Gemma 3 in
        five layers of six, others nowhere).
      query_pre_attn_scalar: scores are divided by its root; None: head_dim.
      attn_logit_softcapping: c in c * tanh(score / c), before the mask.
      final_logit_softcapping: the same for the output logits.
      initializer_range: standard deviation of random weights.
      bos_token_id, eos_token_ids, pad_token_id: carried from and to config.json.

    Raises:
      PolicyError: a value is out of range or does not go with another.
    """

    family: str = "qwen2"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    hidden_act: str | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: RopeConfig = _DEFAULT_ROPE
    rope_local: RopeConfig | None = None
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def __post_init__(self):
        plain_numbers(self)
        if self.family not in FAMILIES:
            raise PolicyError(
                f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}"
            )
        self._derive("num_key_value_heads", lambda: self.num_attention_heads)
        for name, limit in _LIMITS.items():
            if name == "head_dim":  # derived from numbers that are checked first
                self._derive(name, self._default_head_dim)
            value = getattr(self, name)
            checks.check_number(name, value, low=1, high=limit, integer=True)
        checks.check_divides(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )
        checks.check_divides("head_dim", self.head_dim, "2 (for RoPE)", 2)
        checks.check_number("rms_norm_eps", self.rms_norm_eps, low=0.0, high=1.0)
        checks.check_number("initializer_range", self.initializer_range, low=0, high=10)
        for name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
            checks.check_bool(name, getattr(self, name))
        for name in (
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ):
            if (value := getattr(self, name)) is not None:
                checks.check_number(name, value, low=0.0, high=1e9, open_low=True)
        self._derive("hidden_act", lambda: self.traits.hf_defaults["hidden_act"])
        if self.hidden_act not in ACTIVATIONS:
            raise PolicyError(
                f"hidden_act must be one of {', '.join(ACTIVATIONS)}, "
                f"got {self.hidden_act!r}"
            )
        self._check_bias()
        self._check_layers()
        self._check_token_ids()

    def _derive(self, name: str, default: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, default())

    def _default_head_dim(self) -> int:
        checks.check_divides(
            "hidden_size (head_dim is not given)",
            self.hidden_size,
            "num_attention_heads",
            self.num_attention_heads,
        )
        return self.hidden_size // self.num_attention_heads

    def _check_bias(self) -> None:
        if self.attention_bias and not self.traits.takes_attention_bias:
            raise PolicyError(f"family {self.family} has no attention_bias switch")
        if self.mlp_bias and not self.traits.takes_mlp_bias:
            raise PolicyError(f"family {self.family} has no mlp_bias switch")

    def _check_layers(self) -> None:
        if self.sliding_window is not None:
            checks.check_number(
                "sliding_window",
                self.sliding_window,
                low=1,
                high=2**31 - 1,
                integer=True,
            )
        self._derive("layer_types", self._default_layer_types)
        object.__setattr__(self, "layer_types", tuple(self.layer_types))
        if len(self.layer_types) != self.num_hidden_layers:
            raise PolicyError(
                f"layer_types must have num_hidden_layers = {self.num_hidden_layers} "
                f"entries, got {len(self.layer_types)}"
            )
        for kind in self.layer_types:
            if kind not in (FULL, SLIDING):
                raise PolicyError(
                    f"layer_types may hold {FULL} and {SLIDING}, got {kind!r}"
                )
        if SLIDING in self.layer_types and self.sliding_window is None:
            raise PolicyError(
                f"layer_types has {SLIDING}, but sliding_window is not set"
            )

    def _default_layer_types(self) -> tuple[str, ...]:
        if self.traits.sliding == "pattern":
            return tuple(
                FULL if (i + 1) % 6 == 0 else SLIDING
                for i in range(self.num_hidden_layers)
            )
        everywhere = self.traits.sliding == "all" and self.sliding_window is not None
        return (SLIDING if everywhere else FULL,) * self.num_hidden_layers

    def _check_token_ids(self) -> None:
        object.__setattr__(self, "eos_token_ids", tuple(self.eos_token_ids))
        ids = {"bos_token_id": self.bos_token_id, "pad_token_id": self.pad_token_id}
        for name, value in ids.items():
            if value is not None:
                checks.check_number(name, value, low=-1, high=2**31 - 1, integer=True)
        for value in self.eos_token_ids:
            checks.check_number(
                "eos_token_ids", value, low=-1, high=2**31 - 1, integer=True
            )

    @property
    def traits(self) -> Family:
        """The family's properties."""
        return FAMILIES[self.family]

    @property
    def qkv_bias(self) -> bool:
        return self.traits.qkv_bias or self.attention_bias

    @property
    def score_scale(self) -> float:
        """The factor of attention scores."""
        return 1.0 / math.sqrt(self.query_pre_attn_scalar or self.head_dim)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The distinct RoPE tables; `rope_index` says which a layer uses."""
        if self.rope_local is None or self.rope_local == self.rope:
            return (self.rope,)
        return (self.rope, self.rope_local)

    @property
    def rope_index(self) -> tuple[int, ...]:
        """For each layer, its entry of `ropes`."""
        local = len(self.ropes) - 1
        return tuple(local if kind == SLIDING else 0 for kind in self.layer_types)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """For each layer, how many keys a query sees; None: all."""
        return tuple(
            self.sliding_window if kind == SLIDING else None
            for kind in self.layer_types
        )

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "PolicyConfig":
        """From the contents of a Hugging Face config.json; see `hf_config`."""
        from gru_mem_jax.policy.hf_config import config_from_hf

        return config_from_hf(config)

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The contents of a config.json that transformers reads back as this."""
        from gru_mem_jax.policy.hf_config import config_to_hf

        return config_to_hf(self, dtype)
