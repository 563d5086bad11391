"""Grammars of turns for all kinds of tokenizers; whatever is drawn is well formed."""

import dataclasses
import random
import re

import numpy as np
import pytest

from gru_mem_jax.agent.completion import read_completion
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.parse import TAGS, extract_boxed, parse_memory_turn
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.agent.turn_form import turn_constraint, turn_forms
from gru_mem_jax.data.turns import completion_ids
from gru_mem_jax.errors import PolicyError, RunError
from gru_mem_jax.grammar.automaton import EXIT, FORCED, UPDATE, Constraint, walk
from gru_mem_jax.grammar.compiling import form_tokens
from gru_mem_jax.grammar.matching import MAX_DEPTH, Braces, Tags
from gru_mem_jax.grammar.token_texts import TokenTexts
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.random_turns import draw_constrained
from gru_mem_jax.tiny import tokenizer as tiny_tokenizer
from gru_mem_jax.tokenization import TextTokenizer
from tests.grammar.tokenizers import Opened, gemma_like, llama_like

WALKS = 120  # of each tokenizer, style and kind of turn
_TELLING = re.compile(r"[<>/{}]|^(th|in|k|ch|eck|up|date|ne|xt)")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    tiny_tokenizer.save(directory)
    return TextTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def qwen2(qwen2_tokenizer_dir):
    return TextTokenizer.from_pretrained(qwen2_tokenizer_dir)


@pytest.fixture(
    params=["bytes", "bytes_without_tags", "gemma_like", "llama_like", "tiny", "qwen2"]
)
def encoder(request):
    made = {
        "bytes": ByteEncoder,
        "bytes_without_tags": lambda: ByteEncoder(format_tags=False),
        "gemma_like": gemma_like,
        "llama_like": llama_like,
    }
    if request.param in made:
        return made[request.param]()
    return request.getfixturevalue(request.param)
