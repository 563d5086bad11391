"""The tokenizer of a policy directory, with a hard line between text and control."""

from gru_mem_jax.tokenization.text_tokenizer import TextTokenizer

__all__ = ["TextTokenizer"]
