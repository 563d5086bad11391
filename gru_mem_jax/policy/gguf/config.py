"""The metadata of a GGUF file -> PolicyConfig.

Settings that would change the numbers and are not implemented are refused by name, as
in config.json. What the files leave out is as in llama.cpp.
"""

from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.config import FULL, SLIDING, PolicyConfig
from gru_mem_jax.policy.gguf.header import GGUFHeader
from gru_mem_jax.policy.gguf.rope import llama3_rope
from gru_mem_jax.policy.gguf.weights import ROPE_FREQUENCIES, dequantised
from gru_mem_jax.policy.rope_config import RopeConfig

# GGUF calls most Mistral models "llama": without a window the two are the same network.
ARCHITECTURES = {
    "llama": "llama",
    "mistral3": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3_text",
}
# Settings that change the numbers, below the architecture's name.
_UNSUPPORTED = (
    "expert_count",
    "attention.clamp_kqv",
    "attention.temperature_scale",
    "attention.layer_norm_epsilon",
    "rope.dimension_sections",
    "rope.scaling.yarn_ext_factor",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "use_parallel_residual",
)
_LAYERS_27B = 62
_MISSING = object()


class Metadata:
    """Typed access to metadata; errors name file, key and value."""

    def __init__(self, header: GGUFHeader):
        self.path, self.values = header.path, header.metadata

    def get(self, key: str, kind: type, default: Any = _MISSING) -> Any:
        """The value of a key, of type `kind`; a whole number is also a float.

        Raises:
          PolicyError: it is missing and has no default, or of another type.
        """
        value = self.values.get(key)
        if value is None:
            if default is _MISSING:
                raise PolicyError(f"{self.path}: metadata key {key!r} is missing")
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise PolicyError(
                f"{self.path}: metadata key {key!r}: expected {_TYPES[kind]}, got "
                f"{str(value)[:60]}"
            )
        return value

    def same(self, key: str, default: Any = _MISSING) -> Any:
        """A whole number, or an array with the same one for each layer."""
        value = self.values.get(key)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        if isinstance(value, list):
            raise PolicyError(
                f"{self.path}: metadata key {key!r} differs from layer to layer, which "
                "is not supported"
            )
        return self.get(key, int, default) if type(value) is not int else value


_TYPES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "an array",
}


def read_config(header: GGUFHeader) -> PolicyConfig:
    """The configuration of the policy in a file.

    Raises:
      PolicyError: unknown architecture, unsupported feature, impossible number, a part
        of a split file.
    """
    meta = Metadata(header)
    parts = meta.get("split.count", int, 1)
    if parts > 1:
        raise PolicyError(
            f"{header.path}: one of {parts} parts: join them first (llama-gguf-split "
            "--merge)"
        )
    architecture = meta.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise PolicyError(
            f"{header.path}: architecture {architecture[:60]!r} is not supported: "
            f"expected one of {', '.join(ARCHITECTURES)}"
        )
    _refuse_unsupported(meta, architecture)
    try:
        return PolicyConfig(**_fields(header, meta, architecture))
    except PolicyError as error:
        known = str(error).startswith(str(header.path))
        raise PolicyError(
            str(error) if known else f"{header.path}: by its metadata, {error}"
        ) from None


def _refuse_unsupported(meta: Metadata, architecture: str) -> None:
    for name in _UNSUPPORTED:
        key = f"{architecture}.{name}"
        if meta.values.get(key) not in (None, 0, 1.0):
            raise PolicyError(
                f"{meta.path}: metadata key {key!r} is {str(meta.values[key])[:60]}, "
                "which is not supported"
            )
    if not meta.get(f"{architecture}.attention.causal", bool, True):
        raise PolicyError(f"{meta.path}: not a model that reads left to right")


def _fields(header: GGUFHeader, meta: Metadata, architecture: str) -> dict[str, Any]:
    prefix = f"{architecture}."
    family = ARCHITECTURES[architecture]
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise PolicyError(f"{meta.path}: tensor 'token_embd.weight' is missing")
    width = meta.get(f"{prefix}embedding_length", int)
    heads = meta.same(f"{prefix}attention.head_count")
    fields = {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "intermediate_size": meta.same(f"{prefix}feed_forward_length"),
        "num_hidden_layers": meta.get(f"{prefix}block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.same(f"{prefix}attention.head_count_kv", heads),
        "max_position_embeddings": meta.get(f"{prefix}context_length", int),
        "rms_norm_eps": _rounded(
            meta.get(f"{prefix}attention.layer_norm_rms_epsilon", float)
        ),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    head_dim = _head_dim(meta, prefix, width, heads)
    fields["head_dim"] = head_dim
    window = meta.get(f"{prefix}attention.sliding_window", int, None) or None
    if architecture == "llama" and window is not None:
        family = "mistral"  # Mistral's first: a llama with a window
    fields["family"] = family
    if family in ("llama", "qwen3", "gemma3_text"):
        fields["attention_bias"] = "blk.0.attn_output.bias" in header.tensors
    if family == "llama":
        fields["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    fields["rope"] = _rope(header, meta, prefix, head_dim)
    if family in ("qwen2", "qwen3") and window is not None:
        raise PolicyError(
            f"{meta.path}: metadata key '{prefix}attention.sliding_window' is "
            f"{window}, which is not supported: the file does not say in which layers"
        )
    fields["sliding_window"] = window
    if family == "gemma3_text":
        fields |= _gemma(meta, prefix, fields)
    fields |= token_ids(header)
    return fields


def token_ids(header: GGUFHeader) -> dict[str, Any]:
    """The ids of beginning, end and padding, as PolicyConfig names them."""
    meta = Metadata(header)
    start = "tokenizer.ggml."
    # llama.cpp's for SentencePiece.
    piece = meta.get(f"{start}model", str, "") == "llama"
    ends = [meta.get(f"{start}eos_token_id", int, 2 if piece else None)]
    ends += [meta.get(f"{start}{name}_token_id", int, None) for name in ("eot", "eom")]
    return {
        "bos_token_id": meta.get(f"{start}bos_token_id", int, 1 if piece else None),
        "eos_token_ids": tuple(dict.fromkeys(i for i in ends if i is not None)),
        "pad_token_id": meta.get(f"{start}padding_token_id", int, None),
    }


def _head_dim(meta: Metadata, prefix: str, width: int, heads: int) -> int:
    rotated = meta.get(f"{prefix}rope.dimension_count", int, None)
    given = meta.get(f"{prefix}attention.key_length", int, rotated)
    if given is None:
        if type(heads) is not int or heads < 1 or width % heads:
            raise PolicyError(
                f"{meta.path}: {heads} heads do not divide the width {width}, and "
                f"there is no metadata key '{prefix}attention.key_length'"
            )
        given = width // heads
    value = meta.get(f"{prefix}attention.value_length", int, given)
    if value != given:
        raise PolicyError(
            f"{meta.path}: values of {value} beside keys of {given} are not supported"
        )
    if rotated not in (None, given):
        raise PolicyError(
            f"{meta.path}: RoPE on {rotated} of {given} dimensions is not supported"
        )
    return given


def _gemma(meta: Metadata, prefix: str, fields: dict[str, Any]) -> dict[str, Any]:
    depth, head_dim = fields["num_hidden_layers"], fields["head_dim"]
    local = meta.get(f"{prefix}rope.freq_base_swa", float, 10_000.0)
    scale = meta.get(f"{prefix}attention.scale", float, 0.0)
    scalar: float = head_dim
    if scale > 0:
        scalar = 1 / scale**2
    elif depth == _LAYERS_27B:  # llama.cpp goes by it too
        scalar = fields["hidden_size"] / fields["num_attention_heads"]
    more = {"query_pre_attn_scalar": scalar, "rope_local": RopeConfig(theta=local)}
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        more[name] = meta.get(f"{prefix}{name}", float, None) or None
    key = f"{prefix}attention.sliding_window_pattern"
    pattern = meta.values.get(key, 6)
    if isinstance(pattern, list):
        kinds = tuple(SLIDING if slides else FULL for slides in pattern)
    elif type(pattern) is int and pattern >= 1 and depth <= 1024:
        kinds = tuple(SLIDING if (i + 1) % pattern else FULL for i in range(depth))
    else:
        raise PolicyError(
            f"{meta.path}: metadata key {key!r}: expected one whole number or a flag "
            f"for each layer, got {str(pattern)[:60]}"
        )
    return {**more, "layer_types": kinds}


def _rope(header: GGUFHeader, meta: Metadata, prefix: str, head_dim: int) -> RopeConfig:
    theta = meta.get(f"{prefix}rope.freq_base", float, 10_000.0)
    scaling = f"{prefix}rope.scaling."
    kind = meta.get(f"{scaling}type", str, "none")
    original = meta.get(f"{scaling}original_context_length", int, None)
    factor = meta.get(f"{scaling}factor", float, None)
    if ROPE_FREQUENCIES in header.tensors:
        if kind not in ("none", "linear") or factor not in (None, 1.0, 0.0):
            raise PolicyError(
                f"{meta.path}: RoPE is scaled by {kind!r} and by {ROPE_FREQUENCIES}: "
                "both together are not supported"
            )
        stored = header.tensors[ROPE_FREQUENCIES]
        if stored.shape != (head_dim // 2,) or head_dim % 2:
            raise PolicyError(
                f"{meta.path}: tensor {ROPE_FREQUENCIES!r}: expected shape "
                f"({head_dim // 2},), got {stored.shape}"
            )
        factors = dequantised(header, ROPE_FREQUENCIES)
        rope = llama3_rope(factors, theta, original)
        if rope is None:
            raise PolicyError(
                f"{meta.path}: {ROPE_FREQUENCIES} holds frequencies that are not those "
                "of Llama 3's scaling, which alone is supported"
            )
        return rope
    if kind == "none" or (kind == "linear" and factor is None):
        factor = meta.get(f"{prefix}rope.scale_linear", float, None)  # of old files
        kind = "none" if factor in (None, 0.0, 1.0) else "linear"
    if kind == "none":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, type="linear", factor=factor)
    if kind != "yarn":
        raise PolicyError(
            f"{meta.path}: RoPE scaling {kind[:60]!r} is not supported: expected none, "
            "linear or yarn"
        )
    more: dict[str, Any] = {}
    for name in ("beta_fast", "beta_slow"):
        if (value := meta.get(f"{scaling}yarn_{name}", float, None)) is not None:
            more[name] = value
    neutral = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_log_multiplier": 0.0}
    for name, value in neutral.items():
        if meta.get(f"{scaling}{name}", float, value) != value:
            raise PolicyError(
                f"{meta.path}: metadata key '{scaling}{name}' is not supported"
            )
    if factor is None:
        raise PolicyError(f"{meta.path}: metadata key '{scaling}factor' is missing")
    return RopeConfig(
        theta=theta,
        type="yarn",
        factor=factor,
        original_max_position_embeddings=original,
        **more,
    )


def _rounded(value: float) -> float:
    """The decimal that a float32 was written from: 1e-05, not 9.999999747e-06."""
    return float(f"{value:.7g}")
