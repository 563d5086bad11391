"""Hugging Face tensor names <-> our parameters: one table per family, no jax."""

import dataclasses

from gru_mem_jax.policy.config import PolicyConfig

# Prefixes of a decoder's names. In Gemma 3 with its vision tower the decoder is nested;
# two layouts exist. The last two are those of models saved without their head.
PREFIXES = (
    "model.",
    "language_model.model.",
    "model.language_model.",
    "",
    "language_model.",
)
HEADS = ("lm_head.weight", "language_model.lm_head.weight")

_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm"}
_NORMS_GEMMA = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attn_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "post_mlp_norm",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor of a checkpoint goes.

    Attributes:
      path: names that lead to the leaf of `params`.
      layer: index on the leaf's leading axis; None for a leaf without one.
      shape: in the file. A linear kernel is [out, in] there.
      transposed: the leaf is the transpose ([in, out]).
    """

    path: tuple[str, ...]
    layer: int | None
    shape: tuple[int, ...]
    transposed: bool = False


def tensor_table(
    config: PolicyConfig, prefix: str = "model.", head: str = HEADS[0]
) -> dict[str, TensorSpec]:
    """All tensors of a policy, by their name in the file.

    Args:
      config: the policy's.
      prefix: one of PREFIXES.
      head: one of HEADS.

    Returns:
      name -> TensorSpec, in the order of the layers.
    """
    width, vocab = config.hidden_size, config.vocab_size
    table = {
        f"{prefix}embed_tokens.weight": TensorSpec(
            ("ends", "embedding"), None, (vocab, width)
        )
    }
    for layer in range(config.num_hidden_layers):
        for name, (path, shape, transposed) in _layer_table(config).items():
            table[f"{prefix}layers.{layer}.{name}"] = TensorSpec(
                ("layers", *path), layer, shape, transposed
            )
    table[f"{prefix}norm.weight"] = TensorSpec(
        ("ends", "final_norm", "scale"), None, (width,)
    )
    if not config.tie_word_embeddings:
        table[head] = TensorSpec(
            ("ends", "head", "kernel"), None, (vocab, width), transposed=True
        )
    return table


def _layer_table(
    config: PolicyConfig,
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...], bool]]:
    width, ffw = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    table = {}

    def linear(name, path, size_in, size_out, bias):
        table[f"{name}.weight"] = ((*path, "kernel"), (size_out, size_in), True)
        if bias:
            table[f"{name}.bias"] = ((*path, "bias"), (size_out,), False)

    norms = _NORMS_GEMMA if config.traits.post_norms else _NORMS
    for name, ours in norms.items():
        table[f"{name}.weight"] = ((ours, "scale"), (width,), False)
    for name, size in (("q", heads), ("k", keys), ("v", keys)):
        path = ("attn", name)
        linear(f"self_attn.{name}_proj", path, width, size, config.qkv_bias)
    linear("self_attn.o_proj", ("attn", "o"), heads, width, config.attention_bias)
    if config.traits.qk_norm:
        for name in ("q_norm", "k_norm"):
            path = ("attn", name, "scale")
            table[f"self_attn.{name}.weight"] = (path, (config.head_dim,), False)
    for name in ("gate", "up"):
        linear(f"mlp.{name}_proj", ("mlp", name), width, ffw, config.mlp_bias)
    linear("mlp.down_proj", ("mlp", "down"), ffw, width, config.mlp_bias)
    return table


def is_ignored(name: str, config: PolicyConfig) -> bool:
    """Whether a tensor that is not in the table is ignored rather than refused.

    Ignored are rotary frequencies, which follow from the configuration, and Gemma 3's
    vision tower. Any other tensor means that the checkpoint is of another model, except
    the head of a tied one.
    """
    if name.endswith("rotary_emb.inv_freq"):
        return True
    vision = ("vision_tower.", "multi_modal_projector.")
    vision += tuple(f"model.{v}" for v in vision)
    return config.family == "gemma3_text" and name.startswith(vision)
