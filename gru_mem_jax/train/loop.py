"""The loop: rollouts, rewards, advantages, update, evaluation, checkpoint, again.

What a step does is a function of the settings, its number, the params and the position
in the source; a checkpoint holds the last two. So a run that was killed and goes on
repeats, bit for bit, what the killed one would have done.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.errors import RunError
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.run import evaluation_columns
from gru_mem_jax.rl.learner import Carry, Learner, Report, Score, host_count
from gru_mem_jax.rl.packing import Conversation, PackedRows, mini_batches, pack
from gru_mem_jax.rl.rollout import learnable
from gru_mem_jax.rl.summary import (
    summarize_gaps,
    summarize_rollouts,
    summarize_updates,
)
from gru_mem_jax.runs.checkpoints.store import RunState, RunStore
from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import MetricsWriter, time_columns
from gru_mem_jax.runs.rollouts import load_rollouts, save_rollouts
from gru_mem_jax.runs.signals import StopSignal, Watchdog
from gru_mem_jax.train.config import TrainConfig
from gru_mem_jax.train.progress import TrainProgress
from gru_mem_jax.train.rollouts import Rollouts, RolloutStage, check_gap

ROLLOUTS = "rollouts"


class Stopped(Exception):
    """The run was asked to stop; raised between two programs, never in one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop is made of.

    Attributes:
      settings, agent, encoder, learner, stage, store, run, metrics, show: see there.
      frozen: params that LoRA does not train, else {}.
      sets: held-out questions, for evaluations.
      reference: full params of the KL's reference; None where beta is 0.
      stop, watchdog: entered already.
      replay: folder of recorded rollouts to train from; None: sample.
      place: puts full params where the engine runs.
    """

    settings: TrainConfig
    agent: AgentConfig
    encoder: Encoder
    learner: Learner
    stage: RolloutStage
    store: RunStore
    run: RunFolder
    metrics: MetricsWriter
    show: TrainProgress
    sets: tuple[DrawnSet, ...]
    frozen: Any
    reference: Any
    stop: StopSignal
    watchdog: Watchdog
    replay: str | None
    place: Callable[[Any], Any]


class Loop:
    """One run, from where it stands to its end.

    Args:
      parts: everything.
      progress: where it stands.
    """

    def __init__(self, parts: Parts, progress: RunState):
        self._parts, self.at = parts, progress
        self._config = parts.settings.train
        self._seconds: dict[str, float] = {}
        self._absent: set[str] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._next: Future[Rollouts] | None = None
        self._abandon = False
        if self._config.overlap and progress.behaviour is None:
            behaviour = self._policy_params()
            self.at = dataclasses.replace(progress, behaviour=behaviour)

    def run(self) -> bool:
        """Trains to the last step.

        Returns:
          False if it was asked to stop before; it is saved where it stood.

        Raises:
          RunError: see `train`.
        """
        try:
            if self.at.pending is not None:
                self._end_of_step()
            while self.at.step < self._config.num_steps:
                self._look()
                self._step()
                self._end_of_step()
            if not self._parts.store.has(self.at.step):
                self._save()
            return True
        except Stopped:
            if not self._parts.store.has(self.at.step):
                self._save()
            return False
        finally:
            self._abandon = True
            self._pool.shutdown(wait=True, cancel_futures=True)

    # One step

    def _step(self) -> None:
        step, started = self.at.step + 1, time.perf_counter()
        self._seconds = {}
        rollouts = self._rollouts(step)
        if self._config.record:
            with self._stage("record"):
                folder = self._parts.run.path / ROLLOUTS
                save_rollouts(
                    folder,
                    step,
                    rollouts.batch,
                    rollouts.scores.terms,
                    rollouts.scores.advantages,
                )
        batch, scores = rollouts.batch, rollouts.scores
        keep = rollouts.signal
        if not self._config.dynamic_sampling:
            keep = batch.outcomes.scored.any(-1)
        columns = summarize_rollouts(
            batch, scores.terms, scores.trajectory, keep, rollouts.signal
        )
        turns = learnable(
            batch,
            scores.advantages,
            keep,
            drop_cut=self._parts.settings.learner.drop_cut,
        )
        batches = self._pack(turns)
        with self._stage("score"):
            old, reference = self._scores(batches)
        if old is not None or not batches:
            columns |= self._gap([score for part in old or () for score in part])
        behaviour = None
        if self._config.overlap:
            behaviour = self._policy_params()
            self._begin_next(step + 1, batch.position, behaviour)
        with self._stage("update"):
            state, reports, gap = self._update(batches, old, reference)
        columns |= summarize_updates(reports) | gap
        columns["skipped"] = int(state.skipped)
        met = self.at.met_bad + batch.skipped
        columns["data/skipped"] = self._parts.stage.skipped(met)
        self.at = RunState(
            step=step,
            state=state,
            position=batch.position,
            behaviour=behaviour,
            met_bad=met,
        )
        self._check_skipped()
        if step == 1 or self._sampled(step):
            self._parts.stage.write_samples(
                self._parts.run.trajectories, step, rollouts, self._config.samples
            )
        self._seconds["step"] = time.perf_counter() - started
        learned = sum(len(turn) for turn in turns)
        columns |= time_columns(self._seconds, int(columns["tokens/sampled"]), learned)
        self.at = dataclasses.replace(self.at, pending=self._present(columns))

    def _rollouts(self, step: int) -> Rollouts:
        if self._parts.replay is not None:
            with self._stage("replay"):
                batch = load_rollouts(self._parts.replay, step)
                return self._parts.stage.scored(batch)
        if self._next is None:
            params = self.at.behaviour
            with self._stage("place"):
                params = self._policy_params() if params is None else params
            rollouts = self._sample(step, self.at.position, params)
        else:
            with self._stage("wait"):
                rollouts, self._next = self._next.result(), None
        self._seconds["rollout"] = rollouts.seconds
        return rollouts

    def _sample(self, step: int, position: int, params: Any) -> Rollouts:
        started = time.perf_counter()

        def on_turn() -> None:
            self._parts.watchdog.beat(f"sampling step {step}")
            self._look()

        params = self._parts.place(params)
        rollouts = self._parts.stage.sample(step, position, params, on_turn)
        return rollouts._replace(seconds=time.perf_counter() - started)

    def _begin_next(self, step: int, position: int, behaviour: Any) -> None:
        if step <= self._config.num_steps and self._parts.replay is None:
            self._next = self._pool.submit(self._sample, step, position, behaviour)

    def _pack(self, turns: list[Conversation]) -> list[list[PackedRows]]:
        """Micro-batches of each optimiser step; none where nothing is to be learned."""
        if not turns:
            self._note(f"step {self.at.step + 1}: no group teaches anything; no update")
            return []
        questions = len({turn.index[0] for turn in turns})
        count = min(self._parts.settings.learner.optimizer_steps_per_batch, questions)
        parts = mini_batches(turns, count)
        return [pack(part, self._parts.learner.packing) for part in parts]

    def _scores(self, batches) -> tuple[list[list[Score]] | None, list[list[Any]]]:
        """Of the policy that sampled, and the reference's logprobs.

        The first is None where the only update is of that very policy, and so brings
        its logprobs along.
        """
        behaviour, reference = self.at.behaviour, self._parts.reference

        def under(params: Any) -> list[list[Score]]:
            return [[self._scored(params, rows) for rows in part] for part in batches]

        old = None
        if behaviour is not None or len(batches) > 1:
            old = under(self._full_params() if behaviour is None else behaviour)
        if reference is None:
            return old, [[None] * len(part) for part in batches]
        scores = under(reference)
        return old, [[score.logprobs for score in part] for part in scores]

    def _gap(self, scores: Sequence[Score | Carry]) -> dict[str, Any]:
        """Columns of the distance to the sampler, which must be within its limit."""
        gaps = [(score.gap, score.largest_gap) for score in scores]
        columns = summarize_gaps(gaps)
        check_gap(columns, self._config.logprob_gap_limit, self.at.step + 1)
        return columns

    def _scored(self, params: Any, rows: PackedRows) -> Score:
        self._look()
        return jax.block_until_ready(self._parts.learner.score(params, rows))

    def _update(
        self, batches, old, reference
    ) -> tuple[Any, list[Report], dict[str, Any]]:
        """The new state, what each optimiser step did, and the gap if `old` is None."""
        learner, state, reports = self._parts.learner, self.at.state, []
        gap: dict[str, Any] = {}
        carry = learner.begin() if batches else None
        for number, (part, references) in enumerate(
            zip(batches, reference, strict=True)
        ):
            count = host_count(part)
            scores = [None] * len(part) if old is None else old[number]
            for rows, score, ref in zip(part, scores, references, strict=True):
                if not reports:  # later the state is no longer that of a whole step
                    self._look()
                self._parts.watchdog.beat("updating the policy")
                carry = learner.accumulate(
                    state.params,
                    self._parts.frozen,
                    carry,
                    rows,
                    None if score is None else score.logprobs,
                    ref,
                    count,
                )
                jax.block_until_ready(carry)
            if old is None:
                gap = self._gap([carry])
            state, carry, report = learner.apply(state, carry)
            reports.append(jax.device_get(report))
        return state, reports, gap

    def _check_skipped(self) -> None:
        in_a_row = int(self.at.state.skipped_in_a_row)
        if in_a_row >= self._config.max_skipped:
            raise RunError(
                f"step {self.at.step}: {in_a_row} optimiser steps in a row had a loss, "
                "gradient or result that is not finite and were skipped; lower the "
                "learning rate, or go on from the last checkpoint with other settings"
            )

    # After a step

    def _end_of_step(self) -> None:
        """Evaluation if it is due, then the row, then the checkpoint."""
        at, config = self.at, self._config
        row = dict(at.pending or {})
        if config.eval_every and at.step % config.eval_every == 0:
            started = time.perf_counter()
            row |= self._present(self._evaluate(at.step))
            row["eval_seconds"] = time.perf_counter() - started
        if row:
            self._parts.metrics.write(at.step, row)
            self._parts.show.row(at.step, row)
        self.at = dataclasses.replace(at, pending=None)
        if at.step and (at.step % config.save_every == 0):
            self._save(row)

    def _evaluate(self, step: int) -> dict[str, Any]:
        if self._next is not None:  # the engine is in use
            self._wait_for_next()

        def on_turn() -> None:
            self._parts.watchdog.beat(f"evaluating step {step}")
            self._look()

        engine = self._parts.stage.engine(self._parts.place(self._policy_params()))
        return evaluation_columns(
            engine,
            self._parts.encoder,
            self._parts.agent,
            self._parts.sets,
            self._config.eval_modes,
            on_turn,
        )

    def _wait_for_next(self) -> None:
        # Its error, if there is one, is told where its rollouts are needed.
        while not self._next.done():
            self._look()
            time.sleep(0.01)

    def _save(self, row: dict[str, Any] | None = None) -> None:
        if self._parts.store.has(self.at.step):
            return
        self._parts.watchdog.beat("saving")
        self._parts.metrics.sync()
        score = None
        if row is not None and self._config.best_metric is not None:
            score = row.get(self._config.best_metric)
        with self._stage("save"):
            self._parts.store.save(self.at, score=score)

    def _sampled(self, step: int) -> bool:
        every = self._config.sample_every
        return bool(every) and step % every == 0

    # Small things

    def _look(self) -> None:
        if self._abandon or self._parts.stop.requested:
            raise Stopped

    def _full_params(self) -> Any:
        """Of the policy as it stands; with LoRA merged."""
        if self._parts.settings.learner.lora is None:
            return self.at.state.params
        return self._policy_params()

    def _policy_params(self) -> Any:
        """The same in new arrays, which later updates leave alone."""
        learner = self._parts.learner
        dtype = learner.config.dtype
        return learner.policy_params(self.at.state.params, self._parts.frozen, dtype)

    def _present(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Columns that have a value; says so once where one has none."""
        absent = {name for name, value in columns.items() if value is None}
        for name in sorted(absent - self._absent):
            if not is_time(name):
                self._note(f"{name} is absent: there is nothing to take the mean of")
        self._absent |= absent
        return {name: value for name, value in columns.items() if value is not None}

    def _note(self, line: str) -> None:
        self._parts.run.log(line)
        self._parts.show.note(line)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._parts.watchdog.beat(f"stage {name} after step {self.at.step}")
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
