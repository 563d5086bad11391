"""Families whose tokenizers come from sentencepiece, or did once: Mistral, Gemma."""

import hub_parts as parts
import hub_templates as templates
import hub_tokenizers as hub
from hub_parts import Layout


def _mistral_v1() -> Layout:
    tokenizer = hub.sentencepiece(
        hub.special("<unk>", "<s>", "</s>"),
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        decoder=hub.STRIPPING_DECODER,
    )
    tokenizer["post_processor"] = parts.bos_first(tokenizer, "<s>")
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        "additional_special_tokens": [],
        "bos_token": "<s>",
        "chat_template": templates.MISTRAL_V1,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": True,
        "model_max_length": 10**30,
        "pad_token": None,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    return _mistral(tokenizer, config, prefix=True)


def _mistral_v3() -> Layout:
    first = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]")
    first += ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[control_8]", "[control_9]")
    tokenizer = hub.sentencepiece(
        hub.special(*first),
        pre_tokenizer={
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        },
        decoder=hub.STRIPPING_DECODER,
    )
    tokenizer["post_processor"] = parts.bos_first(tokenizer, "<s>")
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": None,
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        "bos_token": "<s>",
        "chat_template": templates.MISTRAL_V3,
        "eos_token": "</s>",
        "legacy": False,
        "model_max_length": 10**30,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    return _mistral(tokenizer, config, prefix=True)


def _mistral_tekken() -> Layout:
    first = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[IMG]")
    first += (
        "<pad>",
        "[PREFIX]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "<SPECIAL_20>",
    )
    tokenizer = hub.byte_level([], hub.TEKKEN_SPLIT, first=hub.special(*first))
    tokenizer["post_processor"] = parts.bos_first(tokenizer, "<s>")
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        "additional_special_tokens": list(first),
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 10**30,
        "pad_token": "<pad>",
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": "<unk>",
    }
    made = _mistral(tokenizer, config, head_dim=16)
    # Of a vision model's repository: the processor's template.
    made.files["chat_template.json"] = {"chat_template": templates.MISTRAL_TEKKEN}
    return made


def _mistral(tokenizer, config, *, prefix=False, **changes) -> Layout:
    files = {
        "tokenizer_config.json": config,
        "special_tokens_map.json": {
            name: hub.role(config[name])
            for name in ("bos_token", "eos_token", "unk_token")
        },
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "transformers_version": "4.51.0",
        },
        "config.json": parts.config(
            "mistral",
            "MistralForCausalLM",
            tokenizer,
            bos="<s>",
            eos="</s>",
            sliding_window=None,
            **changes,
        ),
    }
    return Layout(tokenizer=tokenizer, files=files, stops=("</s>",), prefix=prefix)


_GEMMA_TAGS = (
    *("<table>", "<tr>", "<td>", "<h1>", "<h2>", "<strong>", "<em>", "<b>", "<code>"),
    *("</table>", "</tr>", "</td>", "</h1>", "</h2>", "</strong>", "</em>", "</b>"),
    "</code>",
)


def _gemma_3() -> Layout:
    first = [
        *hub.special("<pad>", "<eos>", "<bos>", "<unk>"),
        *hub.plain("<mask>", "[multimodal]", "<unused0>", "<unused1>"),
        *hub.special("<start_of_turn>", "<end_of_turn>"),
        *hub.special("<start_of_image>", "<end_of_image>"),
        *hub.plain("\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁"),
        *hub.plain(*_GEMMA_TAGS),
    ]
    tokenizer = hub.sentencepiece(
        first,
        hub.special("<image_soft_token>"),
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        pre_tokenizer={
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        decoder={
            "type": "Sequence",
            "decoders": hub.STRIPPING_DECODER["decoders"][:3],
        },
    )
    tokenizer["post_processor"] = parts.bos_first(tokenizer, "<bos>")
    roles = {
        "boi_token": "<start_of_image>",
        "bos_token": "<bos>",
        "eoi_token": "<end_of_image>",
        "eos_token": "<eos>",
        "image_token": "<image_soft_token>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    stops = ["<eos>", "<end_of_turn>"]
    image = {k: v for k, v in roles.items() if "image" in v}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": hub.decoder_of(tokenizer),
        **roles,
        "chat_template": templates.GEMMA_3,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": image,
        "model_max_length": 10**30,
        "processor_class": "Gemma3Processor",
        "sp_model_kwargs": None,
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "use_default_system_prompt": False,
    }
    ids = hub.ids(tokenizer)
    files = {
        "tokenizer_config.json": config,
        "special_tokens_map.json": roles
        | {k: hub.role(v) for k, v in roles.items() if k not in image},
        "added_tokens.json": {"<image_soft_token>": ids["<image_soft_token>"]},
        "tokenizer.model": b"\x0a\x0enothing reads it",
        "generation_config.json": parts.generation(
            tokenizer,
            stops,
            bos_token_id=ids["<bos>"],
            pad_token_id=ids["<pad>"],
            do_sample=True,
            cache_implementation="hybrid",
            top_k=64,
            top_p=0.95,
        ),
        "config.json": parts.config(
            "gemma3_text",
            "Gemma3ForCausalLM",
            tokenizer,
            bos="<bos>",
            eos=stops,
            # As in the real one: the token beyond the text model's vocabulary.
            vocab_size=ids["<image_soft_token>"],
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=8,
            rope_local_base_freq=10000.0,
            rope_theta=1000000.0,
            rope_scaling=None,
            sliding_window=512,
            sliding_window_pattern=2,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            tie_word_embeddings=True,
        ),
    }
    return Layout(tokenizer=tokenizer, files=files, stops=tuple(stops))


MAKERS = {
    "mistral_v1": _mistral_v1,
    "mistral_v3": _mistral_v3,
    "mistral_tekken": _mistral_tekken,
    "gemma3": _gemma_3,
}
