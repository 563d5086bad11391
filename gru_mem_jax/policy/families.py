"""The supported model families and their differences, as one table."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Properties of a family that its config.json does not state.

    Attributes:
      name: ours, and the `model_type` in config.json.
      architecture: the class that Hugging Face loads such a checkpoint with.
      qkv_bias: query, key and value always have a bias.
      takes_attention_bias: `attention_bias` in config.json is read.
      takes_mlp_bias: `mlp_bias` is read.
      qk_norm: RMSNorm of each head's query and key.
      norm_offset: added to the norms' weights (Gemma stores w for 1 + w).
      post_norms: a second norm after the attention and after the MLP.
      scaled_embedding: embeddings are multiplied by sqrt(hidden_size).
      sliding: "none", "all" layers, the layers from "max_window_layers" on where
        `use_sliding_window` says so, or "pattern" (five local, one global).
      hf_defaults: Hugging Face's defaults for keys that config.json leaves out.
    """

    name: str
    architecture: str
    qkv_bias: bool = False
    takes_attention_bias: bool = False
    takes_mlp_bias: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0
    post_norms: bool = False
    scaled_embedding: bool = False
    sliding: str = "none"
    hf_defaults: Mapping[str, Any]


def _family(hf_defaults: dict[str, Any], **facts: Any) -> Family:
    common = {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rope_theta": 10_000.0,
    }
    return Family(hf_defaults=MappingProxyType(common | hf_defaults), **facts)


_QWEN_DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            _family(
                _QWEN_DEFAULTS,
                name="qwen2",
                architecture="Qwen2ForCausalLM",
                qkv_bias=True,
                sliding="max_window_layers",
            ),
            _family(
                _QWEN_DEFAULTS | {"head_dim": 128},
                name="qwen3",
                architecture="Qwen3ForCausalLM",
                takes_attention_bias=True,
                qk_norm=True,
                sliding="max_window_layers",
            ),
            _family(
                {
                    "vocab_size": 32000,
                    "hidden_size": 4096,
                    "intermediate_size": 11008,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 32,
                    "max_position_embeddings": 2048,
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                },
                name="llama",
                architecture="LlamaForCausalLM",
                takes_attention_bias=True,
                takes_mlp_bias=True,
            ),
            _family(
                {
                    "vocab_size": 32000,
                    "hidden_size": 4096,
                    "intermediate_size": 14336,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 8,
                    "max_position_embeddings": 131072,
                    "sliding_window": 4096,
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                },
                name="mistral",
                architecture="MistralForCausalLM",
                sliding="all",
            ),
            _family(
                {
                    "vocab_size": 262208,
                    "hidden_size": 2304,
                    "intermediate_size": 9216,
                    "num_hidden_layers": 26,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 4,
                    "head_dim": 256,
                    "max_position_embeddings": 131072,
                    "tie_word_embeddings": True,
                    "hidden_act": "gelu_pytorch_tanh",
                    "sliding_window": 4096,
                    "query_pre_attn_scalar": 256,
                    "rope_theta": 1_000_000.0,
                    "rope_local_base_freq": 10_000.0,
                    "bos_token_id": 2,
                    "eos_token_id": 1,
                    "pad_token_id": 0,
                },
                name="gemma3_text",
                architecture="Gemma3ForCausalLM",
                takes_attention_bias=True,
                qk_norm=True,
                norm_offset=1.0,
                post_norms=True,
                scaled_embedding=True,
                sliding="pattern",
            ),
        )
    }
)
