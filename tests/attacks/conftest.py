"""The encoders that hostile texts are tried on."""

import hostile_tokenizers
import pytest

from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tokenization import TextTokenizer

ENCODERS = ("bytes", "words", "gemma_like", "llama_like", "qwen2")


@pytest.fixture(scope="session", params=ENCODERS)
def encoder(request):
    """Each tokenizer in turn; the real one where the development data is."""
    if request.param == "bytes":
        return ByteEncoder()
    if request.param == "words":
        path = request.getfixturevalue("tmp_path_factory").mktemp("words")
        word_tokenizer.save(path)
        return TextTokenizer.from_pretrained(path)
    if request.param == "gemma_like":
        return hostile_tokenizers.gemma_like_encoder()
    if request.param == "llama_like":
        return hostile_tokenizers.llama_like_encoder()
    directory = request.getfixturevalue("qwen2_tokenizer_dir")
    return TextTokenizer.from_pretrained(directory)
