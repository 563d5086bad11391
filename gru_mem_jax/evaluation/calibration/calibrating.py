"""A calibration from its policy to its folder: `calibrate`.

A folder of a calibration has

    reading/            evaluation of every question, read to its end: P(yes) and P(end)
                        of every chunk are in its trajectories
    exit_T/, update_U_exit_T/
                        evaluations with exit gate at thresholds
    calibration.json    reliability, curve, runs: `Calibration.record`
    calibration.png     the same as a picture
    gru_mem.json        settings of the policy with the thresholds that were picked
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gru_mem_jax import durable_files
from gru_mem_jax.agent.config import SETTINGS_FILE, AgentConfig, check_budgets
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation import statistics
from gru_mem_jax.evaluation.calibration import settings as settings_lib
from gru_mem_jax.evaluation.calibration.drawing import picture
from gru_mem_jax.evaluation.calibration.exits import ExitCurve, exit_curve, neighbours
from gru_mem_jax.evaluation.calibration.gates import CRITERIA, HALF, Criterion
from gru_mem_jax.evaluation.calibration.readings import calibrate_gates, readings
from gru_mem_jax.evaluation.calibration.result import (
    Calibration,
    GateCalibration,
    Mean,
    Run,
)
from gru_mem_jax.evaluation.evaluating import Observer, by_name, evaluate
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.lines import line_of
from gru_mem_jax.evaluation.questions import draw_sets
from gru_mem_jax.evaluation.readers import LocalReader, Reader, Warm
from gru_mem_jax.evaluation.records import KEPT, QuestionKey, ScoredAnswer
from gru_mem_jax.evaluation.run import greedy
from gru_mem_jax.evaluation.statistics import share
from gru_mem_jax.evaluation.suite import Suite
from gru_mem_jax.hosts import processes as hosts_lib
from gru_mem_jax.records import check_choice, check_number
from gru_mem_jax.sampling.config import EngineConfig

READING = "reading"
RESULT = "calibration.json"
PICTURE = "calibration.png"
_EVERY = 1 << 40  # trajectories that are kept
PathLike = str | os.PathLike[str]
Answers = Mapping[QuestionKey, ScoredAnswer]


def calibrate(
    policy: PathLike,
    suite: Suite,
    out: PathLike,
    *,
    agent: AgentConfig | None = None,
    engine: EngineConfig | None = None,
    cache_bytes: int | None = None,
    criterion: Criterion = "balanced_accuracy",
    max_loss: float = 0.01,
    verify: bool = True,
    write: bool = False,
    reader: Callable[[str, AgentConfig], Reader] | None = None,
    observer: Observer | None = None,
) -> Calibration:
    """Compares the gates' probabilities with evidence labels, and picks thresholds.

    Every question is read to its end in constrained turns, each gate taking its
    likelier side. The update threshold is the best by `criterion`. The exit threshold
    is the one with the fewest chunks whose share of complete evidence is within
    `max_loss` of reading everything, were the memories as they were recorded. They are
    not where the update threshold moves gates, so the pair is then asked with exit
    gate, and beside it 0.5 and a threshold on each side that reads noticeably less or
    more.

    The same call goes on where it was stopped; thresholds that the settings already
    have play no part in what is read.

    Args:
      policy: a Hugging Face directory.
      suite: questions with labelled evidence, best such as nothing was trained on.
      out: the folder, new or of the same calibration.
      agent: how contexts are read; None: as the policy's settings say, and greedily.
      engine, cache_bytes: as of `evaluate`.
      criterion: "balanced_accuracy" or "f1".
      max_loss: of the share of questions whose evidence was read, in 0..1.
      verify: whether questions are asked at the thresholds.
      write: whether the policy's own gru_mem.json is replaced too; else the settings
        are in `out` alone.
      reader: of the policy's engine; None: on this machine's devices.
      observer: is told how it goes on.

    Raises:
      InputError: a question has no evidence, the policy reads without gates or cannot
        be constrained, settings or the folder are refused; before anything is asked.
      RunError, KeyboardInterrupt, runs.signals.Terminated: with a line on how to go on.
    """
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.policy.files import open_policy_dir

    where, out, watch = os.fspath(policy), pathlib.Path(out), observer or Observer()
    check_choice("criterion", criterion, CRITERIA)
    check_number("max_loss", max_loss, 0, 1)
    if hosts_lib.current().count > 1:
        raise InputError("a calibration is made by one process, and here are several")
    if write:
        settings_lib.check_writable(where)
    directory = open_policy_dir(where)
    if out.exists() and out.samefile(directory.root):
        raise InputError(
            f"{out}: is the policy's own folder: give another one, and write=True "
            f"(--write) puts the thresholds into the policy's {SETTINGS_FILE}"
        )
    saved = greedy(policy_settings(directory))
    used = agent or saved
    if used.mode == "memagent":
        raise InputError(
            f"{where}: its settings say mode memagent, which has no gates to "
            "calibrate; take a policy with gates, or set mode to with_exit_gate"
        )
    whole = dataclasses.replace(
        used,
        mode="without_exit_gate",
        format="constrained",
        update_threshold=None,
        exit_threshold=None,
        max_chunks=None,
        deadline_seconds=None,
    )
    once = _Once((reader or LocalReader)(where, whole))
    _check_labelled(suite, once, whole)
    named = by_name(where)

    def ask(config: AgentConfig, folder: str, keep: int) -> ResultsFolder:
        found = evaluate(
            named,
            suite,
            out / folder,
            modes=[config.mode],
            agent=config,
            engine=engine,
            cache_bytes=cache_bytes,
            keep_trajectories=keep,
            title=f"Calibration of {next(iter(named))}: {folder}",
            reader=lambda *_: once,
            observer=watch,
        )
        if found is None:
            raise RunError(f"{out / folder}: is another process's")
        return found

    watch.note("calibration: reading every document to its end")
    folder = ask(whole, READING, _EVERY)
    answers = _answers(folder)
    questions = {question.key: question for question in folder.questions()}
    kept = ((key[2:], trajectory) for key, trajectory in folder.trajectories())
    read = readings(questions, kept)
    if not read:
        raise RunError(_none_read(folder, answers))
    update, exit_gate, curve = calibrate_gates(
        read,
        criterion=criterion,
        max_loss=max_loss,
        before=(used.update_threshold, used.exit_threshold),
    )
    held = {key: each.evidence_chunks for key, each in questions.items()}
    last = {key: max(chunks) for key, chunks in held.items() if chunks}
    runs = [_run(whole, answers, answers, last)]
    for threshold in _to_ask(exit_gate, curve) if verify else ():
        config = dataclasses.replace(
            whole,
            mode="with_exit_gate",
            update_threshold=update.threshold,
            exit_threshold=threshold,
        )
        watch.note(f"calibration: asking with exit_threshold {threshold:g}")
        own = _answers(ask(config, _name(config), KEPT))
        predicted = exit_curve(
            [r.end for r in read], [r.last_evidence for r in read], [threshold]
        )
        run = _run(config, own, answers, last, predicted)
        runs.append(dataclasses.replace(run, chosen=threshold == exit_gate.picked))
    settings = None
    if update.picked is not None or exit_gate.picked is not None:
        picked = {"update_threshold": update.picked, "exit_threshold": exit_gate.picked}
        own_settings = directory.read_json(SETTINGS_FILE)
        settings = settings_lib.with_thresholds(own_settings, saved, used, picked)
    result = Calibration(
        policy=where,
        questions=len(read),
        left_out=len(answers) - len(read),
        criterion=criterion,
        max_loss=max_loss,
        update=update,
        exit=exit_gate,
        curve=curve,
        runs=tuple(sorted(runs, key=lambda run: run.chunks)),
        settings=settings,
    )
    with durable_files.writing(out):
        durable_files.write_atomically(out / PICTURE, picture(result))
        durable_files.write_atomically(out / RESULT, line_of(result.record(), indent=1))
    if settings is not None:
        for folder_of in (out, where) if write else (out,):
            settings_lib.write_settings(folder_of, settings)
    return result


class _Once:
    """A `Reader` whose weights are read, and programs compiled, once for all runs.

    Runs differ in thresholds and in whether the exit gate is obeyed, which changes
    neither budgets nor programs.
    """

    def __init__(self, reader: Reader):
        self._reader, self.builder = reader, reader.builder
        self._facts: dict[str, str] | None = None
        self._warm: Warm | None = None

    def facts(self) -> dict[str, str]:
        """What it is recognised by."""
        self._facts = self._facts or self._reader.facts()
        return self._facts

    def warm(self, *arguments: Any) -> Warm:
        """The generator of the first call."""
        self._warm = self._warm or self._reader.warm(*arguments)
        return self._warm


def _check_labelled(suite: Suite, reader: Reader, config: AgentConfig) -> None:
    """Refuses budgets without room for a turn, and a question without evidence."""
    check_budgets(reader.builder, config)
    for drawn in draw_sets(suite.question_sets(), reader.builder, config):
        for example in drawn.examples:
            if not example.evidence:
                raise InputError(
                    f"set {drawn.of.name!r}: question {example.id!r:.60} has no "
                    "evidence; calibrate compares gates with labels: give questions "
                    "whose evidence is labelled (docs/data.md)"
                )


def _answers(folder: ResultsFolder) -> dict[QuestionKey, ScoredAnswer]:
    return {answer.key[2:]: answer for answer in folder.answers()}


def _none_read(folder: ResultsFolder, answers: Answers) -> str:
    failed = [answer.failed for answer in answers.values() if answer.failed]
    why = failed[-1] if failed else "no turn has the probabilities of its gates"
    return f"{folder.path}: none of {len(answers)} questions was read to its end: {why}"


def _to_ask(gate: GateCalibration, curve: ExitCurve | None) -> Sequence[float]:
    """Exit thresholds of the runs: what was picked, its neighbours, 0.5."""
    if gate.picked is None or curve is None:
        return ()
    chosen = int((curve.thresholds < gate.picked).sum())
    beside = [float(curve.thresholds[i]) for i in neighbours(curve, chosen)]
    return sorted({gate.picked, HALF, *beside})


def _name(config: AgentConfig) -> str:
    """Of a run's folder: other thresholds have another one."""
    update, end = config.update_threshold, config.exit_threshold
    return f"exit_{end}" if update is None else f"update_{update}_exit_{end}"


def _run(
    config: AgentConfig,
    answers: Answers,
    whole: Answers,
    last: Mapping[QuestionKey, int],
    predicted: ExitCurve | None = None,
) -> Run:
    """What a run did, beside the one to the end; `last`: chunk of the last evidence."""
    done = {key: each for key, each in answers.items() if each.failed is None}
    ended = [e.chunks_read - 1 - last[key] for key, e in done.items() if key in last]
    scores = [each.score for each in answers.values()]
    loss = None
    if predicted is not None:
        both = [key for key in answers if key in whole]
        found = statistics.paired(
            [whole[key].score for key in both], [answers[key].score for key in both]
        )
        loss = Mean(value=found.mean, low=found.low, high=found.high)
    low, high = statistics.interval(scores)
    return Run(
        update_threshold=config.update_threshold,
        exit_threshold=config.exit_threshold,
        mode=config.mode,
        questions=len(answers),
        failed=len(answers) - len(done),
        score=Mean(value=sum(scores) / len(scores), low=low, high=high),
        loss=loss,
        complete=share(sum(late >= 0 for late in ended), len(ended)) if ended else None,
        exact=share(sum(late == 0 for late in ended), len(ended)) if ended else None,
        chunks=sum(each.chunks_read for each in done.values()) / max(1, len(done)),
        predicted_complete=None if predicted is None else float(predicted.complete[0]),
        predicted_chunks=None if predicted is None else float(predicted.chunks[0]),
    )
