"""What several folders of results hold, as one: policies, questions, answers."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.evaluation import hijack
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.naming import policy_names, questions_of
from gru_mem_jax.evaluation.records import AskedQuestion, ScoredAnswer, ScoredKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A question and how it went.

    Attributes:
      folder: number of the folder that both are from.
      question, answer: of which `answer.policy` is unique among the folders.
      key: of the answer in its folder.
    """

    folder: int
    question: AskedQuestion
    answer: ScoredAnswer
    key: ScoredKey

    @property
    def id(self) -> str:
        """Names it in links: equal for equal policies, modes and questions."""
        text = "\0".join(map(str, (*self.answer.key, self.question.id)))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Folders whose rows can stand in one table.

    Attributes:
      heading: of the part; empty if there is one.
      folders: numbers.
    """

    heading: str
    folders: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collected:
    """All that a report shows.

    Attributes:
      folders: in the order given.
      title: of the first folder.
      policies: unique names to where they are.
      parts: all folders, in order; two that asked the same policy other questions under
        the same names of sets and contexts are in different ones.
      compared: of each folder the policies that were asked its questions, in any
        folder.
      modes: in the order of the first folder that has each.
      samples: answers with their questions, in the order of the tables.
      asked: number of questions of each folder.
      settings: of each folder.
      problems: a line for each line of a folder that could not be read.
    """

    folders: tuple[ResultsFolder, ...]
    title: str
    policies: dict[str, str]
    parts: tuple[Part, ...]
    compared: tuple[tuple[str, ...], ...]
    modes: tuple[str, ...]
    samples: tuple[Sample, ...]
    asked: tuple[int, ...]
    settings: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]

    def trajectories(self) -> Iterator[tuple[int, ScoredKey, Trajectory]]:
        """(number of the folder, key, trajectory), one after the other."""
        for number, folder in enumerate(self.folders):
            for key, trajectory in folder.trajectories():
                yield number, key, trajectory

    def hijack_rows(self, folders: Sequence[int]) -> list[dict[str, Any]]:
        """What attacks caused, folder by folder; none without attacks.

        Args:
          folders: numbers.
        """
        rows: list[dict[str, Any]] = []
        for number in folders:
            own = [sample for sample in self.samples if sample.folder == number]
            questions = [sample.question for sample in own]
            rows += hijack.hijack_rows(questions, [sample.answer for sample in own])
        return rows


def collect(folders: Sequence[ResultsFolder]) -> Collected:
    """Joins folders; a policy's name that several have gets its folder's too."""
    policies: dict[str, str] = {}
    modes: dict[str, None] = {}
    samples: list[Sample] = []
    asked: list[int] = []
    all_names = policy_names(folders)
    for number, (folder, names) in enumerate(zip(folders, all_names, strict=True)):
        manifest = folder.manifest
        modes |= dict.fromkeys(manifest.modes)
        for name, where in manifest.policies.items():
            policies.setdefault(names[name], where)
        questions = {question.key: question for question in folder.questions()}
        asked.append(len(questions))
        order = {place: i for i, place in enumerate(questions)}
        found = []
        for answer in folder.answers():
            place = answer.key[2:]
            if (question := questions.get(place)) is None:
                continue  # its line was damaged
            renamed = dataclasses.replace(
                answer, policy=names.get(answer.policy, answer.policy)
            )
            sample = Sample(
                folder=number, question=question, answer=renamed, key=answer.key
            )
            found.append((order[place], sample))
        found.sort(key=lambda each: each[0])
        samples += [sample for _, sample in found]
    return Collected(
        folders=tuple(folders),
        title=folders[0].manifest.title,
        policies=policies,
        parts=_parts(folders, samples),
        compared=_compared(folders, all_names),
        modes=tuple(modes),
        samples=tuple(samples),
        asked=tuple(asked),
        settings=tuple(folder.manifest.settings for folder in folders),
        problems=tuple(line for folder in folders for line in folder.problems),
    )


def _parts(
    folders: Sequence[ResultsFolder], samples: Sequence[Sample]
) -> tuple[Part, ...]:
    rows: dict[int, set[tuple[str, ...]]] = {}
    for sample in samples:
        policy, _, *rest = sample.answer.key[:-1]
        rows.setdefault(sample.folder, set()).add((policy, *rest))
    groups: dict[str, list[int]] = {}
    for number, of in enumerate(map(questions_of, folders)):
        groups.setdefault(of, []).append(number)
    parts: list[tuple[set[tuple[str, ...]], list[int]]] = []
    for numbers in groups.values():
        own = set().union(*(rows.get(number, set()) for number in numbers))
        fitting = (part for part in parts if not part[0] & own)
        part = next(fitting, None)
        if part is None:
            part = (set(), [])
            parts.append(part)
        part[0].update(own)
        part[1].extend(numbers)
    return tuple(
        Part(
            heading=_heading(folders, numbers) if len(parts) > 1 else "",
            folders=tuple(sorted(numbers)),
        )
        for _, numbers in parts
    )


def _heading(folders: Sequence[ResultsFolder], numbers: Sequence[int]) -> str:
    """Titles of a part's folders; their names where titles do not tell them apart."""
    titles = {folder.manifest.title for folder in folders}
    own = (
        folders[i].manifest.title if len(titles) > 1 else folders[i].path.name
        for i in numbers
    )
    return ", ".join(dict.fromkeys(own))


def _compared(
    folders: Sequence[ResultsFolder], names: Sequence[dict[str, str]]
) -> tuple[tuple[str, ...], ...]:
    policies: dict[str, dict[str, None]] = {}
    questions = [questions_of(folder) for folder in folders]
    for of, own in zip(questions, names, strict=True):
        policies.setdefault(of, {}).update(dict.fromkeys(own.values()))
    return tuple(tuple(policies[of]) for of in questions)
