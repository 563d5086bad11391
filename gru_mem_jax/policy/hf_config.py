"""Hugging Face config.json <-> PolicyConfig, as plain JSON and by our own table.

Nothing in the file is executed or looked up elsewhere: `auto_map` and the like are
ignored. Settings that would change the numbers and are not implemented are refused by
name.
"""

from collections.abc import Mapping
from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy import checks
from gru_mem_jax.policy.config import FULL, SLIDING, PolicyConfig
from gru_mem_jax.policy.families import FAMILIES, Family
from gru_mem_jax.policy.rope_config import SUPPORTED, RopeConfig

# Gemma 3 with its vision tower: its text decoder is loaded.
_WRAPPER = "Gemma3ForConditionalGeneration"
_WRAPPER_TYPE = "gemma3"
# Architectures of models saved without their head. Transformers goes by model_type, and
# loads them with a head.
_BASES = {
    "Qwen2Model": "Qwen2ForCausalLM",
    "Qwen3Model": "Qwen3ForCausalLM",
    "LlamaModel": "LlamaForCausalLM",
    "MistralModel": "MistralForCausalLM",
    "Gemma3TextModel": "Gemma3ForCausalLM",
    "Gemma3Model": _WRAPPER,
}

_SAME_NAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
)


def config_from_hf(config: Mapping[str, Any]) -> PolicyConfig:
    """The PolicyConfig that a config.json describes.

    Args:
      config: its contents, of either transformers 4 or 5.

    Returns:
      A validated PolicyConfig.

    Raises:
      PolicyError: unknown architecture, unsupported feature, impossible number.
    """
    if not isinstance(config, Mapping):
        raise PolicyError(f"expected a JSON object, got {type(config).__name__}")
    family = _family_of(config)
    if isinstance(config.get("text_config"), Mapping):
        # The head belongs to the outer model, which alone says whether it is tied; its
        # token ids have precedence.
        ids = ("eos_token_id", "bos_token_id", "pad_token_id")
        outer = {name: config[name] for name in ids if config.get(name) is not None}
        outer["tie_word_embeddings"] = config.get(
            "tie_word_embeddings", family.hf_defaults["tie_word_embeddings"]
        )
        config = {**config["text_config"], **outer}
    config = {**family.hf_defaults, **config}
    _refuse_unsupported(config)
    fields = {name: config[name] for name in _SAME_NAME if name in config}
    if family.takes_attention_bias:
        fields["attention_bias"] = config.get("attention_bias", False)
    if family.takes_mlp_bias:
        fields["mlp_bias"] = config.get("mlp_bias", False)
    act = config.get("hidden_activation") if family.post_norms else None
    act = act or config["hidden_act"]
    fields["hidden_act"] = "silu" if act == "swish" else act
    if family.name == "gemma3_text":
        for name in (
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ):
            fields[name] = config.get(name)
    rope, rope_local = _ropes(config, family)
    window, layer_types = _layers(config, family)
    return PolicyConfig(
        family=family.name,
        rope=rope,
        rope_local=rope_local,
        sliding_window=window,
        layer_types=layer_types,
        bos_token_id=config.get("bos_token_id"),
        eos_token_ids=_token_ids(config.get("eos_token_id")),
        pad_token_id=config.get("pad_token_id"),
        **fields,
    )


def config_to_hf(config: PolicyConfig, dtype: str = "float32") -> dict[str, Any]:
    """The config.json of an exported policy.

    RoPE is written in the form of transformers 5 (`rope_parameters`) and in that of
    transformers 4 (`rope_theta`, `rope_scaling`), which most other programs read.

    Args:
      config: the policy's.
      dtype: name of the weights' dtype.

    Returns:
      A JSON-able dict; `config_from_hf` gives `config` back.
    """
    family = config.traits
    out: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "dtype": dtype,
        "use_cache": True,
        "attention_dropout": 0.0,
    }
    out |= {name: getattr(config, name) for name in _SAME_NAME}
    if family.takes_attention_bias:
        out["attention_bias"] = config.attention_bias
    if family.takes_mlp_bias:
        out["mlp_bias"] = config.mlp_bias
    name = "hidden_activation" if family.name == "gemma3_text" else "hidden_act"
    out[name] = config.hidden_act
    out |= _ropes_to_hf(config)
    if family.sliding != "none":
        out["sliding_window"] = config.sliding_window
    if family.sliding in ("max_window_layers", "pattern"):
        out["layer_types"] = list(config.layer_types)
    if family.sliding == "max_window_layers":
        out["use_sliding_window"] = SLIDING in config.layer_types
        out["max_window_layers"] = _first(config.layer_types, SLIDING)
    if family.name == "gemma3_text":
        out["query_pre_attn_scalar"] = config.query_pre_attn_scalar or config.head_dim
        out["attn_logit_softcapping"] = config.attn_logit_softcapping
        out["final_logit_softcapping"] = config.final_logit_softcapping
        out["use_bidirectional_attention"] = False
    eos = config.eos_token_ids
    out["bos_token_id"] = config.bos_token_id
    out["eos_token_id"] = eos[0] if len(eos) == 1 else list(eos) or None
    out["pad_token_id"] = config.pad_token_id
    return out


def _family_of(config: Mapping[str, Any]) -> Family:
    """By `model_type` and `architectures`, which must agree where both are given."""
    known = {family.architecture: family for family in FAMILIES.values()}
    known[_WRAPPER] = FAMILIES["gemma3_text"]
    expected = f"expected one of {', '.join(known)}"
    names = config.get("architectures") or []
    model_type = config.get("model_type")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise PolicyError(f"architectures must be a list of strings; {expected}")
    names = [_BASES.get(name, name) for name in names]
    if len(names) > 1 or (names and names[0] not in known):
        raise PolicyError(f"unknown architecture {str(names)[:200]}: {expected}")
    if names:
        family = known[names[0]]
        types = (_WRAPPER_TYPE,) if names[0] == _WRAPPER else (family.name,)
        if model_type is not None and model_type not in types:
            raise PolicyError(
                f"model_type {str(model_type)[:60]!r} does not go with architecture "
                f"{names[0]}: expected {types[0]!r}"
            )
        return family
    if model_type == _WRAPPER_TYPE:
        return FAMILIES["gemma3_text"]
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise PolicyError(
        f"unknown model_type {str(model_type)[:60]!r} and no architectures: {expected}"
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised:
        method = "unknown"
        if isinstance(quantised, Mapping):
            method = str(quantised.get("quant_method", method))[:60]
        raise PolicyError(
            f"quantised weights ({method}) are not supported: "
            "use the checkpoint in float32, float16 or bfloat16"
        )
    if config.get("use_bidirectional_attention"):
        raise PolicyError(
            "use_bidirectional_attention is not supported: a policy reads left to right"
        )
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise PolicyError(
            "partial_rotary_factor is not supported: expected 1, got "
            f"{str(config['partial_rotary_factor'])[:60]}"
        )


def _ropes(
    config: Mapping[str, Any], family: Family
) -> tuple[RopeConfig, RopeConfig | None]:
    """Frequencies of full-attention and of sliding layers (None: the same)."""
    parameters = config.get("rope_parameters")
    scaling = config.get("rope_scaling")
    for name, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if value is not None and not isinstance(value, Mapping):
            raise PolicyError(f"{name} must be a JSON object, got {str(value)[:60]}")
    if family.name != "gemma3_text":
        # As in transformers 5, rope_scaling has precedence.
        return _rope(scaling or parameters or {}, config, config["rope_theta"]), None
    kinds = {}
    thetas = {FULL: config["rope_theta"], SLIDING: config["rope_local_base_freq"]}
    if parameters and not set(parameters) <= set(thetas):
        raise PolicyError(
            f"rope_parameters must hold {FULL} and {SLIDING}, got "
            f"{str(sorted(parameters))[:100]}"
        )
    for kind, theta in thetas.items():
        entry = (parameters or {}).get(kind) or {}
        if not isinstance(entry, Mapping):
            raise PolicyError(f"rope_parameters.{kind} must be a JSON object")
        if kind == FULL and scaling:
            entry = {**entry, **scaling}
        kinds[kind] = _rope(entry, config, theta)
    return kinds[FULL], kinds[SLIDING]


def _rope(
    entry: Mapping[str, Any], config: Mapping[str, Any], theta: Any
) -> RopeConfig:
    kind = entry.get("rope_type", entry.get("type", "default"))
    if kind not in SUPPORTED or "mrope_section" in entry:
        raise PolicyError(
            f"rope type {str(kind)[:60]!r} is not supported: expected one of "
            f"{', '.join(SUPPORTED)}"
        )
    if entry.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise PolicyError("partial_rotary_factor is not supported: expected 1")
    fields: dict[str, Any] = {"type": kind, "theta": entry.get("rope_theta", theta)}
    if kind == "default":
        return RopeConfig(**fields)
    window = config.get("original_max_position_embeddings")
    if window is None:
        window = entry.get("original_max_position_embeddings")
    if window is None:
        window = config["max_position_embeddings"]
    if kind == "linear":
        return RopeConfig(factor=_needed(entry, "factor", kind), **fields)
    fields["original_max_position_embeddings"] = window
    if kind == "llama3":
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            fields[name] = _needed(entry, name, kind)
        return RopeConfig(**fields)
    if entry.get("factor") is None:
        checks.check_number("max_position_embeddings", window, low=1, integer=True)
        limit = config["max_position_embeddings"]
        checks.check_number("max_position_embeddings", limit, low=1, integer=True)
        fields["factor"] = limit / window
    for name in (
        "factor",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
    ):
        if entry.get(name) is not None:
            fields[name] = entry[name]
    truncate = entry.get("truncate", True)
    checks.check_bool("rope truncate", truncate)
    return RopeConfig(truncate=truncate, **fields)


def _needed(entry: Mapping[str, Any], name: str, kind: str) -> Any:
    if entry.get(name) is None:
        raise PolicyError(f"rope type {kind!r} needs {name!r}, which is missing")
    return entry[name]


def _ropes_to_hf(config: PolicyConfig) -> dict[str, Any]:
    full = _rope_to_hf(config.rope)
    theta = full.pop("rope_theta")
    scaling = full if config.rope.type != "default" else None
    legacy = {"rope_theta": theta, "rope_scaling": scaling}
    if config.family != "gemma3_text":
        return {**legacy, "rope_parameters": {"rope_theta": theta, **full}}
    local = _rope_to_hf(config.rope_local or config.rope)
    kinds = {FULL: {"rope_theta": theta, **full}, SLIDING: local}
    local_theta = {"rope_local_base_freq": local["rope_theta"]}
    return {**legacy, **local_theta, "rope_parameters": kinds}


def _rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    out: dict[str, Any] = {"rope_type": rope.type, "rope_theta": rope.theta}
    names = {
        "default": (),
        "linear": ("factor",),
        "llama3": (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
        "yarn": (
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "truncate",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
        ),
    }[rope.type]
    out |= {n: v for n in names if (v := getattr(rope, n)) is not None}
    return out


def _layers(
    config: Mapping[str, Any], family: Family
) -> tuple[int | None, tuple[str, ...] | None]:
    """The sliding window, and which layers have it (None: PolicyConfig's rule)."""
    depth = config["num_hidden_layers"]
    checks.check_number("num_hidden_layers", depth, low=1, high=1024, integer=True)
    if family.sliding == "none":
        return None, None
    window = config.get("sliding_window")
    if family.sliding == "all":
        return window, None
    given = config.get("layer_types")
    if given is not None and not isinstance(given, list):
        raise PolicyError(f"layer_types must be a list, got {type(given).__name__}")
    if family.sliding == "max_window_layers":
        slides = config.get("use_sliding_window", False)
        checks.check_bool("use_sliding_window", slides)
        window = window if slides else None
        first = config["max_window_layers"]
        if window is not None and given is None:
            checks.check_number("max_window_layers", first, low=0, integer=True)
            kinds = (SLIDING if i >= first else FULL for i in range(depth))
            return window, tuple(kinds)
        return window, None if given is None else tuple(map(str, given))
    if given is not None:
        return window, tuple(map(str, given))
    pattern = config.get("sliding_window_pattern", 6)
    checks.check_number("sliding_window_pattern", pattern, low=1, integer=True)
    kinds = (SLIDING if (i + 1) % pattern else FULL for i in range(depth))
    return window, tuple(kinds)


def _first(kinds: tuple[str, ...], kind: str) -> int:
    return kinds.index(kind) if kind in kinds else len(kinds)


def _token_ids(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
