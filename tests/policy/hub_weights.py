"""Policy directories as the hub has them, old and new.

config.json, generation_config.json, index and names of tensors are in each family's own
form, with small random weights and a small tokenizer of bytes.

Token ids are those of the small tokenizer, by the roles that the real ones have.
"""

import dataclasses
import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.hf_names import tensor_table

ROWS = 288  # more than the tokenizers' ids, as in Qwen2.5
_BYTES = 256
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One family's repository.

    Attributes:
      config: config.json without token ids.
      specials: special tokens; their ids follow those of the 256 bytes.
      roles: of the specials, by name.
      eos: in config.json; None: absent.
      generation: generation_config.json, eos given by tokens; None: no such file.
      turn: (before, after) an assistant's text in the chat template.
      roles_in: "tokenizer_config.json" or "special_tokens_map.json".
      template_in: "tokenizer_config.json" or "chat_template.jinja".
      tokenizer_class: in tokenizer_config.json.
      prefix: of the tensors' names.
      shards: weight files; one has no index.
      extra: further files, by name.
    """

    config: dict[str, Any]
    specials: tuple[str, ...]
    roles: dict[str, str]
    eos: Any
    generation: dict[str, Any] | None
    turn: tuple[str, str]
    roles_in: str = "tokenizer_config.json"
    template_in: str = "tokenizer_config.json"
    tokenizer_class: str = "PreTrainedTokenizerFast"
    prefix: str = "model."
    shards: int = 1
    extra: tuple[str, ...] = ()

    def id_of(self, token: Any) -> Any:
        """The id of a special token; of each in a list."""
        if isinstance(token, list):
            return [self.id_of(t) for t in token]
        return token if token is None else _BYTES + self.specials.index(token)

    @property
    def head(self) -> str:
        return (
            "language_model.lm_head.weight"
            if self.prefix == "language_model.model."
            else "lm_head.weight"
        )

    def config_json(self) -> dict[str, Any]:
        ids = {"bos_token_id": self.id_of(self.roles.get("bos_token"))}
        if self.eos is not None:
            ids["eos_token_id"] = self.id_of(self.eos)
        return {**self.config, **ids}

    def generation_json(self) -> dict[str, Any] | None:
        if self.generation is None:
            return None
        found = dict(self.generation)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if name in found:
                found[name] = self.id_of(found[name])
        return found

    def template(self) -> str:
        before, after = self.turn
        start = "{{ bos_token }}" if "bos_token" in self.roles else ""
        message = before.replace("ROLE", "{{ m['role'] }}") + "{{ m['content'] }}"
        answer = before.replace("ROLE", "assistant")
        return (
            f"{start}{{% for m in messages %}}{message}{after}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{answer}{{% endif %}}"
        )


def _shape(width=32, heads=4, keys=2, depth=2, **more):
    return {
        "hidden_size": width,
        "intermediate_size": 40,
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "num_key_value_heads": keys,
        "vocab_size": ROWS,
        "initializer_range": 0.02,
        **more,
    }


_QWEN = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "use_cache": True,
    "use_sliding_window": False,
}
_CHATML = ("<|im_start|>ROLE\n", "<|im_end|>\n")
_QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
}
_LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
_LLAMA_TURN = ("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>")
_LLAMA_EOS = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
_MISTRAL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
_GEMMA_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
)
_GEMMA_TURN = ("<start_of_turn>ROLE\n", "<end_of_turn>\n")
_GEMMA_EOS = ["<eos>", "<end_of_turn>"]


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    }


LAYOUTS = {
    "qwen2.5_0.5b_instruct": Layout(
        config={
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "max_position_embeddings": 32768,
            "max_window_layers": 21,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.1",
            **_QWEN,
            **_shape(28, 14, 2),
        },
        specials=_QWEN_TOKENS,
        roles={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        eos="<|im_end|>",
        generation={
            "bos_token_id": "<|endoftext|>",
            "pad_token_id": "<|endoftext|>",
            "do_sample": True,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
            "repetition_penalty": 1.1,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
            "transformers_version": "4.37.0",
        },
        turn=_CHATML,
        tokenizer_class="Qwen2Tokenizer",
    ),
    "qwen2.5_7b_yarn": Layout(
        config={
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "max_position_embeddings": 4096,
            "max_window_layers": 28,
            "rope_theta": 1000000.0,
            "rope_scaling": {
                "factor": 4.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.1",
            **_QWEN,
            **_shape(),
        },
        specials=_QWEN_TOKENS,
        roles={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        eos="<|im_end|>",
        generation={
            "bos_token_id": "<|endoftext|>",
            "pad_token_id": "<|endoftext|>",
            "do_sample": True,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
            "repetition_penalty": 1.05,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
            "transformers_version": "4.37.0",
        },
        turn=_CHATML,
        tokenizer_class="Qwen2Tokenizer",
        shards=3,
    ),
    "qwen3_0.6b": Layout(
        config={
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 16,
            "layer_types": ["full_attention", "full_attention"],
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
            "transformers_version": "4.57.0",
            **_QWEN,
            **_shape(),
        },
        specials=(*_QWEN_TOKENS, "<think>", "</think>"),
        roles={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        eos="<|im_end|>",
        generation={
            "bos_token_id": "<|endoftext|>",
            "do_sample": True,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
            "pad_token_id": "<|endoftext|>",
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
            "transformers_version": "4.51.0",
        },
        turn=_CHATML,
        tokenizer_class="Qwen2Tokenizer",
        template_in="chat_template.jinja",
    ),
    "llama3_8b_instruct": Layout(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "max_position_embeddings": 8192,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.0.dev0",
            **_LLAMA,
            **_shape(),
        },
        specials=_LLAMA_TOKENS,
        roles={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        eos="<|end_of_text|>",
        generation={
            "bos_token_id": "<|begin_of_text|>",
            "eos_token_id": ["<|end_of_text|>", "<|eot_id|>"],
            "do_sample": True,
            "temperature": 0.6,
            "max_length": 4096,
            "top_p": 0.9,
            "transformers_version": "4.40.0.dev0",
        },
        turn=_LLAMA_TURN,
        roles_in="special_tokens_map.json",
        shards=2,
        extra=("original/params.json", "LICENSE", "USE_POLICY.md"),
    ),
    "llama3.2_1b_instruct": Layout(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": 8,
            "max_position_embeddings": 131072,
            "rope_scaling": _llama3(32.0),
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.45.0.dev0",
            **_LLAMA,
            **_shape(),
        },
        specials=_LLAMA_TOKENS,
        roles={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        eos=_LLAMA_EOS,
        generation={
            "bos_token_id": "<|begin_of_text|>",
            "do_sample": True,
            "eos_token_id": _LLAMA_EOS,
            "temperature": 0.6,
            "top_p": 0.9,
            "transformers_version": "4.45.0.dev0",
        },
        turn=_LLAMA_TURN,
        extra=("original/params.json",),
    ),
    "mistral_7b_v0.3": Layout(
        config={
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.42.0.dev0",
            "use_cache": True,
            **_shape(),
        },
        specials=_MISTRAL_TOKENS,
        roles={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        eos="</s>",
        generation={
            "_from_model_config": True,
            "bos_token_id": "<s>",
            "eos_token_id": "</s>",
            "transformers_version": "4.42.0.dev0",
        },
        turn=("[INST]", "</s>"),
        shards=3,
        extra=("consolidated.safetensors",),
    ),
    "mistral_nemo": Layout(
        config={
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "attention_dropout": 0.0,
            "head_dim": 6,
            "hidden_act": "silu",
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.0.dev0",
            "use_cache": True,
            **_shape(),
        },
        specials=_MISTRAL_TOKENS,
        roles={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        eos="</s>",
        generation=None,
        turn=("[INST]", "</s>"),
    ),
    "gemma3_1b_it": Layout(
        config={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": None,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 32768,
            "pad_token_id": _BYTES,
            "query_pre_attn_scalar": 16,
            "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 9,
            "sliding_window_pattern": 2,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "use_cache": True,
            **_shape(depth=3, keys=1),
        },
        specials=_GEMMA_TOKENS,
        roles={
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        eos=_GEMMA_EOS,
        generation={
            "cache_implementation": "hybrid",
            "do_sample": True,
            "eos_token_id": _GEMMA_EOS,
            "top_k": 64,
            "top_p": 0.95,
            "transformers_version": "4.50.0.dev0",
        },
        turn=_GEMMA_TURN,
        roles_in="special_tokens_map.json",
        extra=("tokenizer.model", "README.md"),
    ),
    "gemma3_4b_it": Layout(
        config={
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "boi_token_index": 255999,
            "eoi_token_index": 256000,
            "image_token_index": 287,
            "initializer_range": 0.02,
            "mm_tokens_per_image": 4,
            "text_config": {
                "model_type": "gemma3_text",
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 9,
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                **_shape(depth=7),
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {
                "hidden_size": 8,
                "image_size": 16,
                "intermediate_size": 8,
                "model_type": "siglip_vision_model",
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "patch_size": 4,
                "vision_use_head": False,
            },
        },
        specials=_GEMMA_TOKENS,
        roles={
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        eos=_GEMMA_EOS,
        generation={
            "bos_token_id": "<bos>",
            "cache_implementation": "hybrid",
            "do_sample": True,
            "eos_token_id": _GEMMA_EOS,
            "pad_token_id": "<pad>",
            "top_k": 64,
            "top_p": 0.95,
            "transformers_version": "4.50.0.dev0",
        },
        turn=_GEMMA_TURN,
        template_in="chat_template.jinja",
        prefix="language_model.model.",
        shards=2,
    ),
    "deepseek_r1_distill_qwen": Layout(
        config={
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "max_position_embeddings": 131072,
            "max_window_layers": 21,
            "rope_theta": 10000,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.44.0",
            "use_mrope": False,
            **_QWEN,
            **_shape(),
        },
        specials=("<|begin▁of▁sentence|>", "<|end▁of▁sentence|>", "<|User|>", "<|A|>"),
        roles={
            "bos_token": "<|begin▁of▁sentence|>",
            "eos_token": "<|end▁of▁sentence|>",
            "pad_token": "<|end▁of▁sentence|>",
        },
        eos="<|end▁of▁sentence|>",
        generation={
            "_from_model_config": True,
            "bos_token_id": "<|begin▁of▁sentence|>",
            "eos_token_id": "<|end▁of▁sentence|>",
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "transformers_version": "4.39.3",
        },
        turn=("<|A|>", "<|end▁of▁sentence|>"),
    ),
    "smollm2_360m_instruct": Layout(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "pad_token_id": _BYTES + 2,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
            "transformers_version": "4.42.3",
            **_LLAMA,
            **_shape(36, 6, 2),
        },
        specials=_QWEN_TOKENS,
        roles={
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
        },
        eos="<|im_end|>",
        generation={
            "_from_model_config": True,
            "bos_token_id": "<|im_start|>",
            "eos_token_id": "<|im_end|>",
            "pad_token_id": "<|im_end|>",
            "transformers_version": "4.42.3",
        },
        turn=_CHATML,
        tokenizer_class="GPT2Tokenizer",
    ),
}


def values_of(layout: Layout, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random tensors that a config.json asks for, norms and biases included."""
    rng = np.random.default_rng(0)
    table = tensor_table(PolicyConfig.from_hf(config), layout.prefix, layout.head)
    return {
        name: rng.normal(0, 0.1, spec.shape).astype(np.float32)
        for name, spec in table.items()
    }


def write(
    directory: pathlib.Path,
    layout: Layout,
    *,
    config: dict[str, Any] | None = None,
    values: dict[str, np.ndarray] | None = None,
    dtype: str = "float32",
) -> pathlib.Path:
    """Writes a repository; `config` changes keys of config.json, `values` tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    record = {**layout.config_json(), **(config or {})}
    _json(directory / "config.json", record)
    if (generation := layout.generation_json()) is not None:
        _json(directory / "generation_config.json", generation)
    _write_tokenizer(directory, layout)
    for name in layout.extra:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("{}")
    values = values or values_of(layout, record)
    write_weights(
        directory,
        {name: value.astype(DTYPES[dtype]) for name, value in values.items()},
        layout.shards,
    )
    return directory


def write_weights(directory, values, shards=1) -> None:
    """model.safetensors, or shards and an index with its size."""
    if shards == 1:
        save_file(values, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map, names = {}, sorted(values)
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: values[name] for name in names[number::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in values.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    _json(directory / "model.safetensors.index.json", index)


def _write_tokenizer(directory: pathlib.Path, layout: Layout) -> None:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(layout.specials))
    tokenizer.save(str(directory / "tokenizer.json"))
    listed = {
        "added_tokens_decoder": {
            str(layout.id_of(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token in layout.specials
        }
    }
    config = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": layout.tokenizer_class,
    }
    if layout.roles_in == "tokenizer_config.json":
        config |= layout.roles | listed
    else:
        _json(directory / layout.roles_in, layout.roles)
    template = layout.template()
    if layout.template_in == "tokenizer_config.json":
        config["chat_template"] = template
    else:
        (directory / layout.template_in).write_text(template, encoding="utf-8")
    _json(directory / "tokenizer_config.json", config)


def _json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
