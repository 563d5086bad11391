"""Shapes of policies: what is derived, what is refused, config.json both ways."""

import dataclasses
import json
import math

import golden_weights
import hf_cases
import pytest

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.families import FAMILIES
from gru_mem_jax.policy.hf_names import tensor_table
from gru_mem_jax.policy.rope_config import RopeConfig

SMALL = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def small(**changes) -> PolicyConfig:
    return PolicyConfig(**{**SMALL, **changes})


def test_what_is_left_out_is_derived():
    config = small()
    assert (config.num_key_value_heads, config.head_dim) == (4, 6)
    assert config.layer_types == ("full_attention",) * 2
    assert config.hidden_act == "silu"
    assert config.qkv_bias  # Qwen2's
    assert config.score_scale == pytest.approx(6**-0.5)
    assert config.windows == (None, None)


def weights_of(config: PolicyConfig) -> int:
    """Numbers in all tensors of a checkpoint."""
    return sum(math.prod(spec.shape) for spec in tensor_table(config).values())


def test_the_number_of_parameters_of_published_models():
    """Qwen2.5-0.5B and -7B, Qwen3-0.6B, Llama 3.2 1B, Gemma 3 1B, by their cards."""
    half = PolicyConfig(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
    )
    assert weights_of(half) == 494_032_768
    seven = PolicyConfig(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    assert weights_of(seven) == 7_615_616_512
    llama = PolicyConfig(
        family="llama",
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    assert weights_of(llama) == 1_235_814_400
    gemma = PolicyConfig(
        family="gemma3_text",
        vocab_size=262144,
        hidden_size=1152,
        intermediate_size=6912,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
    )
    assert weights_of(gemma) == 999_885_952


def test_gemma_slides_in_five_layers_of_six_and_has_two_ropes():
    config = small(
        family="gemma3_text",
        num_hidden_layers=7,
        sliding_window=5,
        rope=RopeConfig(theta=1e6, type="linear", factor=8.0),
        rope_local=RopeConfig(theta=1e4),
    )
    assert config.windows == (5, 5, 5, 5, 5, None, 5)
    assert config.rope_index == (1, 1, 1, 1, 1, 0, 1)
    assert [rope.theta for rope in config.ropes] == [1e6, 1e4]


HUGE = 10**5000
BAD_NUMBERS = [0, -1, 1.5, 8.0, "8", True, None, math.nan, math.inf, 2**40, HUGE, [8]]


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda v: str(type(v).__name__))
@pytest.mark.parametrize("name", SMALL)
def test_a_size_must_be_a_whole_number_within_reason(name, value):
    with pytest.raises(PolicyError, match=name) as caught:
        small(**{name: value})
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "gpt2"}, "family must be one of qwen2.*got 'gpt2'"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads, got 4 and 3"),
        ({"head_dim": 5}, "multiple of 2"),
        ({"hidden_size": 26}, "head_dim is not given.*got 26 and 4"),
        ({"num_hidden_layers": 1025}, "num_hidden_layers must be at most 1024"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps must be finite"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
        ({"hidden_act": "relu"}, "hidden_act must be one of silu"),
        ({"attention_bias": True}, "qwen2 has no attention_bias"),
        ({"family": "qwen3", "mlp_bias": True}, "qwen3 has no mlp_bias"),
        ({"layer_types": ("full_attention",)}, "= 2 entries, got 1"),
        ({"layer_types": ("full_attention", "odd")}, "got 'odd'"),
        ({"layer_types": ("sliding_attention",) * 2}, "sliding_window is not set"),
        ({"sliding_window": 0}, "sliding_window must be at least 1"),
        ({"final_logit_softcapping": 0.0}, "must be above 0"),
        ({"query_pre_attn_scalar": -1}, "query_pre_attn_scalar must be above 0"),
        ({"bos_token_id": "1"}, "bos_token_id must be an integer"),
        ({"eos_token_ids": (1, 2.0)}, "eos_token_ids must be an integer"),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(PolicyError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "dynamic"}, "'dynamic' is not supported"),
        ({"theta": 1.0}, "rope_theta must be above 1"),
        ({"theta": "1e4"}, "rope_theta must be a number"),
        ({"type": "linear", "factor": 0.5}, "rope factor must be at least 1"),
        ({"type": "yarn", "factor": 2.0}, "original_max_position_embeddings"),
        (
            {
                "type": "llama3",
                "original_max_position_embeddings": 8,
                "low_freq_factor": 4.0,
            },
            "low_freq_factor must be below high_freq_factor, got 4.0 and 4.0",
        ),
    ],
)
def test_impossible_rope_settings_are_refused(fields, message):
    with pytest.raises(PolicyError, match=message):
        RopeConfig(**fields)


@pytest.mark.parametrize("case", hf_cases.CASES)
def test_config_json_of_transformers_comes_back_the_same(case):
    """From what transformers wrote, to what we write, and back."""
    record = json.loads((golden_weights.GOLDENS / f"{case}.json").read_text())
    config = PolicyConfig.from_hf(record["config"])
    written = json.loads(json.dumps(config.to_hf("bfloat16")))
    assert PolicyConfig.from_hf(written) == config
    assert written["dtype"] == "bfloat16"
    without_new_form = {k: v for k, v in written.items() if k != "rope_parameters"}
    assert PolicyConfig.from_hf(without_new_form) == config


def test_a_published_config_of_transformers_4_is_read():
    """Llama 3.1 8B's config.json, in the words of its time."""
    config = PolicyConfig.from_hf(
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 128000,
            "eos_token_id": [128001, 128008, 128009],
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 128256,
        }
    )
    assert weights_of(config) == 8_030_261_248
    assert config.rope == RopeConfig(
        theta=500000.0,
        type="llama3",
        factor=8.0,
        original_max_position_embeddings=8192,
    )
    assert config.eos_token_ids == (128001, 128008, 128009)


def test_gemma_with_its_vision_tower_gives_its_text_decoder():
    """Gemma 3 4B's config.json leaves most of the text decoder's numbers out."""
    config = PolicyConfig.from_hf(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "eos_token_id": [1, 106],
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "vision_config": {"hidden_size": 1152},
        }
    )
    assert config.family == "gemma3_text"
    assert weights_of(config) == 3_880_263_168
    assert config.rope == RopeConfig(theta=1e6, type="linear", factor=8.0)
    assert config.rope_local == RopeConfig(theta=1e4)
    assert config.windows[:6] == (1024,) * 5 + (None,)
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (1, 106)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family):
    """A config.json may leave out whatever equals the class's default."""
    configuration = pytest.importorskip("transformers").AutoConfig
    theirs = configuration.for_model(family).to_dict()
    theirs.pop("architectures", None)
    full = PolicyConfig.from_hf({**theirs, "model_type": family})
    bare = PolicyConfig.from_hf({"model_type": family})
    assert full == bare


QWEN2 = {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "unknown architecture.*Qwen2ForCaus"),
        ({"architectures": "Qwen2ForCausalLM"}, "architectures must be a list"),
        ({"architectures": ["LlamaForCausalLM"]}, "'qwen2' does not go with.*'llama'"),
        ({"model_type": "qwen2_moe"}, "unknown model_type 'qwen2_moe'"),
        ({"model_type": None}, "unknown model_type 'None'"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"quantised weights \(gptq\)",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "'mrope'"),
        ({"rope_scaling": {"type": "linear"}}, "needs 'factor'"),
        ({"rope_scaling": [1]}, "rope_scaling must be a JSON object"),
        ({"rope_parameters": "x"}, "rope_parameters must be a JSON object"),
        ({"rope_theta": None}, "rope_theta must be a number"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": "yes"}, "use_sliding_window must be true or false"),
        ({"layer_types": "full"}, "layer_types must be a list"),
        ({"layer_types": [["full_attention"]] * 2}, "layer_types may hold"),
        ({"eos_token_id": "2"}, "eos_token_ids must be an integer"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(PolicyError, match=message):
        PolicyConfig.from_hf({**QWEN2, **changes})


def test_keys_that_would_run_code_are_not_looked_at():
    plain = PolicyConfig.from_hf(QWEN2)
    hostile = {
        "auto_map": {"AutoModelForCausalLM": "evil.py--Evil"},
        "trust_remote_code": True,
        "model_file": "/etc/passwd",
        "_attn_implementation_internal": "evil/kernel",
        "_name_or_path": "../../evil",
    }
    assert PolicyConfig.from_hf({**QWEN2, **hostile}) == plain


@pytest.mark.parametrize("value", [None, [], "qwen2", 7])
def test_a_config_must_be_an_object(value):
    with pytest.raises(PolicyError, match="expected a JSON object"):
        PolicyConfig.from_hf(value)


def test_a_config_can_be_a_static_argument():
    assert hash(small()) == hash(small())
    assert dataclasses.replace(small(), hidden_size=48).head_dim == 6
