"""Synthetic questions in documents of other sources: needles in real text.

The tiny tokenizer reads real text letter by letter; a policy that knows synthetic words
only still finds its needles among them.
"""

import bisect
import dataclasses
import re

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.data.bad_records import FiniteSource, OnBadRecord
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.replacing import cut_for, replaced
from gru_mem_jax.data.sources import source_name
from gru_mem_jax.errors import InputError
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

_NEEDLE = re.compile(r"The code for [^.]*\.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlantedSource:
    """Synthetic questions, whose needles stand in another source's documents.

    Each needle, also one that distracts, stands in the chunk of the document that is
    its block in the synthetic one, in place of as many tokens.

    Attributes:
      documents: where they come from, in turn; its questions are not asked.
      config: of the questions; its documents are as long as those of the source.
      encoder, chunk_size: of the policy; a synthetic block is a chunk.
    """

    documents: FiniteSource
    config: SyntheticConfig
    encoder: Encoder
    chunk_size: int

    def __post_init__(self) -> None:
        if self.config.varied:
            raise InputError("needles in real text are not varied: varied must be 0")
        if self.config.chunk_tokens != self.chunk_size:
            raise InputError(
                f"chunk_tokens {self.config.chunk_tokens} must be the chunk size, "
                f"{self.chunk_size}"
            )

    @property
    def path(self) -> str:
        """The name of the documents' source, for messages."""
        return source_name(self.documents)

    @property
    def on_bad_record(self) -> OnBadRecord:
        """A document that is too short for the question is an error."""
        return "error"

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: the document is too short for the question, or a chunk cannot hold
            its needles; or its source raises it.
        """
        real = self.documents.example(position)
        chunks = list(iter_chunks(real.document, self.encoder, self.chunk_size))
        # The last chunk may be short.
        config = dataclasses.replace(self.config, num_chunks=len(chunks) - 1)
        synthetic = generate(config, position)
        cuts = []
        for chunk, needles in self._needles(synthetic).items():
            text = " ".join(synthetic.document[a:b] for a, b in needles)
            cut = cut_for(chunks[chunk].text, [text], 0.5, self.encoder)
            if cut is None:
                raise InputError(
                    f"document {real.id!r}: chunk {chunk} cannot hold {text!r}"
                )
            cuts.append(cut.moved(chunks[chunk].start))
        document, _, planted = replaced(real.document, cuts)
        sentences = [
            (start + match.start(), start + match.end())
            for start, end in planted
            for match in _NEEDLE.finditer(document[start:end])
        ]
        wanted = [synthetic.document[a:b] for a, b in synthetic.evidence]
        return dataclasses.replace(
            synthetic,
            document=document,
            evidence=tuple(s for s in sentences if document[slice(*s)] in wanted),
            metadata={"document": real.id},
        )

    def _needles(self, example: Example) -> dict[int, list[Span]]:
        """All needles of a synthetic document, by their block."""
        chunks = iter_chunks(example.document, self.encoder, self.chunk_size)
        ends = [chunk.end for chunk in chunks]
        needles: dict[int, list[Span]] = {}
        for match in _NEEDLE.finditer(example.document):
            block = bisect.bisect_left(ends, match.end())
            needles.setdefault(block, []).append(match.span())
        return needles
