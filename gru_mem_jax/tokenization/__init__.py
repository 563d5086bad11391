"""The tokenizer of a policy directory; text never becomes control tokens."""

from gru_mem_jax.tokenization.text_tokenizer import TextTokenizer

__all__ = ["TextTokenizer"]
