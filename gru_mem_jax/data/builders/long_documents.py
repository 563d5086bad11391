"""Official files of questions on paragraphs as sets of long documents, at any length.

MemAgent (Yu et al., arXiv 2507.02259) and GRU-Mem put the paragraphs of a question
among others of the file. All lengths ask the same questions; a shorter document is a
subsequence of the longer, and each question has an order of its own.
"""

import dataclasses
import functools
import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from gru_mem_jax.data import files
from gru_mem_jax.data.bad_records import (
    ON_BAD_RECORD,
    BadRecordsError,
    OnBadRecord,
    Records,
)
from gru_mem_jax.data.builders.composing import Composer, DocumentSettings
from gru_mem_jax.data.builders.paragraph_pool import ParagraphPool
from gru_mem_jax.data.builders.recipe import (
    ARTICLE,
    DOCUMENT,
    Length,
    StoredQuestion,
)
from gru_mem_jax.data.builders.shared_documents import AskedDocument
from gru_mem_jax.data.example import Example, Scoring
from gru_mem_jax.data.paragraphs import Check, ParagraphFile, ParagraphQuestion
from gru_mem_jax.data.scoring import SCORERS
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_int

_SAMPLE = 64  # texts that tell one tokenizer from another


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongDocuments(DocumentSettings):
    """Questions whose documents are paragraphs of official files: a `Recipe`.

    Attributes:
      sources: official files. Questions are of the first, paragraphs of all.
      num_questions: drawn from those of the first file, by the seed.
      scoring: of the answers, see `data.scoring`.
      on_bad_record: "error", or "skip" those.
      lengths, seed, encoder, chunk_size, evidence_position, bridge_gap, distractors,
        repeat_distractors, form: see `composing.DocumentSettings`.
    """

    name: ClassVar[str]
    home: ClassVar[str]  # where the official files can be had

    sources: tuple[str, ...]
    num_questions: int = 128
    scoring: Scoring = "boxed"
    on_bad_record: OnBadRecord = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise InputError(f"sources is empty: {self._where_to_get}")
        check_int("num_questions", self.num_questions, 1)
        check_choice("scoring", self.scoring, tuple(SCORERS))
        check_choice("on_bad_record", self.on_bad_record, ON_BAD_RECORD)

    def _read(self, path: str, check: Check) -> ParagraphFile:
        """The contents of one file."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """All that the set depends on.

        Raises:
          InputError: a file is missing or malformed, or they have too few questions or
            paragraphs for the longest documents.
        """
        data = self._data
        skipped = ("sources", "lengths", "encoder")
        names = [f.name for f in dataclasses.fields(self) if f.name not in skipped]
        return {
            "lengths": [str(length) for length in self.lengths],
            "sources_sha256": list(data.sha256),
            "encoder_sha256": self._encoder_sha256(),
            **{name: getattr(self, name) for name in names},
        }

    def pool(self) -> Iterator[str]:
        """The paragraphs of all files, each once, below its title."""
        return iter(self._data.composer.pool.texts)

    def questions(self, length: Length) -> Iterator[StoredQuestion]:
        """The questions with documents of one length."""
        if length not in self.lengths:
            raise InputError(f"{length} is not a length of this set")
        return (
            stored
            for asked in self._data.documents
            for stored in self._stored(asked, length)
        )

    def _stored(self, asked: AskedDocument, length: Length) -> Iterator[StoredQuestion]:
        document = self._data.composer.compose(asked.item, length)
        for item in asked.questions:
            evidence, steps = asked.evidence(item, document)
            metadata = {"kind": item.kind} if item.kind else {}
            if item is not asked.item:
                metadata |= {DOCUMENT: asked.item.id, ARTICLE: item.paragraphs[0].title}
            yield StoredQuestion(
                id=item.id,
                question=item.question,
                answers=item.answers,
                pieces=document.pieces,
                glue=document.glue,
                evidence=evidence,
                evidence_order=steps,
                task=self.name,
                scoring=self.scoring,
                metadata=metadata,
            )

    def _encoder_sha256(self) -> str | None:
        """Equal for tokenizers that count alike, as far as a sample tells."""
        if self.encoder is None:
            return None
        texts = self._data.composer.pool.texts[:_SAMPLE]
        parts = [self.encoder.vocab_size, [self.encoder.encode(text) for text in texts]]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def _where_to_get(self) -> str:
        return f"the official files are at {self.home}"

    @functools.cached_property
    def _data(self) -> "_Data":
        read = [self._file(path) for path in self.sources]
        sha256 = tuple(file.sha256 for file in read)
        pool = ParagraphPool(p for file in read for p in file.paragraphs)
        asked = self._asked(read[0])
        composer = Composer(self, pool, self.name)
        documents = self._documents(asked, composer)
        try:
            composer.check([each.item for each in documents])
        except InputError as error:
            raise InputError(f"{', '.join(self.sources)}: {error}") from None
        return _Data(sha256, documents, composer)

    def _documents(
        self, asked: Sequence[ParagraphQuestion], composer: Composer
    ) -> tuple[AskedDocument, ...]:
        """The documents of the set, here one for each question."""
        return tuple(AskedDocument(item, (item,)) for item in asked)

    def _file(self, path: str) -> ParagraphFile:
        try:
            file = self._read(path, self._check_record)
            if file.bad and (self.on_bad_record == "error" or not file.questions):
                good = tuple((where, self._bare(q)) for where, q in file.questions)
                records = Records(name=path, good=good, bad=tuple(file.bad))
                raise BadRecordsError(records, self)
        except InputError as error:
            raise InputError(f"{error}; {self._where_to_get}") from None
        return file

    def _check_record(self, item: ParagraphQuestion) -> None:
        files.check_answers(item.answers, self.scoring)

    def _bare(self, item: ParagraphQuestion) -> Example:
        return Example(
            id=item.id, question=item.question, answers=item.answers, document=""
        )

    def _asked(self, file: ParagraphFile) -> tuple[ParagraphQuestion, ...]:
        """The questions of the set, drawn from the file's by the seed."""
        able = [item for _, item in file.questions]
        what = "questions"
        if self.bridge_gap is not None:
            able = [item for item in able if has_two_steps(item)]
            what = "questions of two steps, evidence that points to evidence,"
        if len(able) < self.num_questions:
            raise InputError(
                f"{self.sources[0]}: has {len(able)} {what} for num_questions "
                f"{self.num_questions}; lower it, or take a larger file; "
                f"{self._where_to_get}"
            )
        rng = random.Random(f"{self.seed}/{self.name}")
        return tuple(rng.sample(able, self.num_questions))


class _Data(NamedTuple):
    sha256: tuple[str, ...]
    documents: tuple[AskedDocument, ...]
    composer: Composer


def has_two_steps(item: ParagraphQuestion) -> bool:
    """Whether one paragraph has the evidence of a first step, one that of a second."""
    return sorted(step for step in item.steps if step >= 0) == [0, 1]
