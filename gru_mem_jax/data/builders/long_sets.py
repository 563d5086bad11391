"""The sets of long documents, by their official files."""

import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from gru_mem_jax.data.builders.composing import Composer, Distractors
from gru_mem_jax.data.builders.long_documents import LongDocuments
from gru_mem_jax.data.builders.shared_documents import AskedDocument, shared_documents
from gru_mem_jax.data.example import Scoring
from gru_mem_jax.data.hotpotqa import read_hotpotqa
from gru_mem_jax.data.musique import read_musique
from gru_mem_jax.data.paragraphs import Check, ParagraphFile, ParagraphQuestion
from gru_mem_jax.data.squad import read_squad
from gru_mem_jax.data.two_wiki import Names, read_aliases, read_two_wiki
from gru_mem_jax.records import check_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongHotpotQA(LongDocuments):
    """HotpotQA (Yang et al., arXiv 1809.09600), files of the distractor setting.

    Evidence is the sentences of the supporting facts. The files do not tell its order;
    `data.hotpotqa.evidence_steps` tells it as far as the text does.

    Attributes:
      scoring: "boxed" is MemAgent's evaluation, "exact" and "hotpotqa_f1" HotpotQA's.
      sources and others: see `LongDocuments`.
    """

    name: ClassVar[str] = "long_hotpotqa"
    home: ClassVar[str] = "https://hotpotqa.github.io"

    def _read(self, path: str, check: Check) -> ParagraphFile:
        return read_hotpotqa(path, check)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Long2Wiki(LongDocuments):
    """2WikiMultihopQA (Ho et al., COLING 2020).

    Evidence is the sentences of the supporting facts, in the order of the triples.

    Attributes:
      aliases: the official id_aliases.json, for other names of the answers, as its
        evaluation 1.1 counts them; the files of data_ids.zip tell whose they are.
      scoring: "exact" and "hotpotqa_f1" are its own, "boxed" is MemAgent's evaluation.
      sources and others: see `LongDocuments`.
    """

    name: ClassVar[str] = "long_2wiki"
    home: ClassVar[str] = "https://github.com/Alab-NII/2wikimultihop"

    aliases: str | None = None
    scoring: Scoring = "hotpotqa_f1"

    def _read(self, path: str, check: Check) -> ParagraphFile:
        return read_two_wiki(path, check, self._names[0])

    def settings(self) -> dict[str, Any]:
        """As `LongDocuments.settings`."""
        return super().settings() | {"aliases": self._names[1]}

    @functools.cached_property
    def _names(self) -> tuple[Names, str | None]:
        """The names of answers, and the sha256 of their file."""
        return ({}, None) if self.aliases is None else read_aliases(self.aliases)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongMuSiQue(LongDocuments):
    """MuSiQue (Trivedi et al., arXiv 2108.00573), its answerable questions.

    Evidence is the supporting paragraphs, in the order of the decomposition.

    Attributes:
      scoring: "exact" and "f1" are its own, "boxed" is MemAgent's evaluation.
      sources and others: see `LongDocuments`.
    """

    name: ClassVar[str] = "long_musique"
    home: ClassVar[str] = "https://github.com/StonyBrookNLP/musique"

    scoring: Scoring = "f1"

    def _read(self, path: str, check: Check) -> ParagraphFile:
        return read_musique(path, check)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongSQuAD(LongDocuments):
    """SQuAD 1.1 and 2.0 (Rajpurkar et al.), the questions that have an answer.

    Evidence is the sentence of the first gold answer.

    Attributes:
      distractors: "others" are of other articles, as in `data.SQuADSource`; with
        "own_first" those of the question's article come first, as MemAgent has it:
        some of them answer the question too, and are not marked.
      questions_per_document: up to so many questions in a row are on one document, on
        paragraphs of one article. Each question is asked once; an article's documents
        have its paragraphs in ever other company.
      scoring: "exact" and "f1" are SQuAD's, "boxed" is MemAgent's evaluation.
      sources and others: see `LongDocuments`.
    """

    name: ClassVar[str] = "long_squad"
    home: ClassVar[str] = "https://rajpurkar.github.io/SQuAD-explorer"

    distractors: Distractors = "others"
    questions_per_document: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("questions_per_document", self.questions_per_document, 1, 1 << 16)

    def _read(self, path: str, check: Check) -> ParagraphFile:
        return read_squad(path, check)

    def settings(self) -> dict[str, Any]:
        """As `LongDocuments.settings`."""
        found = super().settings()
        if self.questions_per_document == 1:
            del found["questions_per_document"]
        return found

    def _documents(
        self, asked: Sequence[ParagraphQuestion], composer: Composer
    ) -> tuple[AskedDocument, ...]:
        if (most := self.questions_per_document) == 1:
            return super()._documents(asked, composer)
        rng = random.Random(f"{self.seed}/{self.name}/documents")
        shortest = min(self.lengths)
        return tuple(shared_documents(asked, most, composer, shortest, rng))
