"""A user's own questions and documents, from JSON lines, as a set."""

import array
import dataclasses
import functools
import hashlib
import itertools
import os
import random
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, ClassVar, NamedTuple

from gru_mem_jax.data.bad_records import ON_BAD_RECORD, BadRecord, OnBadRecord
from gru_mem_jax.data.builders.recipe import GLUES, Length, StoredQuestion
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.files import gathering, opened
from gru_mem_jax.data.jsonl import Line, json_lines, read_line
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_int, plain_numbers

ALONE = Length("documents", 1)
_TOLD = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonlDocuments:
    """Questions of JSON lines on documents of their own: a `Recipe`.

    A document of length 1 is the question's own, as it is; a longer one has others of
    the files around it, drawn and shuffled for each question, numbered as MemAgent
    does. The files are read once for each length, and twice more; in memory is one line
    at a time, and some 100 bytes for each document and each id.

    Attributes:
      sources: of JSON lines, see `data.JsonlSource`.
      lengths: in documents.
      num_questions: drawn from all, in the order of the files; None: all.
      seed: of questions, other documents and their places.
      on_bad_record: "error", or "skip" those.
    """

    name: ClassVar[str] = "jsonl"

    sources: tuple[str, ...]
    lengths: tuple[Length, ...] = (ALONE,)
    num_questions: int | None = None
    seed: int = 0
    on_bad_record: OnBadRecord = "error"

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not self.sources:
            raise InputError(
                "sources: give at least one file with a JSON object a line "
                "(docs/datasets.md shows one)"
            )
        if not self.lengths:
            raise InputError("lengths is empty: give one, such as 1 documents")
        for length in self.lengths:
            check_choice("the unit of lengths", length.unit, ("documents",))
            check_int("a length in documents", length.count, 1)
        if self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)
        check_int("seed", self.seed, 0)
        check_choice("on_bad_record", self.on_bad_record, ON_BAD_RECORD)

    def settings(self) -> dict[str, Any]:
        """All that the set depends on.

        Raises:
          InputError: a file cannot be read; lines are no examples; there are too few.
        """
        data = self._data
        return {
            "sources": [os.path.basename(path) for path in self.sources],
            "sources_sha256": list(data.sha256),
            "documents_sha256": data.documents_sha256,
            "num_questions": self.num_questions,
            "seed": self.seed,
            "on_bad_record": self.on_bad_record,
        }

    def pool(self) -> Iterator[str]:
        """The documents, each once, in the order of the files."""
        given = 0
        for own, example in self._examples():
            if own == given:  # else it was given before
                given += 1
                yield example.document

    def questions(self, length: Length) -> Iterator[StoredQuestion]:
        """The questions, in the order of the files."""
        chosen = self._data.chosen
        for number, (own, example) in enumerate(self._examples()):
            if chosen is None or number in chosen:
                yield self._question(example, own, length)

    def _question(self, example: Example, own: int, length: Length) -> StoredQuestion:
        sizes = self._data.sizes
        rng = random.Random(f"{self.seed}/jsonl/{example.id}")
        places = {own: rng.random()}
        while len(places) < length.count:
            other = rng.randrange(len(sizes))
            if other not in places:
                places[other] = rng.random()
        pieces = sorted(places, key=places.__getitem__)
        glue = "nothing" if length == ALONE else "numbered"
        before = pieces.index(own)
        # What the glue writes before it, and the texts.
        start = len(GLUES[glue]([""] * (before + 1)))
        start += sum(sizes[piece] for piece in pieces[:before])
        return StoredQuestion(
            id=example.id,
            question=example.question,
            answers=example.answers,
            pieces=pieces,
            glue=glue,
            evidence=tuple((start + a, start + b) for a, b in example.evidence),
            evidence_order=example.evidence_order,
            task=example.task,
            scoring=example.scoring,
            metadata=example.metadata,
        )

    def _examples(self) -> Iterator[tuple[int, Example]]:
        """(index of the document, example) of each good line."""
        lines = (item for item in self._lines() if isinstance(item, Line))
        for own, item in zip(self._data.documents, lines, strict=True):
            yield own, item.example

    def _lines(self, hashes: Sequence[Any] = ()) -> Iterator[Line | str]:
        """What each line tells, or what is wrong with it.

        Args:
          hashes: for each file, is updated with its bytes.
        """
        seen: dict[str, str] = {}
        for path, digest in itertools.zip_longest(self.sources, hashes):
            suffix = f" of {os.path.basename(path)}" if len(self.sources) > 1 else ""
            with opened(path) as file:
                for where, line, note in json_lines(_hashed(file, digest), path):
                    bad: list[BadRecord] = []
                    own = where + suffix  # ids are unique in all files
                    with gathering(bad, own) as known:
                        yield read_line(line, own, note, path, seen, known)
                    if bad:
                        yield bad[0]._replace(where=where).message(path)

    @functools.cached_property
    def _data(self) -> "_Data":
        hashes = [hashlib.sha256() for _ in self.sources]
        files = hashlib.sha256()
        index: dict[bytes, int] = {}
        documents, sizes = array.array("l"), array.array("q")
        bad: list[str] = []
        num_bad = 0
        for item in self._lines(hashes):
            if isinstance(item, str):
                num_bad += 1
                bad += [item] * (num_bad <= _TOLD)
                continue
            text = item.example.document
            files.update(item.path_sha256.encode())
            digest = hashlib.sha256(text.encode()).digest()
            documents.append(index.setdefault(digest, len(index)))
            if len(sizes) < len(index):
                sizes.append(len(text))
        name = ", ".join(self.sources)
        if num_bad and (self.on_bad_record == "error" or not documents):
            more = f"; and {num_bad - _TOLD} more" if num_bad > _TOLD else ""
            raise InputError(
                f"{num_bad} of {num_bad + len(documents)} records are bad: "
                f"{'; '.join(bad)}{more}; correct them, or skip them (on_bad_record)"
            )
        if not documents:
            raise InputError(f"{name}: holds no example")
        if (longest := max(self.lengths).count) > len(sizes):
            raise InputError(
                f"{name}: has {len(sizes)} different documents, too few for documents "
                f"of {longest}"
            )
        return _Data(
            tuple(each.hexdigest() for each in hashes),
            files.hexdigest(),
            documents,
            sizes,
            self._chosen(len(documents), name),
        )

    def _chosen(self, count: int, name: str) -> Set[int] | None:
        if (wanted := self.num_questions) is None:
            return None
        if wanted > count:
            raise InputError(
                f"{name}: has {count} questions, fewer than {wanted}; lower "
                "num_questions"
            )
        rng = random.Random(f"{self.seed}/jsonl/questions")
        return frozenset(rng.sample(range(count), wanted))


class _Data(NamedTuple):
    """What is known of the files after one pass.

    Attributes:
      sha256: of each.
      documents_sha256: of the sha256 of all files that document_path names.
      documents: of each good line the index of its document.
      sizes: characters of each document.
      chosen: numbers of the good lines that are asked; None: all.
    """

    sha256: tuple[str, ...]
    documents_sha256: str
    documents: Sequence[int]
    sizes: Sequence[int]
    chosen: Set[int] | None


def _hashed(lines: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    for line in lines:
        if digest is not None:
            digest.update(line)
        yield line
