"""A step of supervised training: turns of an oracle, packed, then the same update.

Turns are made in pools: those of the next examples, until there are enough to shuffle.
A pool is a function of the configuration and the position of its first example, so that
a checkpoint needs to hold no more than that position and how many of the pool's batches
are done.
"""

import dataclasses
import itertools
import queue
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.turns import SupervisedTurn
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.rl.compile import Learner
from gru_mem_jax.rl.learner import host_count
from gru_mem_jax.rl.packing import (
    Conversation,
    PackConfig,
    PackedRows,
    Row,
    assign_rows,
    pack,
    pack_rows,
    row_items,
    unpack,
)
from gru_mem_jax.rl.summary import summarize_rows, summarize_updates
from gru_mem_jax.runs.checkpoints.store import RunState
from gru_mem_jax.train.config import SFTConfig
from gru_mem_jax.train.loop import Columns, Monitor, RunParts, StepResult, update
from gru_mem_jax.train.questions import QuestionStage
from gru_mem_jax.train.several import fetched, spread

_AHEAD = 16  # steps whose rows are made ahead of the learner


class Step(NamedTuple):
    """What a step learns, and where the run stands after it.

    Attributes:
      micro_batches: packed rows.
      position: of the first example of the pool that comes next.
      taken: batches of that pool that are done.
      met_bad: bad examples that were met on the way.
      tokens: of all turns, prompts too, each turn by itself.
    """

    micro_batches: list[PackedRows]
    position: int
    taken: int
    met_bad: int
    tokens: int


class _Pool(NamedTuple):
    conversations: list[Conversation]
    batches: list[list[Row]]  # rows of each batch
    after: int  # position of the next pool
    met_bad: int


class TurnStream:
    """The steps of a run, from any of them on.

    Args:
      config: of the run.
      encoder: the policy's tokenizer.
      agent: how contexts are read in the turns.
      questions: good examples of `config.source`.
      short: of `config.short_source`; None: it has none of its own.
      packing: size of the rows.
    """

    def __init__(
        self,
        config: SFTConfig,
        encoder: Encoder,
        agent: AgentConfig,
        questions: QuestionStage,
        short: QuestionStage | None,
        packing: PackConfig,
    ):
        self._config, self._packing = config, packing
        chunk_size = config.short_chunk_size or agent.chunk_size
        short_agent = dataclasses.replace(agent, chunk_size=chunk_size)
        self._whole = (questions, config.turns.oracle(encoder, agent))
        self._short = (short or questions, config.turns.oracle(encoder, short_agent))

    def steps(self, step: int, position: int, taken: int) -> Iterator[Step]:
        """What the steps after `step` learn, without end.

        Args:
          step: steps that are done.
          position: of the first example of the pool that comes next.
          taken: batches of that pool that are done.
        """
        while True:
            is_short = step < self._config.short_steps
            pool = self._pool(position, is_short)
            for i, rows in enumerate(pool.batches[taken:], taken):
                step += 1
                ends = i + 1 == len(pool.batches)
                if is_short and step == self._config.short_steps:
                    ends = True  # the rest of its pool is of the wrong kind
                yield Step(
                    pack_rows(pool.conversations, rows, self._packing),
                    position=pool.after if ends else position,
                    taken=0 if ends else i + 1,
                    met_bad=pool.met_bad if i == 0 else 0,
                    tokens=sum(len(pool.conversations[i]) for i in row_items(rows)),
                )
                if ends:
                    break
            position, taken = pool.after, 0

    def _pool(self, position: int, is_short: bool) -> _Pool:
        """The turns of the next examples, packed into batches of rows at random."""
        config = self._config
        questions, oracle = self._short if is_short else self._whole
        found: list[Conversation] = []
        start, met_bad = position, 0
        while len(found) < config.pool_turns:
            made = questions.next_turns(oracle, config.loop.seed, position)
            met_bad, position = met_bad + made.skipped, made.position + 1
            found += as_conversations(made.turns, made.position)
        rows = assign_rows(found, self._packing)
        random.Random(f"rows/{config.loop.seed}/{start}").shuffle(rows)
        count = -(-len(rows) // config.rows)
        # As equal as can be: a last batch of few tokens would have a noisy gradient.
        borders = [len(rows) * i // count for i in range(count + 1)]
        batches = [rows[a:b] for a, b in itertools.pairwise(borders)]
        return _Pool(found, batches, position, met_bad)


def as_conversations(
    turns: Sequence[SupervisedTurn], position: int
) -> list[Conversation]:
    """The turns of the example at a position, as the learner sees them."""
    return [
        Conversation(
            index=(position, 0, k),
            prompt_ids=turn.prompt,
            completion_ids=turn.completion,
            sampler_logprobs=(0.0,) * len(turn.completion),
            advantage=1.0,
        )
        for k, turn in enumerate(turns)
    ]


def exact_turns(
    learner: Learner,
    params: Any,
    turns: Sequence[SupervisedTurn],
    hosts: Hosts | None = None,
) -> dict[str, float]:
    """Share of turns whose every token is the most likely one, given those before.

    Args:
      learner: whose rows the turns are packed into.
      params: full params.
      turns: what is looked at.
      hosts: the processes that the learner's devices are of; None: this one alone.

    Returns:
      "KIND", "KIND/TASK", and "gated/with_evidence", "gated/without_evidence".
    """
    conversations = [as_conversations([turn], i)[0] for i, turn in enumerate(turns)]
    hosts, batches = hosts or Hosts(), pack(conversations, learner.packing)
    flags = [
        fetched(hosts, learner, learner.predicted(params, spread(hosts, learner, rows)))
        for rows in batches
    ]
    right: dict[str, list[bool]] = defaultdict(list)
    for turn, tokens in zip(turns, unpack(flags, batches, len(turns)), strict=True):
        names = [turn.kind, f"{turn.kind}/{turn.task}"]
        if turn.kind == "gated":
            names.append(f"gated/{'with' if turn.evidence else 'without'}_evidence")
        for name in names:
            right[name].append(bool(tokens.all()))
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


class SFTStep:
    """Supervised steps.

    Args:
      config: of the run.
      parts: of the run; the learner's objective is the negative log-likelihood.
      questions: good examples of `config.source`.
      short: of `config.short_source`; None: it has none of its own.
      held_out: turns that the training is watched on.
    """

    def __init__(
        self,
        config: SFTConfig,
        parts: RunParts,
        questions: QuestionStage,
        short: QuestionStage | None,
        held_out: Sequence[SupervisedTurn],
    ):
        encoder, agent = parts.planned.encoder, parts.planned.agent
        self._parts, self._questions = parts, questions
        self._monitor = parts.monitor
        self._stream = TurnStream(
            config, encoder, agent, questions, short, parts.learner.packing
        )
        self._held_out = held_out
        self._steps: _Ahead | None = None
        self._tokens, self._since, self._last_row = 0, 0.0, 0

    def begin(self, at: RunState) -> RunState:
        """Starts to make what the next steps learn."""
        self._steps = _Ahead(self._stream.steps(at.step, at.position, at.taken))
        self._since, self._last_row = time.perf_counter(), at.step
        return at

    def step(self, at: RunState) -> StepResult:
        """Learns a batch of turns; does not wait for the device."""
        hosts, learner = self._monitor.hosts, self._parts.learner
        with self._monitor.stage("wait"):
            batch = hosts.together("batch", lambda: self._steps.next(self._monitor))
        state, (report,) = update(
            learner,
            at.state,
            self._parts.frozen,
            [[spread(hosts, learner, rows) for rows in batch.micro_batches]],
            self._monitor,
            counts=None if hosts.count == 1 else [host_count(batch.micro_batches)],
        )
        self._tokens += batch.tokens
        at = RunState(
            step=at.step + 1,
            state=state,
            position=batch.position,
            taken=batch.taken,
            met_bad=at.met_bad + batch.met_bad,
        )

        def columns() -> Columns:
            found = summarize_updates([jax.device_get(report)])
            found["target_tokens"] = int(report.sums["loss"].count)
            found |= summarize_rows(batch.micro_batches, batch.tokens)
            found["skipped"] = int(state.skipped)
            found["data/skipped"] = self._questions.known_bad + at.met_bad
            return found | self._times(at.step)

        return StepResult(at, columns)

    def _times(self, step: int) -> dict[str, float]:
        """Of the steps since the last row, in the mean."""
        now = time.perf_counter()
        seconds, steps = now - self._since, max(1, step - self._last_row)
        found = {
            "step_seconds": seconds / steps,
            "update_tokens_per_s": self._tokens / seconds,
        }
        self._tokens, self._since, self._last_row = 0, now, step
        return found

    def evaluate(self, at: RunState) -> Columns:
        """Held-out turns that are right token for token, and held-out questions."""
        learner, params = self._parts.learner, self._parts.policy_params(at)
        columns: dict[str, Any] = {}
        if self._held_out:
            self._monitor.beat(f"held-out turns of step {at.step}")
            self._monitor.activity.doing("looking at held-out turns")
            exact = exact_turns(learner, params, self._held_out, self._monitor.hosts)
            columns |= {f"exact/{name}": value for name, value in exact.items()}
        if self._parts.evaluate is not None:
            columns |= self._parts.evaluate(self._parts.place(params), at.step)
        self._since = time.perf_counter()  # evaluations are no part of a step
        return columns

    def close(self) -> None:
        """Ends the thread that makes rows."""
        if self._steps is not None:
            self._steps.close()


class _Ahead:
    """The same items, made by a thread while the learner works."""

    def __init__(self, items: Iterator[Step]):
        self._items = items
        self._ready: queue.Queue[Step | BaseException] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        threading.Thread(target=self._make, name="sft-data", daemon=True).start()

    def next(self, monitor: Monitor) -> Step:
        """The next item; raises what making it raised."""
        while True:
            try:
                item = self._ready.get(timeout=0.2)
            except queue.Empty:
                monitor.look()
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def close(self) -> None:
        """Ends the thread at its next item."""
        self._stop.set()

    def _make(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Step | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
