"""Asks the questions of an evaluation, and scores each as soon as it ends.

What a folder says was scored is not asked again. At any moment the documents of the
questions that run are in memory, and no others.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.chunking import evidence_labels
from gru_mem_jax.agent.config import MODES, AgentConfig
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.encoding import Span
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.trajectory import (
    Trajectory,
)
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.attempts import (
    Attempt,
    PassingText,
    Place,
    Refusing,
    documents,
)
from gru_mem_jax.evaluation.baselines import Baseline
from gru_mem_jax.evaluation.excerpts import chunk_texts
from gru_mem_jax.evaluation.measures import scored_answer
from gru_mem_jax.evaluation.passing_on import Buffer, Results, pass_on
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.queue import places, runs
from gru_mem_jax.evaluation.records import (
    AskedQuestion,
    QuestionKey,
    ScoredAnswer,
    ScoredKey,
    labels_text,
)
from gru_mem_jax.hosts.processes import Hosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are asked.

    Attributes:
      policy: name of the policy.
      modes: of the agent, and baselines.
      keep_trajectories: of all policies, modes and sets together, how many are kept.
      num_policies: that share them.
      time_alone: how many questions of each set are asked alone first, to be timed.
      window: tokens of prompt and completion that a baseline may have; None: it has
        no limit of its own.
    """

    policy: str
    modes: Sequence[str]
    keep_trajectories: int = 0
    num_policies: int = 1
    time_alone: int = 0
    window: int | None = None

    def kept(self, sets: Sequence[DrawnSet]) -> list[int]:
        """How many questions of each set keep their trajectories, the first of it."""
        each_run = self.keep_trajectories // (self.num_policies * len(self.modes))
        each, more = divmod(each_run, len(sets))
        return [each + (number < more) for number in range(len(sets))]


def ask(
    generator: Generator,
    builder: PromptBuilder,
    config: AgentConfig,
    sets: Sequence[DrawnSet],
    asking: Asking,
    results: Results | None,
    *,
    on_run: Callable[[Sequence[DrawnSet], str], None] = lambda sets, mode: None,
    forget: Callable[[], None] = lambda: None,
    on_turn: Callable[[], None] = lambda: None,
    on_answer: Callable[[ScoredAnswer], None] = lambda answer: None,
    hosts: Hosts | None = None,
) -> None:
    """Asks every question of every set in every mode, unless it was scored before.

    The sets of one kind of context run together in each mode, so that slots that one
    leaves are filled by the next. A question that fails is asked once more after the
    others of its run, and then counts as failed, with score 0.

    Args:
      generator: warm, so that seconds count no compilation.
      builder: of the prompts.
      config: of the agent; its mode is replaced.
      sets: questions, of `draw_sets`.
      asking: policy and modes.
      results: of the first process; None: of the others.
      on_run: called before each run.
      forget: called before each question that is timed alone, and after these: forgets
        what the generator holds of earlier prompts.
      on_turn: called after each turn; what it raises ends the evaluation.
      on_answer: called after each question that was scored, on the first process.
      hosts: processes that each answer a part of the questions; all answers of a run
        come to the first one at its end. None: this one alone.

    Raises:
      InputError, RunError: a source or the generator fails, or the folder cannot be
        written; what was scored stays.
    """
    hosts = hosts or Hosts()
    names = [sorted(results.scored) if results is not None else []]
    if hosts.count > 1:
        names = hosts.gather("scored", names[0])
    scored = {tuple(key) for key in names[0]}
    kept = asking.kept(sets)
    known: dict[QuestionKey, AskedQuestion] = {}
    few = {id(drawn): number for drawn, number in zip(sets, kept)}
    for group, mode in runs(sets, asking.modes):
        queue = [
            Place(group[number], index)
            for number, index in places(group)
            if _key(asking.policy, mode, group[number], index) not in scored
        ]
        if not queue:
            continue
        on_run(group, mode)
        own = [queue[i] for i in hosts.part(len(queue))]
        buffer = Buffer()
        run = _Run(
            generator,
            builder,
            dataclasses.replace(config, mode=cast(Any, mode))
            if mode in MODES
            else config,
            asking,
            mode,
            few,
            buffer if hosts.count > 1 or results is None else results,
            known,
            hosts,
            on_turn,
            on_answer if hosts.count == 1 else lambda answer: None,
        )

        def answer(run: _Run = run, own: list[Place] = own) -> None:
            run.time_alone(own, forget)
            run.ask(run.ask(own, last=False), last=True)

        hosts.together("answers", answer)
        if hosts.count > 1:
            for line in (
                li for each in hosts.gather("done", buffer.lines) for li in each
            ):
                pass_on(line, results, on_answer)


def count_left(
    sets: Sequence[DrawnSet], asking: Asking, scored: Collection[ScoredKey]
) -> tuple[int, int]:
    """(questions that were not scored yet, all) over all modes."""
    keys = [
        _key(asking.policy, mode, drawn, index)
        for group, mode in runs(sets, asking.modes)
        for drawn in group
        for index in range(len(drawn.examples))
    ]
    return sum(key not in scored for key in keys), len(keys)


def _key(policy: str, mode: str, drawn: DrawnSet, index: int) -> ScoredKey:
    return policy, mode, drawn.of.name, labels_text(drawn.of.labels), index


class _Run:
    """Some sets of one kind of context, in one mode."""

    def __init__(
        self,
        generator: Generator,
        builder: PromptBuilder,
        config: AgentConfig,
        asking: Asking,
        mode: str,
        kept: dict[int, int],
        results: Results,
        known: dict[QuestionKey, AskedQuestion],
        hosts: Hosts,
        on_turn: Callable[[], None],
        on_answer: Callable[[ScoredAnswer], None],
    ):
        self._known, self._hosts = known, hosts
        self._generator = Refusing(generator)
        self._builder, self._config = builder, config
        self._asking, self._mode, self._kept = asking, mode, kept
        self._results, self._on_turn, self._on_answer = results, on_turn, on_answer
        self._alone: dict[QuestionKey, tuple[float, int | None]] = {}
        self._shares: dict[QuestionKey, float] = {}  # of first attempts
        self._before: dict[QuestionKey, Trajectory | None] = {}

    def time_alone(self, queue: Sequence[Place], forget: Callable[[], None]) -> None:
        """Times the first questions of each set, one at a time; counts their steps."""
        timed = [place for place in queue if place.index < self._asking.time_alone]
        for place in timed:
            forget()
            example = place.drawn.examples[place.index]
            asked = self._begin(place, example, PassingText(example.document))
            before, began = self._generator.decode_steps, time.perf_counter()
            for _ in driver.run(self._generator, cast(Any, [asked])):
                self._on_turn()
            seconds, after = time.perf_counter() - began, self._generator.decode_steps
            if asked.failure is None:
                steps = None if before is None or after is None else after - before
                self._alone[place.key] = seconds, steps
        if timed:
            forget()

    def ask(self, queue: Sequence[Place], *, last: bool) -> list[Place]:
        """Asks some questions, and writes those that end.

        Args:
          queue: the questions.
          last: whether those that fail are written too.

        Returns:
          Those that failed and were not written.
        """
        running: dict[int, Attempt] = {}
        failed: list[Place] = []
        # A clock that is slower the more questions run.
        clock, seen = 0.0, time.perf_counter()

        def tick() -> None:
            nonlocal clock, seen
            now = time.perf_counter()
            clock += (now - seen) / max(1, len(running)) / self._hosts.count
            seen = now

        def skip() -> None:
            """Leaves out what was done since the last tick: no work on a question."""
            nonlocal seen
            seen = time.perf_counter()

        def begin() -> Iterator[Attempt]:
            for place, (example, document) in zip(queue, documents(queue)):
                skip()  # a document may take long to compose
                asked = self._begin(place, example, document)
                asked.began = clock
                running[id(asked)] = asked
                yield asked
                end()

        def end() -> None:
            tick()
            for asked in [each for each in running.values() if each.done]:
                del running[id(asked)]
                key, share = asked.place.key, clock - asked.began
                self._shares[key] = self._shares.get(key, 0.0) + share
                if asked.failure is not None and not last:
                    failed.append(asked.place)
                    self._before[key] = asked.trajectory
                else:
                    self._write(asked)
            skip()

        for _ in driver.run(self._generator, cast(Any, begin())):
            end()
            self._on_turn()
        end()
        return failed

    def _begin(self, place: Place, example: Example, document: Document) -> Attempt:
        asked = Attempt(place, example, document)
        try:
            if self._mode in MODES:
                before = self._before.get(place.key)
                asked.recurrence = Recurrence(
                    self._builder,
                    self._config,
                    example.question,
                    document,
                    trajectory_id=place.index,
                    resume=before,
                )
            else:
                asked.recurrence = Baseline(
                    self._mode,
                    self._builder,
                    self._config,
                    example.question,
                    example.document,
                    window=self._asking.window,
                    trajectory_id=place.index,
                )
        except InputError as error:
            asked.error = str(error)
        return asked

    def _write(self, asked: Attempt) -> None:
        if (question := self._known.get(asked.place.key)) is None:
            question = self._question(asked)
            self._results.write_question(question)
            question = dataclasses.replace(question, chunks=())
            self._known[asked.place.key] = question
        answer = scored_answer(
            question,
            asked.example.document,
            asked.trajectory,
            failed=asked.failure,
            policy=self._asking.policy,
            mode=self._mode,
        )
        key = asked.place.key
        seconds_alone, steps_alone = self._alone.get(key, (None, None))
        answer = dataclasses.replace(
            answer,
            seconds_share=self._shares[key],
            seconds_alone=seconds_alone,
            steps_alone=steps_alone,
        )
        kept = asked.place.index < self._kept[id(asked.place.drawn)]
        self._results.write_answer(answer, asked.trajectory if kept else None)
        self._on_answer(answer)

    def _question(self, asked: Attempt) -> AskedQuestion:
        drawn, index = asked.place.drawn, asked.place.index
        example, document = asked.example, asked.document
        size, encoder = self._config.chunk_size, self._builder.encoder
        borders: list[Span] = []
        try:
            if isinstance(document, PassingText):
                borders = document.borders(encoder, size)
            else:
                borders = [(c.start, c.end) for c in document.chunks(encoder, size)]
        except InputError:
            pass  # the text cannot be encoded, and the question has failed
        evidence, _ = evidence_labels(borders, example.evidence)
        return AskedQuestion(
            set=drawn.of.name,
            labels=drawn.of.labels,
            index=index,
            id=example.id,
            question=example.question,
            answers=example.answers,
            task=example.task,
            scoring=example.scoring,
            metadata=example.metadata,
            evidence=example.evidence,
            evidence_order=example.evidence_order,
            num_chunks=len(borders),
            evidence_chunks=tuple(i for i, held in enumerate(evidence) if held),
            chunks=(
                chunk_texts(
                    example.document, borders, example.evidence, attack_spans(example)
                )
                if index < self._kept[id(drawn)]
                else ()
            ),
        )


def attack_spans(example: Example) -> list[Span]:
    """(start, end) of the texts that an attack put into a document."""
    spans = example.metadata.get("attack_spans", ())
    return [(start, end) for start, end in spans]
