"""The loop of a run: a step, its row, an evaluation, a checkpoint, again.

What a step does is a function of the configuration, its number, the params and the
position in the source; a checkpoint holds the last two. So a run that was killed and is
resumed repeats, bit for bit, what it would have done.

`train.rl` and `train.sft` are the two kinds of step; both end in `update`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gru_mem_jax.errors import RunError
from gru_mem_jax.hosts.processes import Hosts, Stopped
from gru_mem_jax.rl.compile import Learner
from gru_mem_jax.rl.learner import Batch, Carry, Report, TrainState, host_count
from gru_mem_jax.rl.packing import PackedRows
from gru_mem_jax.runs.checkpoints.store import RunState, RunStore
from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import MetricsWriter
from gru_mem_jax.runs.signals import StopSignal, Watchdog
from gru_mem_jax.sampling.footprint import engine_dtype
from gru_mem_jax.train.config import LoopConfig
from gru_mem_jax.train.engine import HeldEngine
from gru_mem_jax.train.plan import Plan
from gru_mem_jax.train.profiling import Profiler
from gru_mem_jax.train.progress import Activity

Columns = Mapping[str, Any]

# Stages of a step as they are shown; others by their names.
_STAGES = {
    "place": "placing the weights",
    "score": "scoring",
    "record": "writing rollouts",
    "replay": "reading rollouts",
    "wait": "waiting",
}


class Monitor:
    """What work in a run reports to: stop signal, watchdog, clock and notes.

    Args:
      stop, watchdog: entered already.
      note: takes a line for log and screen.
      hosts: the processes of the run; None: this one alone.
      profiler: traces some of the steps; None: none.
      activity: is told what the run is at; None: nobody asks.

    Attributes:
      hosts, activity: of the run.
      seconds: wall-clock of each stage of the step that runs.
      abandoned: set when the loop ends: what runs beside it stops at its next `look`.
    """

    def __init__(
        self,
        stop: StopSignal,
        watchdog: Watchdog,
        note: Callable[[str], None],
        hosts: Hosts | None = None,
        profiler: Profiler | None = None,
        activity: Activity | None = None,
    ):
        self._stop, self._watchdog, self.note = stop, watchdog, note
        self.hosts, self.profiler = hosts or Hosts(), profiler
        self.activity = activity or Activity()
        self.seconds: dict[str, float] = {}
        self.abandoned = False

    def look(self) -> None:
        """Raises Stopped if the run was asked to stop.

        Other processes may not have heard of it yet: to be called in `Hosts.together`.
        """
        self.hosts.check()
        if self.abandoned or self._stop.requested:
            raise Stopped

    def look_together(self) -> None:
        """Raises Stopped on all processes if one was asked to stop; all call it."""
        self.hosts.together("stop", self.look)

    def beat(self, doing: str) -> None:
        """Tells the watchdog that something happens."""
        self._watchdog.beat(doing)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage of the step, and names it in a profiler's trace."""
        self.beat(f"stage {name}")
        self.activity.doing(_STAGES.get(name, name))
        started = time.perf_counter()
        try:
            with jax.profiler.TraceAnnotation(f"stage {name}"):
                yield
        finally:
            seconds = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds


class StepResult(NamedTuple):
    """What a step came to.

    Attributes:
      at: where the run stands now.
      columns: gives the step's columns; called only where a row is due, for it may wait
        for the device. None where there is nothing to take the mean of.
    """

    at: RunState
    columns: Callable[[], Columns]


class RunParts(NamedTuple):
    """What steps of both kinds are made of.

    Attributes:
      planned: what fits together.
      learner: its functions.
      engine: samples, where the run does.
      evaluate: (params where the engine runs, step) to columns; None: no suite.
      place: hands full params over to where the engine runs; see `HeldEngine`.
      folder: of the run.
      monitor: of the run.
      frozen: params that LoRA does not train, else {}.
      reference: full params of the KL's reference; None: there is none.
    """

    planned: Plan
    learner: Learner
    engine: HeldEngine
    evaluate: Callable[[Any, int], Columns] | None
    place: Callable[[Any], Any]
    folder: RunFolder
    monitor: Monitor
    frozen: Any
    reference: Any

    def policy_params(self, at: RunState) -> Any:
        """The policy's params as it stands, merged, in new arrays."""
        learner = self.learner
        dtype = learner.config.dtype
        return learner.policy_params(at.state.params, self.frozen, dtype)

    def params_to_place(self, at: RunState) -> Any:
        """As `policy_params`, to be placed: no copy where that casts them alike."""
        learner, engine = self.learner, self.planned.engine
        adapted = learner.config.lora is not None or engine is None
        if adapted or engine_dtype(engine) != learner.config.dtype.name:
            return self.policy_params(at)
        return at.state.params


class StepKind(Protocol):
    """One kind of step."""

    def begin(self, at: RunState) -> RunState:
        """Where the run stands, with what the first step needs besides."""

    def step(self, at: RunState) -> StepResult:
        """Does step `at.step + 1`."""

    def evaluate(self, at: RunState) -> Columns:
        """Columns of an evaluation of the policy as it stands."""

    def close(self) -> None:
        """Ends what runs beside the loop."""


class Loop:
    """One run, from where it stands to its end.

    Args:
      config: steps, evaluations, checkpoints.
      kind: of step.
      store: of checkpoints.
      metrics: takes the rows.
      show_row: shows the row of a step.
      monitor: of the run.
      at: where it stands.
    """

    def __init__(
        self,
        config: LoopConfig,
        kind: StepKind,
        store: RunStore,
        metrics: MetricsWriter,
        show_row: Callable[[int, Columns], None],
        monitor: Monitor,
        at: RunState,
    ):
        self._config, self._kind, self._store = config, kind, store
        self._metrics, self._show_row, self._monitor = metrics, show_row, monitor
        self.at = kind.begin(at)
        self._absent: set[str] = set()

    def run(self) -> bool:
        """Trains to the last step.

        Returns:
          False if it was asked to stop before; it is saved where it stood.

        Raises:
          RunError: see `train`.
        """
        try:
            # Told at once: `close` waits for what other processes may wait in, too.
            with self._monitor.hosts.telling():
                self._run()
            return True
        except Stopped:
            self._save()
            return False
        finally:
            self._monitor.abandoned = True
            if self._monitor.profiler is not None:
                self._monitor.profiler.close()
            self._kind.close()

    def _run(self) -> None:
        if self.at.pending is not None:
            self._end_of_step()
        while self.at.step < self._config.num_steps:
            self._monitor.look_together()
            self._step()
            self._end_of_step()
        self._save()

    def _step(self) -> None:
        monitor, hosts = self._monitor, self._monitor.hosts
        monitor.seconds = {}
        monitor.activity.begin(self.at.step + 1)
        traced = monitor.profiler and monitor.profiler.step(self.at.step + 1)
        with traced or contextlib.nullcontext():
            result = self._kind.step(self.at)
        at, config = result.at, self._config
        pending = None
        if at.step % config.log_every == 0 or self._is_evaluated(at.step):
            columns = result.columns()
            self._check_skipped(at)
            # Of the first process: times differ, and a checkpoint is of one row.
            pending = hosts.gather("row", self._present(columns))[0]
        self.at = dataclasses.replace(at, pending=pending)

    def _check_skipped(self, at: RunState) -> None:
        in_a_row = int(at.state.skipped_in_a_row)
        if in_a_row >= self._config.max_skipped:
            raise RunError(
                f"step {at.step}: {in_a_row} optimiser steps in a row had a loss, "
                "gradient or result that is not finite and were skipped; lower the "
                "learning rate, or resume from the last checkpoint with other settings"
            )

    def _end_of_step(self) -> None:
        """Evaluation if it is due, then the row, then the checkpoint."""
        at = self.at
        row = dict(at.pending or {})
        if self._is_evaluated(at.step):
            started = time.perf_counter()
            row |= self._present(self._kind.evaluate(at))
            row["eval_seconds"] = time.perf_counter() - started
        if row:
            self._metrics.write(at.step, row)
            self._show_row(at.step, row)
        self.at = dataclasses.replace(at, pending=None)
        if at.step and at.step % self._config.save_every == 0:
            self._save(row)

    def _is_evaluated(self, step: int) -> bool:
        every = self._config.eval_every
        return bool(every) and step % every == 0

    def _save(self, row: Columns | None = None) -> None:
        if self._store.has(self.at.step):
            return
        self._monitor.beat("saving")
        self._monitor.activity.doing("saving")
        self._check_skipped(self.at)
        self._metrics.sync()
        metric = None
        if row is not None and self._config.best_metric is not None:
            metric = row.get(self._config.best_metric)
        self._store.save(self.at, metric=metric)

    def _present(self, columns: Columns) -> dict[str, Any]:
        """Columns that have a value; says so once where one has none."""
        absent = {name for name, value in columns.items() if value is None}
        for name in sorted(absent - self._absent):
            if not is_time(name):
                self._monitor.note(
                    f"{name} is absent: there is nothing to take the mean of"
                )
        self._absent |= absent
        return {name: value for name, value in columns.items() if value is not None}


def update(
    learner: Learner,
    state: TrainState,
    frozen: Any,
    parts: Sequence[Sequence[PackedRows]],
    monitor: Monitor,
    *,
    old: Sequence[Sequence[Any]] | None = None,
    reference: Sequence[Sequence[Any]] | None = None,
    counts: Sequence[np.float32] | None = None,
    supports: jax.Array | None = None,
    on_first: Callable[[Carry], None] = lambda carry: None,
) -> tuple[TrainState, list[Report]]:
    """Optimiser steps, one on each part of a batch.

    Nothing here waits for the device: a stop signal is looked for between micro-batches
    of the first part, after which the state is no longer that of a whole step.

    Args:
      learner: its functions.
      state: before; donated.
      frozen: of `Learner.freeze`.
      parts: micro-batches of each optimiser step.
      monitor: of the run.
      old: logprobs of the policy that sampled, as `parts`; None: it is `state`'s.
      reference: logprobs of the KL's reference, as `parts`; None: there is none.
      counts: learned tokens of each part; None: those of `parts`.
      supports: the table that `PackedRows.support` names rows of; None: there is none.
      on_first: called with what the first part has added up.

    Returns:
      The state after all parts, and their reports, on device.
    """
    if not parts:
        return state, []
    carry, reports = learner.begin(), []
    done: list[jax.Array] = []  # a number for each micro-batch, ready when it is done
    every = sum(map(len, parts))
    monitor.activity.doing("update", lambda: f"micro-batch {at_item(done, every)}")
    for number, part in enumerate(parts):
        count = host_count(part) if counts is None else counts[number]
        for i, rows in enumerate(part):
            if not reports:
                monitor.look_together()
            monitor.beat("updating the policy")
            batch = Batch(
                rows,
                None if old is None else old[number][i],
                None if reference is None else reference[number][i],
                count,
                supports,
            )
            carry = learner.accumulate(state.params, frozen, carry, batch)
            done.append(jnp.copy(carry.largest_gap))  # the carry itself is donated
        if not reports:
            on_first(carry)
        state, carry, report = learner.apply(state, carry)
        reports.append(report)
    return state, reports


def at_item(started: Sequence[jax.Array], of: int) -> str:
    """The item that a device is at, "3 of 12", from a result of each that was begun."""
    return f"{min(of, 1 + sum(each.is_ready() for each in list(started)))} of {of}"
