"""What several folders of results hold, as one: policies, questions, answers."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.evaluation.folder import ResultsFolder
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
class Collected:
    """All that a report shows.

    Attributes:
      folders: in the order given.
      title: of the first folder.
      policies: unique names to where they are.
      seeds: whether the policies were measured together, as seeds of one training: then
        means over them are shown.
      modes: in the order of the first folder that has each.
      samples: answers with their questions, in the order of the tables.
      asked: number of questions of all folders.
      settings: of each folder.
      problems: a line for each line of a folder that could not be read.
    """

    folders: tuple[ResultsFolder, ...]
    title: str
    policies: dict[str, str]
    seeds: bool
    modes: tuple[str, ...]
    samples: tuple[Sample, ...]
    asked: int
    settings: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]

    def trajectories(self) -> Iterator[tuple[int, ScoredKey, Trajectory]]:
        """(number of the folder, key, trajectory), one after the other."""
        for number, folder in enumerate(self.folders):
            for key, trajectory in folder.trajectories():
                yield number, key, trajectory


def collect(folders: Sequence[ResultsFolder]) -> Collected:
    """Joins folders; policies of one name that differ get their folder's name too."""
    policies: dict[str, str] = {}
    modes: dict[str, None] = {}
    samples: list[Sample] = []
    asked = 0
    for number, folder in enumerate(folders):
        manifest = folder.manifest
        modes |= dict.fromkeys(manifest.modes)
        names = {}
        for name, where in manifest.policies.items():
            names[name] = _unique(name, where, policies, folder.path.name, number)
            policies[names[name]] = where
        questions = {question.key: question for question in folder.questions()}
        asked += len(questions)
        order = {place: i for i, place in enumerate(questions)}
        found = []
        for answer in folder.answers():
            place = answer.key[2:]
            if (question := questions.get(place)) is None:
                continue  # cut off by a kill: it is asked again
            name = names.get(answer.policy, answer.policy)
            renamed = dataclasses.replace(answer, policy=name)
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
        seeds=len(folders) == 1 and len(policies) > 1,
        modes=tuple(modes),
        samples=tuple(samples),
        asked=asked,
        settings=tuple(folder.manifest.settings for folder in folders),
        problems=tuple(line for folder in folders for line in folder.problems),
    )


def _unique(
    name: str, where: str, taken: dict[str, str], folder: str, number: int
) -> str:
    if taken.get(name, where) == where:
        return name
    longer = f"{name} ({folder})"
    return longer if taken.get(longer, where) == where else f"{longer} {number + 1}"
