"""A step of reinforcement learning: sample, score, update (arXiv 2602.10560).

rollouts    G trajectories for each of P questions, and their rewards
advantages  of trajectories and turns, against their group
update      of the policy, on the turns of groups that teach something
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from gru_mem_jax.rl.learner import Carry, RowLogprobs
from gru_mem_jax.rl.packing import Conversation, PackedRows
from gru_mem_jax.rl.rollout import learnable
from gru_mem_jax.rl.summary import (
    summarize_gaps,
    summarize_rollouts,
    summarize_rows,
    summarize_updates,
)
from gru_mem_jax.rl.supports import check_drawn
from gru_mem_jax.runs.checkpoints.store import RunState
from gru_mem_jax.runs.metrics import time_columns
from gru_mem_jax.runs.rollouts import load_rollouts, save_rollouts
from gru_mem_jax.train.config import TrainConfig
from gru_mem_jax.train.loop import Columns, RunParts, StepResult, at_item, update
from gru_mem_jax.train.questions import QuestionStage
from gru_mem_jax.train.rollouts import (
    Counts,
    Rollouts,
    RolloutStage,
    Scorer,
    check_gap,
    supports_of,
)
from gru_mem_jax.train.several import Packed, pack_parts, summed

ROLLOUTS = "rollouts"


class RLStep:
    """Steps of reinforcement learning.

    Args:
      config: of the run.
      parts: of the run.
      questions: good examples of the source.
      replay: folder of recorded rollouts to train from; None: sample.
    """

    def __init__(
        self,
        config: TrainConfig,
        parts: RunParts,
        questions: QuestionStage,
        *,
        replay: str | None = None,
    ):
        planned = parts.planned
        own = set(jax.local_devices())
        devices = [d for d in planned.mesh.devices.flat if d in own]
        scorer = Scorer(config, planned.agent.mode, devices)
        self._config, self._parts, self._replay = config, parts, replay
        self._monitor, self._hosts = parts.monitor, parts.monitor.hosts
        self._stage = RolloutStage(
            config,
            planned.agent,
            planned.encoder,
            scorer,
            questions,
            parts.engine,
            self._hosts,
        )
        self._supports: jax.Array | None = None
        if (table := supports_of(planned)) is not None:
            self._supports = parts.learner.put_supports(table)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._next: Future[Rollouts] | None = None
        self._counts = Counts()

    def begin(self, at: RunState) -> RunState:
        """Where the run stands, with the params that sample its next step."""
        if self._config.rollouts.overlap and at.behaviour is None:
            return dataclasses.replace(at, behaviour=self._parts.policy_params(at))
        return at

    def step(self, at: RunState) -> StepResult:
        """Samples, scores, updates."""
        step, started = at.step + 1, time.perf_counter()
        config, seconds = self._config.rollouts, self._monitor.seconds
        rollouts = self._rollouts(at)
        batch, scores = rollouts.batch, rollouts.scores
        if config.record:
            with self._monitor.stage("record"):
                save_rollouts(
                    self._parts.folder.path / ROLLOUTS,
                    step,
                    batch,
                    scores.terms,
                    scores.advantages,
                    part=(self._hosts.index, self._hosts.count),
                )
        keep = rollouts.signal
        if not config.dynamic_sampling:
            keep = batch.outcomes.scored.any(-1)
        columns = summarize_rollouts(
            batch, scores.terms, scores.trajectory, keep, rollouts.signal
        )
        turns = learnable(
            batch, scores.advantages, keep, drop_cut=self._config.learner.drop_cut
        )
        packed = self._pack(turns, step)
        parts = packed.parts
        learned = sum(map(len, turns))
        own_rows = [rows for part in packed.own for rows in part]
        own = summarize_rows(own_rows, learned)
        # Turns and rows are those of this process: the columns count all.
        own |= {name: columns[name] for name in ("tokens/sampled", "tokens/prompts")}
        columns |= summed(self._hosts, own)
        with self._monitor.stage("score"):
            old, reference = self._logprobs(at, parts)
        if old is not None or not parts:
            columns |= self._gap([row for part in old or () for row in part], step)
        behaviour = None
        if config.overlap:
            behaviour = self._parts.policy_params(at)
            self._begin_next(step + 1, batch.position, behaviour)
        gap: dict[str, Any] = {}
        with self._monitor.stage("update"):
            state, reports = update(
                self._parts.learner,
                at.state,
                self._parts.frozen,
                parts,
                self._monitor,
                old=old and [[row.logprobs for row in part] for part in old],
                reference=reference,
                counts=packed.counts,
                supports=self._supports,
                on_first=lambda carry: gap.update(
                    self._gap([carry], step) if old is None else {}
                ),
            )
            reports = jax.device_get(reports)
        columns |= summarize_updates(reports) | gap
        columns["skipped"] = int(state.skipped)
        met = at.met_bad + batch.skipped
        columns["data/skipped"] = self._stage.skipped(met)
        due = step == 1 or (config.sample_every and step % config.sample_every == 0)
        if due and self._hosts.is_first:
            self._stage.write_samples(
                self._parts.folder.trajectories, step, rollouts, config.samples
            )
        if self._hosts.count > 1:
            waited = self._hosts.gather("waited", self._hosts.take_waited())
            seconds["hosts"] = max(waited)
            learned = summed(self._hosts, {"learned": learned})["learned"]
        seconds["step"] = time.perf_counter() - started
        columns |= time_columns(seconds, int(columns["tokens/sampled"] or 0), learned)
        at = RunState(
            step=step,
            state=state,
            position=batch.position,
            behaviour=behaviour,
            met_bad=met,
        )
        return StepResult(at, lambda: columns)

    def evaluate(self, at: RunState) -> Columns:
        """Held-out questions, answered greedily."""
        if self._parts.evaluate is None:
            return {}
        self._hosts.together("engine", self._wait_for_engine)
        params = self._parts.place(self._parts.params_to_place(at))
        return self._parts.evaluate(params, at.step)

    def _wait_for_engine(self) -> None:
        """Until nothing is sampled; an error of rollouts is raised by `_rollouts`."""
        while self._next is not None and not self._next.done():
            self._monitor.look()
            time.sleep(0.01)

    def close(self) -> None:
        """Ends the rollouts that are sampled beside the update."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # Sampling

    def _rollouts(self, at: RunState) -> Rollouts:
        step = at.step + 1
        if self._replay is not None:
            with self._monitor.stage("replay"):
                part = (self._hosts.index, self._hosts.count)
                batch = load_rollouts(self._replay, step, part)
                check_drawn(batch.turns, self._supports)
                return self._stage.scored(batch)
        if self._next is None:
            params = at.behaviour
            with self._monitor.stage("place"):
                if params is None:
                    params = self._parts.params_to_place(at)
                params = self._parts.place(params)
            self._monitor.activity.doing("sampling", lambda: str(self._counts))
            rollouts = self._sample(step, at.position, params)
        else:
            with self._monitor.stage("wait"):
                self._monitor.activity.doing("sampling", lambda: str(self._counts))
                rollouts, self._next = self._next.result(), None
        self._monitor.seconds["rollout"] = rollouts.seconds
        return rollouts

    def _sample(self, step: int, position: int, params: Any) -> Rollouts:
        started = time.perf_counter()
        self._counts = counts = Counts()

        def on_turn() -> None:
            self._monitor.beat(f"sampling step {step}")
            self._monitor.look()

        rollouts = self._stage.sample(step, position, params, on_turn, counts)
        self._parts.engine.release()
        return rollouts._replace(seconds=time.perf_counter() - started)

    def _begin_next(self, step: int, position: int, behaviour: Any) -> None:
        if step <= self._config.loop.num_steps and self._replay is None:
            # Placed here: a program of several processes has its place in the order
            # of their main threads.
            params = self._parts.place(behaviour)
            self._next = self._pool.submit(self._sample, step, position, params)

    # Learning

    def _pack(self, turns: list[Conversation], step: int) -> Packed:
        """Micro-batches of each optimiser step; none where nothing is to be learned."""
        steps = self._config.learner.optimizer_steps_per_batch
        packed = pack_parts(self._hosts, turns, steps, self._parts.learner)
        if not packed.parts:
            self._monitor.note(f"step {step}: no group teaches anything; no update")
        return packed

    def _logprobs(
        self, at: RunState, parts: Sequence[Sequence[PackedRows]]
    ) -> tuple[list[list[RowLogprobs]] | None, list[list[Any]] | None]:
        """Of the policy that sampled, and the reference's.

        The first is None where the only update is of that very policy, and so brings
        its logprobs along; the second where there is no reference.
        """

        every = sum(map(len, parts))

        def under(params: Any) -> list[list[RowLogprobs]]:
            found, begun = [], []
            self._monitor.activity.doing(
                "scoring", lambda: f"micro-batch {at_item(begun, every)}"
            )
            for part in parts:
                found.append([])
                for rows in part:
                    self._monitor.look_together()
                    scored = self._parts.learner.logprobs(params, rows, self._supports)
                    found[-1].append(scored)
                    begun.append(scored.largest_gap)
            return jax.block_until_ready(found)  # the stage is timed to its end

        old = reference = None
        if at.behaviour is not None or len(parts) > 1:
            old = under(self._full_params(at) if at.behaviour is None else at.behaviour)
        if self._parts.reference is not None:
            rows = under(self._parts.reference)
            reference = [[row.logprobs for row in part] for part in rows]
        return old, reference

    def _gap(self, rows: Sequence[RowLogprobs | Carry], step: int) -> dict[str, Any]:
        """Columns of the distance to the sampler, which must be within its limit."""
        columns = summarize_gaps([(row.gap, row.largest_gap) for row in rows])
        check_gap(columns, self._config.rollouts.logprob_gap_limit, step)
        return columns

    def _full_params(self, at: RunState) -> Any:
        """Of the policy as it stands; with LoRA merged."""
        if self._config.learner.lora is None:
            return at.state.params
        return self._parts.policy_params(at)
