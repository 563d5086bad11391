"""The recipe of a set of questions of one of RULER's tasks."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.builders.placing import EVIDENCE_POSITIONS, EvidencePosition
from gru_mem_jax.data.builders.recipe import (
    Length,
    StoredQuestion,
    check_counting,
)
from gru_mem_jax.data.builders.ruler.counting import (
    CommonWordsTask,
    FrequentWordsTask,
    read_words,
)
from gru_mem_jax.data.builders.ruler.documents import Documents, Maker
from gru_mem_jax.data.builders.ruler.fitting import (
    Costs,
    Room,
    tokenizer_mark,
)
from gru_mem_jax.data.builders.ruler.haystack import WHERE, Essay, read_essay
from gru_mem_jax.data.builders.ruler.needles import NeedleTask
from gru_mem_jax.data.builders.ruler.reading import (
    HOMES,
    ReadingTask,
    read_sources,
)
from gru_mem_jax.data.builders.ruler.tracing import TracingTask
from gru_mem_jax.data.builders.ruler.wording import (
    ANSWER_ROOM,
    NEEDLES,
    TASKS,
    Needles,
)
from gru_mem_jax.data.builders.ruler.words import KINDS, words_version
from gru_mem_jax.data.paragraphs import ParagraphFile
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_int, plain_numbers

_NO_ESSAYS = ("noise", "needles")
HaystackStart = Literal["first", "random"]
_GLUES = {"cwe": "listed", "fwe": "words", "qa_1": "numbered", "qa_2": "numbered"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ruler:
    """Questions of one of RULER's tasks (Hsieh et al. 2024), at several lengths.

    A length in tokens is that of RULER's whole input, with room for its answer. The
    longest document is laid out as RULER's; each shorter one is a part of it, with
    evidence at the same depths. Keys, values and places differ from question to
    question. The texts' tokens are added up; the first document of each length is
    tokenised, and what it exceeds its length by is kept free in all.

    Attributes:
      task: one of `wording.TASKS`.
      lengths: in tokens or chunks, or documents for qa_1 and qa_2.
      encoder: the tokenizer that lengths are counted with; None for documents.
      chunk_size: tokens, for lengths in chunks.
      haystack: "noise", "needles", or the path of a text; None, the task's own. Most
        needle tasks hide in an essay, for which a text must be named; one that is too
        short is repeated, as RULER does.
      sources: for qa_1 SQuAD's files, for qa_2 HotpotQA's.
      words: for cwe, a JSON file of words (RULER's english_words.json), used where a
        document needs more words than wonderwords has.
      num_questions: of each length.
      seed: of everything that is drawn.
      evidence_position: "uniform", as RULER; "first_20" or "last_20", between the first
        or last 20% of the haystack's texts (of qa_1 and qa_2, of the document);
        "spread", one needle in each of equal parts.
      keys, values: kinds, "words", "numbers" or "uuids"; None, the task's.
      num_keys, num_values, num_queries: keys in the document, values of each, keys in
        question; None, the task's.
      haystack_start: "first", all documents begin with the essay's first sentence, as
        RULER's; "random", each with any sentence of it.
      questions_per_document: of needle tasks: so many questions in a row are on one
        document, each about keys of its own.
    """

    task: str
    lengths: tuple[Length, ...]
    encoder: Encoder | None = None
    chunk_size: int | None = None
    haystack: str | os.PathLike[str] | None = None
    sources: tuple[str, ...] = ()
    words: str | None = None
    num_questions: int = 128
    seed: int = 0
    evidence_position: EvidencePosition = "uniform"
    keys: str | None = None
    values: str | None = None
    num_keys: int | None = None
    num_values: int | None = None
    num_queries: int | None = None
    haystack_start: HaystackStart = "first"
    questions_per_document: int = 1

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("task", self.task, TASKS)
        check_choice("evidence_position", self.evidence_position, EVIDENCE_POSITIONS)
        check_int("num_questions", self.num_questions, 1, 1 << 20)
        check_int("seed", self.seed, 0)
        if self.chunk_size is not None:
            check_int("chunk_size", self.chunk_size, 1)
        self._check_lengths()
        self._check_overrides()
        if self.haystack is not None:
            object.__setattr__(self, "haystack", os.fspath(self.haystack))

    def _check_lengths(self) -> None:
        if not self.lengths:
            raise InputError("lengths must not be empty")
        units = {length.unit for length in self.lengths}
        for length in self.lengths:
            check_int("lengths: count", length.count, 1, 1 << 32)
        if "documents" in units and not self.task.startswith("qa_"):
            raise InputError(
                f"{self.task} has no documents to count: give lengths in tokens or "
                "chunks"
            )
        if "documents" in units and len(units) > 1:
            raise InputError("lengths must not mix documents with tokens or chunks")
        check_counting(self.lengths, self.encoder, self.chunk_size)

    def _check_overrides(self) -> None:
        of_needles = ("keys", "values", "num_keys", "num_values", "num_queries")
        for name in of_needles:
            value = getattr(self, name)
            if value is None:
                continue
            if self.task not in NEEDLES:
                raise InputError(
                    f"{name} is a setting of needle tasks, not {self.task}"
                )
            if name in ("keys", "values"):
                check_choice(name, value, KINDS)
            else:
                # RULER has 40 depths of an essay.
                check_int(name, value, 1, 40)
        check_choice("haystack_start", self.haystack_start, get_args(HaystackStart))
        if self.haystack_start != "first" and not self._in_essay:
            raise InputError("haystack_start is for needles in an essay; set haystack")
        check_int("questions_per_document", self.questions_per_document, 1, 40)
        if self.questions_per_document > 1 and self.task not in NEEDLES:
            raise InputError(
                f"questions_per_document is a setting of needle tasks, not {self.task}"
            )
        if self.num_keys and self.num_queries and self.num_keys < self.num_queries:
            raise InputError(
                f"num_keys {self.num_keys} is less than num_queries "
                f"{self.num_queries}: a question names keys of the document"
            )
        if self.task in ("cwe", "fwe") and self.evidence_position != "uniform":
            raise InputError(
                f"evidence_position {self.evidence_position} is none for {self.task}, "
                "of which all text is evidence"
            )
        if self.task != "cwe" and self.words is not None:
            raise InputError(f"words is a setting of cwe, not {self.task}")
        if self.task not in HOMES and self.sources:
            raise InputError(f"sources is a setting of qa_1 and qa_2, not {self.task}")
        if self.task not in NEEDLES and self.haystack is not None:
            raise InputError(f"haystack is a setting of needle tasks, not {self.task}")

    @property
    def name(self) -> str:
        """ "ruler"."""
        return "ruler"

    def settings(self) -> dict[str, Any]:
        """All that the set depends on; JSON values.

        Raises:
          InputError: a file is missing or malformed.
        """
        said = {
            "task": self.task,
            "lengths": [str(length) for length in self.lengths],
            "num_questions": self.num_questions,
            "seed": self.seed,
            "evidence_position": self.evidence_position,
            "tokenizer": tokenizer_mark(self.encoder),
            "chunk_size": self.chunk_size,
        }
        if self.task in NEEDLES:
            said |= dataclasses.asdict(self._needles)
            if self._essay is not None:
                said["haystack_sha256"] = self._essay.sha256
        if self.task in HOMES:
            said["sources_sha256"] = [file.sha256 for file in self._files]
        if self.haystack_start != "first":
            said["haystack_start"] = self.haystack_start
        if self.questions_per_document > 1:
            said["questions_per_document"] = self.questions_per_document
        if "words" in said.values() or self.task == "cwe":
            said["words"] = words_version()
        if self.words is not None:
            said["words_sha256"] = read_words(self.words)[1]
        return said

    def pool(self) -> Iterator[str]:
        """The texts that documents consist of, each once."""
        yield from self._maker.texts

    def questions(self, length: Length) -> Iterator[StoredQuestion]:
        """The questions of a length.

        Raises:
          InputError: a file is missing or malformed, or the length is too short.
        """
        for index in range(self.num_questions):
            yield self._documents.question(
                index,
                length,
                task=self.task,
                scoring="any" if self.task in HOMES else "part",
            )

    @functools.cached_property
    def _needles(self) -> Needles:
        task = NEEDLES[self.task]
        names = (f.name for f in dataclasses.fields(Needles))
        given = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        if "haystack" in given and given["haystack"] not in _NO_ESSAYS:
            given["haystack"] = "essay"
        task = dataclasses.replace(task, **given)
        if task.num_queries > task.num_keys:
            task = dataclasses.replace(task, num_keys=task.num_queries)
        if (asked := self.questions_per_document * task.num_queries) > task.num_keys:
            raise InputError(
                f"questions_per_document {self.questions_per_document} ask for {asked} "
                f"keys, but a document has num_keys {task.num_keys}; raise num_keys"
            )
        if task.num_keys * task.num_values > 40:
            raise InputError(
                f"num_keys {task.num_keys} of num_values {task.num_values} each are "
                "more than 40 needles"
            )
        return task

    @property
    def _in_essay(self) -> bool:
        """Whether the haystack is a text."""
        if self.task not in NEEDLES:
            return False
        return (self.haystack or NEEDLES[self.task].haystack) not in _NO_ESSAYS

    @functools.cached_property
    def _essay(self) -> Essay | None:
        if self.task not in NEEDLES or self._needles.haystack != "essay":
            return None
        if self.haystack is None:
            raise InputError(
                f"{self.task} hides its needles in an essay: set haystack; {WHERE}; or "
                'haystack="noise"'
            )
        return read_essay(os.fspath(self.haystack))

    @functools.cached_property
    def _files(self) -> list[ParagraphFile]:
        return read_sources(self.task, self.sources)

    @functools.cached_property
    def _room(self) -> Room:
        return Room(self.encoder, self.chunk_size or 0, ANSWER_ROOM[self.task])

    @functools.cached_property
    def _most(self) -> int:
        """Tokens of the longest document, at most."""
        return max(self._room.of(length, None) for length in self.lengths)

    @functools.cached_property
    def _costs(self) -> Costs:
        counted = self.lengths[0].unit != "documents"
        return Costs(self.encoder if counted else None, self._glue)

    @property
    def _glue(self) -> str:
        return "words" if self._essay is not None else _GLUES.get(self.task, "lines")

    @functools.cached_property
    def _maker(self) -> Maker:
        count, seed, costs = self.num_questions, self.seed, self._costs
        if self.task == "vt":
            return TracingTask(
                costs,
                num_questions=count,
                seed=seed,
                rule=self.evidence_position,
            )
        if self.task == "cwe":
            return CommonWordsTask(costs, seed=seed, room=self._most, words=self.words)
        if self.task == "fwe":
            return FrequentWordsTask(
                costs, num_questions=count, seed=seed, room=self._most
            )
        if self.task in HOMES:
            return ReadingTask(
                self.task,
                self._files,
                costs,
                num_questions=count,
                seed=seed,
                position=self.evidence_position,
            )
        maker = NeedleTask(
            self._needles,
            self._essay,
            costs,
            num_questions=count,
            seed=seed,
            rule=self.evidence_position,
            room=self._most,
            per_document=self.questions_per_document,
            random_start=self.haystack_start == "random",
        )
        if self._essay is not None and maker.tokens < self._most:
            times = -(-self._most // maker.tokens)
            warnings.warn(
                f"{self._essay.path}: has {maker.tokens} tokens; it is repeated, up to "
                f"{times} times in {max(self.lengths)}",
                stacklevel=2,
            )
        return maker

    @functools.cached_property
    def _documents(self) -> Documents:
        return Documents(
            self._maker,
            self._costs,
            self._room,
            self.lengths,
            self.questions_per_document,
        )
