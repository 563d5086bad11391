"""MemAgent's own evaluation files, eval_50.json to eval_6400.json.

Yu et al., arXiv 2507.02259, `taskutils/memory_data`: a list of records with context,
input, answers, num_docs and index. They have no evidence; HotpotQA's file has it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from gru_mem_jax.data import files
from gru_mem_jax.data.bad_records import BadRecord, Records
from gru_mem_jax.data.example import Example, Scoring
from gru_mem_jax.data.hotpotqa import read_hotpotqa
from gru_mem_jax.data.paragraphs import ParagraphQuestion
from gru_mem_jax.data.scoring import SCORERS
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemAgentSource(files.FileSource):
    """The questions of an evaluation file of MemAgent, reshuffled in every epoch.

    Attributes:
      hotpotqa: the official file that the questions are of, for evidence; None: none
        is marked. A question or paragraph that is not in it makes a record a bad one.
      scoring: of the answers; "boxed" is MemAgent's.
      path, seed, on_bad_record, part, held_out_share: see `FileSource`.
    """

    hotpotqa: str | None = None
    scoring: Scoring = "boxed"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scoring", self.scoring, tuple(SCORERS))

    def example(self, position: int) -> Example:
        """The example at a position.

        Raises:
          InputError: a file cannot be read, or records have another form: names file,
            record and field.
        """
        good = self._usable.records.good
        return good[files.index_at(position, self.seed, len(good))][1]

    @functools.cached_property
    def _data(self) -> files.FileData:
        value, sha256 = files.read_json(self.path)
        values = files.checked(value, list, f"{self.path}: the file's value")
        if not values:
            raise InputError(f"{self.path}: holds no record")
        official: Mapping[str, ParagraphQuestion] | None = None
        if self.hotpotqa is not None:
            file = read_hotpotqa(self.hotpotqa, lambda _: None)
            official = {item.question: item for _, item in file.questions}
            sha256 = hashlib.sha256(f"{sha256} {file.sha256}".encode()).hexdigest()
        good: list[tuple[str, Example]] = []
        bad: list[BadRecord] = []
        seen: dict[str, str] = {}
        for number, record in enumerate(values):
            where = f"record {number}"
            with files.gathering(bad, where) as known:
                example = _example(record, where, self.scoring, known)
                files.check_new(example.id, where, seen)
                files.check_answers(example.answers, self.scoring)
                if official is not None:
                    example = _labelled(example, official, f"{self.hotpotqa}")
                good.append((where, example))
        mine = self._part_of(good, bad)
        records = Records(name=self.path, good=tuple(mine), bad=tuple(bad))
        return files.FileData(records, sha256)


def _example(
    record: Any, where: str, scoring: Scoring, known: dict[str, str]
) -> Example:
    known["id"] = str(files.field(record, "index", int, where))
    if isinstance(record.get("context"), list):
        raise InputError(
            f"{where}.context is numbers of paragraphs, as MemAgent writes it for more "
            "than 10,000; build such documents from HotpotQA's file by long_hotpotqa"
        )
    context = files.field(record, "context", str, where)
    question = files.field(record, "input", str, where)
    for name, text in (("context", context), ("input", question)):
        if not text.strip():
            raise InputError(f"{where}.{name} is empty")
    answers = files.field(record, "answers", list, where)
    for answer in answers:
        files.checked(answer, str, f"{where}.answers: an entry")
    return Example(
        id=known["id"],
        question=question,
        answers=tuple(answers),
        document=context,
        task="hotpotqa",
        scoring=scoring,
    )


def _labelled(
    example: Example, official: Mapping[str, ParagraphQuestion], path: str
) -> Example:
    """With the evidence of HotpotQA's record of the same question."""
    if (item := official.get(example.question)) is None:
        raise InputError(f"its question {example.question!r:.60} is not in {path}")
    found: list[tuple[tuple[int, int], int]] = []
    for i, paragraph in enumerate(item.paragraphs):
        if paragraph.evidence:
            text = f"\n{paragraph.title}\n{paragraph.text}"
            if (at := example.document.find(text)) < 0:
                raise InputError(
                    f"its context lacks the paragraph {paragraph.title!r:.60}, which "
                    f"is evidence by {path}"
                )
            shift = at + len(paragraph.title) + 2
            step = item.steps[i] if item.steps else -1
            found += [((a + shift, b + shift), step) for a, b in paragraph.evidence]
    found.sort()
    return dataclasses.replace(
        example,
        evidence=tuple(span for span, _ in found),
        evidence_order=tuple(step for _, step in found) if item.steps else (),
    )
