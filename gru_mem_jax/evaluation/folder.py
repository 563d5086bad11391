"""The folder of an evaluation: written line by line, continued, read.

What a line says was scored survives the end of the process, however it ends; an
incomplete last line is dropped. `records` has the files and their lines.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from gru_mem_jax import buckets, durable_files, storage
from gru_mem_jax.agent.config import config_from_dict, config_to_dict
from gru_mem_jax.agent.trajectory import (
    Trajectory,
    trajectory_from_dict,
    trajectory_to_dict,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.lines import (
    complete_lines,
    cut_to,
    cut_torn,
    line_of,
    parsed,
)
from gru_mem_jax.evaluation.records import (
    AskedQuestion,
    Manifest,
    QuestionKey,
    ScoredAnswer,
    ScoredKey,
)
from gru_mem_jax.records import first_difference, from_record, to_record
from gru_mem_jax.runs.appended import Appended, open_appended
from gru_mem_jax.runs.lock import FileLock

MANIFEST = "evaluation.json"
QUESTIONS = "questions.jsonl"
ANSWERS = "answers.jsonl"
TRAJECTORIES = "trajectories.jsonl"
RESULTS = "results.json"

_LOCK = "lock"
_FORMAT = 1
_LARGEST_JSON = 1 << 26
_SYNC_SECONDS = 1.0
_MOST_NAMED = 5  # damaged lines
_TRACE = ("prompt_ids", "completion_ids", "logprobs", "sampling_logprobs")

Record = TypeVar("Record")


class ResultsFolder:
    """What an evaluation has left, also while it runs.

    Lines that cannot be read are passed over and named in `problems`. Of two lines with
    one key the first counts.

    Args:
      folder: on a disk, or in a bucket (gs://).

    Attributes:
      path: of the folder.
      manifest: what was measured.
      problems: a line of text for each line that could not be read so far.

    Raises:
      InputError: it is no folder of an evaluation.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = storage.locate(folder)
        self.manifest = _read_manifest(self.path)
        self.problems: list[str] = []

    def questions(self) -> list[AskedQuestion]:
        """All that were asked, in the order in which they were begun."""
        return list(self._unique(QUESTIONS, _question, lambda each: each.key).values())

    def answers(self) -> list[ScoredAnswer]:
        """All that were scored, in the order in which they ended."""
        return list(self._unique(ANSWERS, _answer, lambda each: each.key).values())

    def trajectories(self) -> Iterator[tuple[ScoredKey, Trajectory]]:
        """Those that were kept, with the key of their answers; one at a time."""
        left = {answer.key for answer in self.answers()}
        for key, trajectory in self._records(TRAJECTORIES, _trajectory):
            if key in left:
                left.discard(key)
                yield key, trajectory

    def results(self) -> dict[str, Any]:
        """The table of the last evaluation that went to its end.

        Raises:
          InputError: none did, or it cannot be read.
        """
        return _read_json(self.path / RESULTS)

    def _unique(
        self, name: str, read: Callable[[Any], Record], key: Callable[[Record], Any]
    ) -> dict[Any, Record]:
        found: dict[Any, Record] = {}
        for record in self._records(name, read):
            found.setdefault(key(record), record)
        return found

    def _records(self, name: str, read: Callable[[Any], Record]) -> Iterator[Record]:
        for number, line in enumerate(complete_lines(self.path / name), 1):
            try:
                record = read(parsed(line))
            except InputError as error:
                problem = f"{self.path / name}:{number}: {error}"
                if problem not in self.problems:
                    self.problems.append(problem)
                continue
            yield record


class ResultsWriter:
    """Writes the folder of an evaluation, or goes on with it; a context manager.

    Args:
      folder: made if absent.
      manifest: of this evaluation. One that the folder has must have equal settings,
        and its modes stay; if nothing was scored yet it is replaced.

    Attributes:
      path: of the folder.
      scored: the answers that the folder has, by key; `write_answer` adds to them.
      notes: lines to tell: of lines that were damaged, and of the lock.

    Raises:
      InputError: another process writes into it, it cannot be written, or holds
        something else, or an evaluation with other settings: names the first that
        differs.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Manifest):
        self.path = storage.locate(folder)
        self.scored: dict[ScoredKey, ScoredAnswer] = {}
        self.notes: list[str] = []
        self._asked: set[QuestionKey] = set()
        self._files: dict[str, Appended] = {}
        self._synced = time.monotonic()
        try:
            if storage.in_bucket(self.path):
                buckets.check(self.path)
            storage.make_folder(self.path)
            self._lock = FileLock(self.path / _LOCK)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror})"
            ) from None
        try:
            self._open(manifest)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ResultsWriter":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _open(self, manifest: Manifest) -> None:
        if self._lock.note is not None:
            self.notes.append(self._lock.note)
        if storage.exists(self.path / MANIFEST):
            manifest = self._continue(manifest)
        else:
            names = {n for n in storage.names(self.path) if not n.endswith(".saving")}
            if strange := sorted(names - {_LOCK}):
                raise InputError(
                    f"{self.path}: no folder of an evaluation: it has {strange[0]} and "
                    f"no {MANIFEST}; give a new folder"
                )
        data = line_of(to_record(manifest), indent=1)
        with durable_files.writing(self.path / MANIFEST):
            durable_files.write_atomically(self.path / MANIFEST, data)
        for name in (QUESTIONS, TRAJECTORIES, ANSWERS):
            with durable_files.writing(self.path / name):
                self._files[name] = open_appended(self.path / name)

    def _continue(self, manifest: Manifest) -> Manifest:
        have = ResultsFolder(self.path)
        if next(complete_lines(self.path / ANSWERS), None) is None:
            with durable_files.writing(self.path):
                for name in (QUESTIONS, TRAJECTORIES, ANSWERS):
                    cut_to(self.path / name, 0)
            return manifest
        found = first_difference(
            _completed(have.manifest.settings),
            json_values(manifest.settings),
            "settings",
        )
        if found is not None:
            raise InputError(
                f"{self.path}: holds another evaluation: {found}; go on with it by its "
                "own command, or give a new folder"
            )
        with durable_files.writing(self.path):
            for name in (QUESTIONS, TRAJECTORIES, ANSWERS):
                cut_torn(self.path / name)
            self._asked = {question.key for question in have.questions()}
            # One whose question is lost is asked again, which writes the question.
            scored = (a for a in have.answers() if a.key[2:] in self._asked)
            self.scored = {answer.key: answer for answer in scored}
            _cut_unscored(self.path / TRAJECTORIES, self.scored)
        self.notes += [f"passed over: {line}" for line in have.problems[:_MOST_NAMED]]
        if (more := len(have.problems) - _MOST_NAMED) > 0:
            self.notes.append(f"passed over: {more} more lines")
        modes = dict.fromkeys((*have.manifest.modes, *manifest.modes))
        return dataclasses.replace(manifest, modes=tuple(modes))

    def write_question(self, question: AskedQuestion) -> None:
        """Adds a question, unless the folder has it.

        Raises:
          RunError: it cannot be written; what was written before stays.
        """
        if question.key not in self._asked:
            self._append(QUESTIONS, to_record(question))
            self._asked.add(question.key)

    def write_answer(
        self, answer: ScoredAnswer, trajectory: Trajectory | None = None
    ) -> None:
        """Adds an answer that was scored, after the trajectory if that is kept.

        Raises:
          RunError: it cannot be written; what was written before stays.
        """
        if answer.key in self.scored:
            return
        if trajectory is not None:
            record = {"key": list(answer.key), "trajectory": _compact(trajectory)}
            self._append(TRAJECTORIES, record)
        self._append(ANSWERS, to_record(answer))
        self.scored[answer.key] = answer
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replaces the table, results.json.

        Raises:
          RunError: it cannot be written.
        """
        data = line_of(results, indent=1)
        with durable_files.writing(self.path / RESULTS):
            durable_files.write_atomically(self.path / RESULTS, data)

    def sync(self) -> None:
        """Returns when all that was written would survive the end of the machine.

        Raises:
          RunError: it cannot be written.
        """
        for name in (QUESTIONS, TRAJECTORIES, ANSWERS):
            with durable_files.writing(self.path / name):
                self._files[name].sync()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Ends the files, and lets go of the folder."""
        try:
            for name, file in self._files.items():
                with durable_files.writing(self.path / name):
                    file.close()
        finally:
            self._files = {}
            self._lock.release()

    def _append(self, name: str, record: Any) -> None:
        data = line_of(record)
        with durable_files.writing(self.path / name, needed=len(data)):
            self._files[name].append(data)


def json_values(value: Any) -> Any:
    """What a value is after it was written as JSON and read."""
    return json.loads(json.dumps(to_record(value)))


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a folder, with defaults for the agent's that came later."""
    # An agent's that are refused differ from the new one's, which is told.
    with contextlib.suppress(InputError, KeyError):
        agent = config_to_dict(config_from_dict(settings["agent"]))
        return {**settings, "agent": json_values(agent)}
    return dict(settings)


def _cut_unscored(path: Any, scored: Mapping[ScoredKey, ScoredAnswer]) -> None:
    """Removes a last trajectory that the process did not live to score."""
    start, line = 0, b""
    for following in complete_lines(path):
        start, line = start + len(line), following
    with contextlib.suppress(InputError):
        if line and _trajectory_key(parsed(line)) not in scored:
            cut_to(path, start)


def _question(record: Any) -> AskedQuestion:
    return from_record(AskedQuestion, record, "question")


def _answer(record: Any) -> ScoredAnswer:
    return from_record(ScoredAnswer, record, "answer")


def _trajectory_key(record: Any) -> ScoredKey:
    key = record.get("key") if isinstance(record, dict) else None
    if not (
        isinstance(key, list)
        and [type(part) for part in key] == [str, str, str, str, int]
    ):
        raise InputError(
            "expected a trajectory with the key [policy, mode, set, labels, index], "
            f"got {key!r:.80}"
        )
    policy, mode, name, labels, index = key
    return policy, mode, name, labels, index


def _trajectory(record: Any) -> tuple[ScoredKey, Trajectory]:
    return _trajectory_key(record), trajectory_from_dict(_full(record["trajectory"]))


def _compact(trajectory: Trajectory) -> dict[str, Any]:
    """As JSON, without token ids and without memories that are as they were before."""
    record, before = trajectory_to_dict(trajectory), ""
    for turn in record["turns"]:
        for name in _TRACE:
            turn.pop(name, None)
        if turn["memory_before"] == before:
            del turn["memory_before"]
            if turn["memory"] == before:
                del turn["memory"]
        before = turn.get("memory", before)
    return record


def _full(record: Any) -> Any:
    """The inverse of `_compact`; what is no such record is left as it is."""
    turns = record.get("turns") if isinstance(record, dict) else None
    if not isinstance(turns, list):
        return record
    full, before = [], ""
    for turn in turns:
        if isinstance(turn, dict):
            turn = {"memory_before": before, "memory": before} | turn
            before = turn["memory"]
        full.append(turn)
    return record | {"turns": full}


def _read_manifest(path: Any) -> Manifest:
    if not storage.exists(path / MANIFEST):
        raise InputError(
            f"{path}: is no folder of an evaluation (gru-mem eval --out): it has no "
            f"{MANIFEST}"
        )
    record = _read_json(path / MANIFEST)
    if (form := record.get("format")) != _FORMAT:
        raise InputError(
            f"{path / MANIFEST}: format must be {_FORMAT}, got {form!r:.40}; read it "
            "with the version of gru_mem_jax that wrote it"
        )
    return from_record(Manifest, record, str(path / MANIFEST))


def _read_json(path: Any) -> dict[str, Any]:
    try:
        if not storage.is_file(path) or storage.size(path) > _LARGEST_JSON:
            raise InputError(f"{path}: expected a file of JSON")
        record = json.loads(storage.read_bytes(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: expected JSON") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected an object of JSON")
    return record
