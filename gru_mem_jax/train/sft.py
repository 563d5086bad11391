"""A step of supervised training: turns of an oracle, packed, then the same update.

Turns are made in pools: those of the next examples, until there are enough to shuffle
and the next example is on another document: the turns of one document share a tree in
the rows, where their prompts begin alike. A pool is a function of the configuration and
the position of its first example, so that a checkpoint needs to hold no more than that
position and how many of the pool's batches are done.
"""

import dataclasses
import hashlib
import itertools
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.turns import SupervisedTurn
from gru_mem_jax.errors import GRUMemError
from gru_mem_jax.grammar.automaton import EXIT
from gru_mem_jax.rl.learner import host_count
from gru_mem_jax.rl.packing import (
    Conversation,
    PackConfig,
    PackedRows,
    Row,
    assign_rows,
    pack_rows,
    row_items,
)
from gru_mem_jax.rl.summary import summarize_rows, summarize_updates
from gru_mem_jax.runs.checkpoints.store import RunState
from gru_mem_jax.train.config import SFTConfig
from gru_mem_jax.train.held_out import held_out_columns
from gru_mem_jax.train.loop import Columns, Monitor, RunParts, StepResult, update
from gru_mem_jax.train.questions import ExampleTurns, QuestionStage
from gru_mem_jax.train.several import spread

_AHEAD = 16  # steps whose rows are made ahead of the learner
_LARGEST_POOL = 2  # times pool_turns, where all examples are on one document


class Step(NamedTuple):
    """What a step learns, and where the run stands after it.

    Attributes:
      micro_batches: packed rows.
      position: of the first example of the pool that comes next.
      taken: batches of that pool that are done.
      met_bad: bad examples that were met on the way.
      tokens: of all turns, prompts too, each turn by itself.
      described: a line on the pool's turns; None: it is like the one before.
    """

    micro_batches: list[PackedRows]
    position: int
    taken: int
    met_bad: int
    tokens: int
    described: str | None


class _Pool(NamedTuple):
    conversations: list[Conversation]
    batches: list[list[Row]]  # rows of each batch
    after: int  # position of the next pool
    met_bad: int
    described: str
    seen: ExampleTurns | None  # the first of the next pool, if it was made already


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
        told, seen = True, None
        while True:
            is_short = step < self._config.short_steps
            pool = self._pool(position, is_short, seen)
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
                    described=pool.described if told else None,
                )
                told = False
                if ends:
                    break
            position, taken = pool.after, 0
            same_kind = is_short == (step < self._config.short_steps)
            told, seen = not same_kind, pool.seen if same_kind else None

    def _pool(self, position: int, is_short: bool, seen: ExampleTurns | None) -> _Pool:
        """The turns of the next examples, packed into batches of rows at random.

        Args:
          position: of the first one.
          is_short: whether they are on short chunks.
          seen: the first one, if it is known.
        """
        config = self._config
        questions, oracle = self._short if is_short else self._whole
        documents: dict[bytes, int] = {}  # to the position of its first example
        turns: list[SupervisedTurn] = []
        found: list[Conversation] = []
        start, met_bad, last = position, 0, b""
        while True:
            is_full = len(found) >= config.pool_turns
            made, seen = seen, None
            try:
                made = made or questions.next_turns(oracle, config.loop.seed, position)
            except GRUMemError:
                if not is_full:
                    raise
                break  # it is the next pool's
            document = _digest(made.example.document)
            if is_full and (
                document != last or len(found) >= _LARGEST_POOL * config.pool_turns
            ):
                seen = made
                break
            last = document
            first = documents.setdefault(document, made.position)
            met_bad, position = met_bad + made.skipped, made.position + 1
            turns += made.turns
            found += as_conversations(
                made.turns, (first, made.position - first), config.gate_weight
            )
        rows = assign_rows(found, self._packing)
        random.Random(f"rows/{config.loop.seed}/{start}").shuffle(rows)
        count = -(-len(rows) // config.rows)
        # As equal as can be: a last batch of few tokens would have a noisy gradient.
        borders = [len(rows) * i // count for i in range(count + 1)]
        batches = [rows[a:b] for a, b in itertools.pairwise(borders)]
        return _Pool(found, batches, position, met_bad, describe_turns(turns), seen)


def as_conversations(
    turns: Sequence[SupervisedTurn], index: tuple[int, int], gate_weight: float = 1.0
) -> list[Conversation]:
    """The turns of an example, as the learner sees them.

    Args:
      turns: of one example.
      index: number of its document, whose questions share what their prompts have in
        common, and of the example among them.
      gate_weight: how much a token that decides a gate counts.
    """
    return [
        Conversation(
            index=(*index, k),
            prompt_ids=turn.prompt,
            completion_ids=turn.completion,
            sampler_logprobs=(0.0,) * len(turn.completion),
            advantage=1.0,
            weights=_weights(turn, gate_weight),
        )
        for k, turn in enumerate(turns)
    ]


def _weights(turn: SupervisedTurn, gate_weight: float) -> tuple[float, ...] | None:
    if gate_weight == 1 or not turn.gates:
        return None
    weights = [1.0] * len(turn.completion)
    for gate in turn.gates:
        weights[gate.place] = gate_weight
    return tuple(weights)


def describe_turns(turns: Sequence[SupervisedTurn]) -> str:
    """How many turns there are of each kind, by evidence and exit, in a line."""
    counts: Counter[str] = Counter()
    for turn in turns:
        words = [turn.kind]
        if turn.kind != "answer":
            words.append(f"{'with' if turn.evidence else 'without'} evidence")
        ends = [gate.open for gate in turn.gates if gate.gate == EXIT]
        words += ["end" if is_open else "continue" for is_open in ends]
        counts[", ".join(words)] += 1
    told = "; ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
    return f"{len(turns)} turns ({told})"


def _digest(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()


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
        if batch.described is not None:
            self._monitor.note(f"pool of step {at.step + 1}: {batch.described}")
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
            found["target_tokens"] = int(report.sums["entropy"].count)
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
            columns |= held_out_columns(
                learner, params, self._held_out, self._monitor.hosts
            )
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
