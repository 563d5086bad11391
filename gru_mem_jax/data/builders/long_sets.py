"""The sets of long documents, by their official files."""

import dataclasses
from typing import ClassVar

from gru_mem_jax.data.builders.long_documents import LongDocuments
from gru_mem_jax.data.hotpotqa import read_hotpotqa
from gru_mem_jax.data.paragraphs import Check, ParagraphFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongHotpotQA(LongDocuments):
    """HotpotQA (Yang et al., arXiv 1809.09600), the distractor setting.

    Evidence is the sentences of the supporting facts. Its order is not in the files; it
    is known as far as `data.hotpotqa.evidence_steps` tells it.

    Attributes:
      scoring: "boxed" is MemAgent's evaluation; "exact" and "hotpotqa_f1" are
        HotpotQA's own.
      others: see `LongDocuments`.
    """

    name: ClassVar[str] = "long_hotpotqa"
    home: ClassVar[str] = "https://hotpotqa.github.io"

    def _read(self, path: str, check: Check) -> ParagraphFile:
        return read_hotpotqa(path, check)
