"""Whole traced loops against Hugging Face torch, fed the same ids, for every family."""

import numpy as np
import pytest

from gru_mem_jax.agent import GRUMemAgent, driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.tiny import synthetic
from gru_mem_jax.tiny import tokenizer as word_tokenizer

torch = pytest.importorskip("torch", reason="compares with Hugging Face torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
FAMILIES = {
    "qwen2": ("Qwen2", "Qwen2", {"rope_parameters": ROPE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", "Qwen3", {"rope_parameters": ROPE, "head_dim": 16}),
    "llama": ("Llama", "Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", "Mistral", {"rope_parameters": ROPE, "sliding_window": 40}),
    "gemma3_text": (
        "Gemma3Text",
        "Gemma3",
        {
            "rope_parameters": GEMMA_ROPE,
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 16,
            "tie_word_embeddings": True,
        },
    ),
}


def make_policy_dir(family, folder):
    """A random checkpoint, written by Hugging Face code, with the word tokenizer."""
    import transformers

    config_name, model_name, extra = FAMILIES[family]
    config_class = getattr(transformers, f"{config_name}Config")
    model_class = getattr(transformers, f"{model_name}ForCausalLM")
    vocab = word_tokenizer.build().get_vocab_size()
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    model = model_class(
        config_class(vocab_size=vocab, **{**SHAPE, **special, **extra})
    ).eval()
    model.save_pretrained(folder)
    word_tokenizer.save(folder)
    return model


def traced(folder, temperature):
    """Three chunks and an answer, traced."""
    config = AgentConfig(
        mode="without_exit_gate",
        chunk_size=64,
        question_tokens=16,
        memory_tokens=32,
        completion_tokens=40,
        prompt_tokens=192,
        prompt=PromptConfig(style="compact"),
        sampling=SamplingConfig(temperature=temperature, seed=3),
    )
    agent = GRUMemAgent.from_pretrained(str(folder), config)
    source = synthetic.SyntheticConfig(tasks=("single_key",), num_chunks=3)
    example = synthetic.generate(source, 0)
    recurrence = Recurrence(
        PromptBuilder(agent.encoder, config.prompt),
        config,
        example.question,
        example.document,
        trace=True,
    )
    for _ in driver.run(agent.generator, [recurrence]):
        pass
    return recurrence.trajectory.turns


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return make_policy_dir(request.param, folder), folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_trace_is_what_hugging_face_computes(policy, temperature):
    model, folder = policy
    turns = traced(folder, temperature)
    assert len(turns) == 4
    assert sum(turn.completion_tokens for turn in turns) > 40
    for turn in turns:
        ids = torch.tensor([[*turn.prompt_ids, *turn.completion_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0].double()
        logprobs = torch.log_softmax(logits, -1).numpy()
        start = len(turn.prompt_ids) - 1
        rows = logprobs[start : start + len(turn.completion_ids)]
        taken = rows[np.arange(len(rows)), list(turn.completion_ids)]
        np.testing.assert_allclose(turn.logprobs, taken, atol=1e-3, rtol=0)
        if temperature == 0.0:
            assert np.all(rows.max(-1) - taken < 1e-3)
