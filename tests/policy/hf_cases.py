"""Small policies with odd shapes, as Hugging Face configurations: what parity is
tested on.

Groups of 1, 2 and 7 query heads; biases or none; head sizes that are not D / heads;
windows and original contexts far below the 100 tokens that are read.
"""

VOCAB = 97
LENGTH = 100

_SMALL = {"vocab_size": VOCAB, "intermediate_size": 72, "num_hidden_layers": 2}


def _case(model_type, hidden, heads, kv_heads, **more):
    return {
        "model_type": model_type,
        **_SMALL,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **more,
    }


_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"

CASES = {
    "qwen2_group7_tied": _case(
        "qwen2", 56, 14, 2, tie_word_embeddings=True, max_position_embeddings=32
    ),
    "qwen2_group1_yarn": _case(
        "qwen2",
        36,
        3,
        3,
        tie_word_embeddings=False,
        max_position_embeddings=128,
        rope_parameters=_YARN,
    ),
    "qwen2_upper_layers_slide": _case(
        "qwen2",
        40,
        4,
        2,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=1,
        rms_norm_eps=1e-5,
    ),
    "qwen3_wide_heads": _case("qwen3", 40, 4, 2, head_dim=16, tie_word_embeddings=True),
    "qwen3_bias_group7": _case("qwen3", 40, 7, 1, head_dim=10, attention_bias=True),
    "llama_llama3": _case(
        "llama",
        40,
        5,
        5,
        max_position_embeddings=256,
        rope_parameters=_LLAMA3,
        tie_word_embeddings=True,
    ),
    "llama_all_biases": _case(
        "llama",
        28,
        14,
        2,
        head_dim=8,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
    ),
    "mistral_window": _case("mistral", 40, 4, 2, head_dim=12, sliding_window=7),
    "mistral_no_window": _case("mistral", 40, 4, 4, sliding_window=None),
    "gemma3": _case(
        "gemma3_text",
        40,
        4,
        2,
        num_hidden_layers=3,
        head_dim=12,
        layer_types=[_LOCAL, _GLOBAL, _LOCAL],
        sliding_window=7,
        query_pre_attn_scalar=20,
        final_logit_softcapping=5.0,
        rope_parameters=_GEMMA_ROPES,
    ),
    "gemma3_group7_untied": _case(
        "gemma3_text",
        56,
        7,
        1,
        head_dim=8,
        layer_types=[_LOCAL, _GLOBAL],
        sliding_window=16,
        query_pre_attn_scalar=8,
        attention_bias=True,
        tie_word_embeddings=False,
        rope_parameters=_GEMMA_ROPES,
    ),
}
