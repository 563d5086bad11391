"""Which chunks of an example hold evidence, under a tokenizer and a chunk size."""

from gru_mem_jax.agent.chunking import evidence_labels, iter_chunks
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.example import Example


def labels(
    example: Example, encoder: Encoder, chunk_size: int
) -> tuple[tuple[bool, ...], int | None]:
    """evidence[t] of every chunk of an example's document, and its last true index."""
    chunks = iter_chunks(example.document, encoder, chunk_size)
    borders = [(chunk.start, chunk.end) for chunk in chunks]
    return evidence_labels(borders, example.evidence)
