"""Families with byte-level tokenizers: Qwen, Llama 3, DeepSeek-R1-Distill, SmolLM2."""

import dataclasses
import functools

import hub_parts as parts
import hub_templates as templates
import hub_tokenizers as hub
from hub_parts import Layout

_QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"),
    *("<|object_ref_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_QWEN_PLAIN = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)


def _qwen(model_type, architecture, template, plain=(), **changes) -> Layout:
    tokenizer = hub.byte_level(
        [*hub.special(*_QWEN_SPECIAL), *hub.plain(*_QWEN_PLAIN, *plain)],
        hub.QWEN_SPLIT,
        normalizer={"type": "NFC"},
        continuing_subword_prefix="",
        end_of_word_suffix="",
    )
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        "additional_special_tokens": list(_QWEN_SPECIAL[1:]),
        "bos_token": None,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    stops = ["<|im_end|>", "<|endoftext|>"]
    ids = hub.ids(tokenizer)
    files = {
        "tokenizer_config.json": config,
        "generation_config.json": parts.generation(
            tokenizer,
            stops,
            bos_token_id=ids["<|endoftext|>"],
            pad_token_id=ids["<|endoftext|>"],
            do_sample=True,
            temperature=0.7,
            top_k=20,
            top_p=0.8,
            transformers_version="4.51.0",
        ),
        "config.json": parts.config(
            model_type,
            architecture,
            tokenizer,
            bos="<|endoftext|>",
            eos="<|im_end|>",
            sliding_window=4096,
            use_sliding_window=False,
            max_window_layers=2,
            **changes,
        ),
        # Beside tokenizer.json nothing reads these two.
        "vocab.json": tokenizer["model"]["vocab"],
        "merges.txt": "\n".join(" ".join(m) for m in tokenizer["model"]["merges"]),
    }
    return Layout(tokenizer=tokenizer, files=files, stops=tuple(stops))


def _qwen_25() -> Layout:
    return _qwen(
        "qwen2", "Qwen2ForCausalLM", templates.QWEN_25, tie_word_embeddings=True
    )


_QWEN_3_PLAIN = ("<tool_response>", "</tool_response>", "<think>", "</think>")


def _qwen_3(template: str = templates.QWEN_3, opened: str = "") -> Layout:
    made = _qwen(
        "qwen3", "Qwen3ForCausalLM", template, _QWEN_3_PLAIN, attention_bias=False
    )
    return dataclasses.replace(made, opened=opened)


def _llama_3() -> Layout:
    special = (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"),
        *("<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_2|>"),
    )
    tokenizer = hub.byte_level(
        hub.special(*special), hub.LLAMA_SPLIT, ignore_merges=True
    )
    tokenizer["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": False,
                "use_regex": True,
            },
            parts.bos_first(tokenizer, "<|begin_of_text|>"),
        ],
    }
    stops = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    config = {
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        "bos_token": "<|begin_of_text|>",
        "chat_template": templates.LLAMA_3,
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    files = {
        "tokenizer_config.json": config,
        "special_tokens_map.json": {
            "bos_token": hub.role("<|begin_of_text|>"),
            "eos_token": hub.role("<|eot_id|>"),
        },
        "generation_config.json": parts.generation(
            tokenizer,
            stops,
            bos_token_id=hub.ids(tokenizer)["<|begin_of_text|>"],
            do_sample=True,
            temperature=0.6,
            top_p=0.9,
            transformers_version="4.42.3",
        ),
        "config.json": parts.config(
            "llama",
            "LlamaForCausalLM",
            tokenizer,
            bos="<|begin_of_text|>",
            eos=stops,
            attention_bias=False,
            mlp_bias=False,
            pretraining_tp=1,
            max_position_embeddings=131072,
            rope_scaling=scaling,
            tie_word_embeddings=True,
        ),
    }
    return Layout(tokenizer=tokenizer, files=files, stops=tuple(stops))


def _deepseek_r1(model_type, architecture, split, normalizer, **changes) -> Layout:
    tokenizer = hub.byte_level(
        [
            *hub.special("<｜end▁of▁sentence｜>"),
            *hub.plain("<｜User｜>", "<｜Assistant｜>"),
            *hub.special("<｜begin▁of▁sentence｜>"),
            *hub.plain("<|EOT|>", "<think>", "</think>"),
        ],
        split,
        normalizer=normalizer,
    )
    end = {"__type": "AddedToken", **hub.role("<｜end▁of▁sentence｜>", normalized=True)}
    start = end | {"content": "<｜begin▁of▁sentence｜>"}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": start,
        "chat_template": templates.DEEPSEEK_R1,
        "clean_up_tokenization_spaces": False,
        "eos_token": end,
        "legacy": True,
        "model_max_length": 16384,
        "pad_token": end,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": None,
    }
    files = {
        "tokenizer_config.json": config,
        "generation_config.json": parts.generation(
            tokenizer,
            ["<｜end▁of▁sentence｜>"],
            _from_model_config=True,
            bos_token_id=hub.ids(tokenizer)["<｜begin▁of▁sentence｜>"],
            do_sample=True,
            temperature=0.6,
            top_p=0.95,
            transformers_version="4.39.3",
        ),
        "config.json": parts.config(
            model_type,
            architecture,
            tokenizer,
            bos="<｜begin▁of▁sentence｜>",
            eos="<｜end▁of▁sentence｜>",
            **changes,
        ),
    }
    return Layout(
        tokenizer=tokenizer,
        files=files,
        stops=("<｜end▁of▁sentence｜>",),
        opened="<think>\n",
    )


def _smollm_2() -> Layout:
    first = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>")
    first += ("<filename>", "<issue_start>", "<jupyter_text>", "<empty_output>")
    tokenizer = hub.byte_level([], None, first=hub.special(*first))
    roles = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    extra = ["<|im_start|>", "<|im_end|>"]
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        "additional_special_tokens": extra,
        **roles,
        "chat_template": templates.SMOLLM_2,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": "GPT2Tokenizer",
        "vocab_size": len(hub.ids(tokenizer)),
    }
    files = {
        "tokenizer_config.json": config,
        "special_tokens_map.json": {
            "additional_special_tokens": extra,
            **{name: hub.role(content) for name, content in roles.items()},
        },
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "transformers_version": "4.42.3",
        },
        "vocab.json": tokenizer["model"]["vocab"],
        "merges.txt": "\n".join(" ".join(m) for m in tokenizer["model"]["merges"]),
        "config.json": parts.config(
            "llama",
            "LlamaForCausalLM",
            tokenizer,
            bos="<|im_start|>",
            eos="<|im_end|>",
            pad_token_id=2,
            rope_theta=100000,
            rope_scaling=None,
            tie_word_embeddings=True,
        ),
    }
    return Layout(tokenizer=tokenizer, files=files, stops=("<|im_end|>",))


MAKERS = {
    "qwen2_5_instruct": _qwen_25,
    "qwen3": _qwen_3,
    "qwen3_thinking": functools.partial(
        _qwen_3, templates.QWEN_3_THINKING, "<think>\n"
    ),
    "llama3_instruct": _llama_3,
    "deepseek_r1_distill_qwen": functools.partial(
        _deepseek_r1,
        "qwen2",
        "Qwen2ForCausalLM",
        hub.QWEN_SPLIT,
        {"type": "NFC"},
        use_sliding_window=False,
        sliding_window=4096,
        max_window_layers=2,
    ),
    "deepseek_r1_distill_llama": functools.partial(
        _deepseek_r1, "llama", "LlamaForCausalLM", hub.LLAMA_SPLIT, None
    ),
    "smollm2": _smollm_2,
}
