"""The recurrence as a state machine: requests out, completions in.

Requests may be completed by anything: an engine that interleaves thousands of these, a
server, or a script in a test.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from gru_mem_jax.agent.chunking import Chunks, iter_chunks
from gru_mem_jax.agent.config import AgentConfig, check_budgets, config_to_dict
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.inputs import Context, context_pieces
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.reading import WAYS
from gru_mem_jax.agent.reading.reader import Look, Looks, Place, Reader, Seen
from gru_mem_jax.agent.requests import Completion, Request
from gru_mem_jax.agent.resume import check_resumable
from gru_mem_jax.agent.text import until_deadline
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.agent.turn_requests import TurnRequests, digest
from gru_mem_jax.errors import InputError, RunError

INTERRUPTED = "interrupted"
FAILED = "failed"


class _OpenTurn(NamedTuple):
    look: Look | None  # None: the answer turn
    request: Request


class Recurrence:
    """One question on one context, from the first chunk to the answer.

    `next_request` gives the requests, as many as may be completed side by side, and
    `receive` takes their completions in any order, each with the number of its request.
    Which turns are taken, and against which memory, `agent.reading` says for each mode.

    Args:
      builder: makes the prompts, with the encoder that all else is encoded with.
      config: budgets, mode, sampling; its `prompt` is the builder's.
      question: text.
      context: text, a path, a Document, or an iterable of texts: a stream of any
        length, read no further than needed.
      trajectory_id: its seeds depend on it; runs with equal ids draw equal numbers.
      trace: keep ids and logprobs in the turns.
      resume: the trajectory of an earlier run of the same question and context.
      metadata: kept in the trajectory.
      clock: a monotonic clock, in seconds.

    Raises:
      InputError: empty question, question over its budget, budgets over
        prompt_tokens, or `resume` of another question or other settings. While
        reading: the context is not text, or not the one that was read before.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        config: AgentConfig,
        question: str,
        context: Context,
        *,
        trajectory_id: int = 0,
        trace: bool = False,
        resume: Trajectory | None = None,
        metadata: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        if builder.config != config.prompt:
            raise InputError(
                "config.prompt is not what the prompt builder was made for"
            )
        check_budgets(builder, config)
        self._config = config
        self._asked = TurnRequests(
            builder, config, question, trajectory_id, trace=trace
        )
        self._clock = clock
        self._finished: float | None = None
        self._seconds_before = 0.0
        self._head = Trajectory(
            mode=config.mode,
            question=str(question),
            trajectory_id=trajectory_id,
            settings=config_to_dict(config),
            metadata=metadata or {},
        )
        # The turns of a resumed run that were not gone through again yet.
        self._saved: dict[Place, Turn] = {}
        self._started = clock()
        chunks = self._open_chunks(context, builder.encoder)
        self._reader = Reader(config, chunks, self._saved, clock)
        self._reading = WAYS[config.mode](self._reader)
        self._looks: Looks | None = None  # to be taken now; None: there are no more
        self._batch: dict[int, Seen | None] = {}  # by number; None: not received
        self._scans: dict[Place, int] = {}  # number of each
        self._number = 0  # of the next request
        self._open: dict[int, _OpenTurn] = {}
        self._turns: dict[int, Turn] = {}
        self._answer: str | None = None
        self._interrupted = False
        self._failure: str | None = None
        if resume is not None:
            self._resume(resume)
        if not self.done:
            self._take_looks(None)

    def _open_chunks(self, context: Context, encoder: Encoder) -> Chunks:
        size = self._config.chunk_size
        if isinstance(context, Document):
            return context.chunks(encoder, size)
        limited = self._config.deadline_seconds is not None
        if limited and not isinstance(context, str):
            pieces = context_pieces(context)
            context = until_deadline(pieces, lambda: self._reader.seconds_left())
        return iter_chunks(context, encoder, size)

    @property
    def done(self) -> bool:
        """Whether the run has ended: answered, or interrupted."""
        return self._finished is not None

    @property
    def trajectory(self) -> Trajectory:
        """All that has happened so far."""
        end = self._clock() if self._finished is None else self._finished
        turns = (turn for _, turn in sorted(self._turns.items()))
        return dataclasses.replace(
            self._head,
            answer=self._answer,
            turns=(*turns, *self._saved.values()),
            stop_reason=self._reader.stop_reason,
            interrupted=self._interrupted,
            failure=self._failure,
            seconds=self._seconds_before + end - self._started,
        )

    def next_request(self) -> Request | None:
        """A request that was not given before, with its `number`.

        Reads on in the context where it needs to, and so may wait for it; but not while
        other requests of this run are open.

        Returns:
          None where the run needs a completion first, and when it is done.
        """
        while not self.done:
            try:
                look = self._next_look()
            except BaseException:
                # An error or Ctrl-C has ended the stream: no answer from a part of it.
                self.stop(INTERRUPTED)
                raise
            if look is not None:
                if self._replayed(look):
                    continue
                return self._opened(look)
            if self._open or self._looks is not None:
                return None
            return self._opened(None)
        return None

    def _next_look(self) -> Look | None:
        """The next memory turn to ask for; None: there is none, for now or for good."""
        while (looks := self._looks) is not None:
            if len(self._batch) < looks.most and not self._reader.stopped:
                if looks.reads and self._open and not self._reader.ready():
                    return None
                if (look := next(looks.each, None)) is not None:
                    return look
            self._looks = looks._replace(most=0)  # no more of these
            if not self._read_on():
                return None
        return None

    def _read_on(self) -> bool:
        """Goes on once all turns of now were taken and received, else False."""
        if self._looks is None or len(self._batch) < self._looks.most:
            return False
        if None in self._batch.values():
            return False
        seen = [each for each in self._batch.values() if each is not None]
        self._batch = {}
        self._take_looks(seen)
        return True

    def _take_looks(self, seen: list[Seen] | None) -> None:
        """Takes the next turns from the way of reading.

        Args:
          seen: what it gets; None begins it.

        Raises:
          InputError: reading has ended, and a resumed run had read more.
        """
        try:
            self._looks = (
                next(self._reading) if seen is None else self._reading.send(seen)
            )
        except StopIteration:
            self._looks = None
            if self._saved:
                raise _another_text(next(iter(self._saved.values()))) from None
            self._reader.stop(self._reader.ended or "end_of_context")
        while self._reader.accepted:
            number = self._scans[self._reader.accepted.pop()]
            self._turns[number] = dataclasses.replace(
                self._turns[number], accepted=True
            )

    def _opened(self, look: Look | None) -> Request:
        """Opens a memory turn, or the answer turn."""
        number = self._number
        if look is None:
            request = self._asked.answer_request(number, self._reader.memory)
        else:
            request = self._asked.memory_request(number, look.chunk, look.memory)
            if (
                self._config.reads_ahead
                and look.step == "read"
                and look.pass_number < 2
            ):
                chunks = self._reader.ahead(self._config.prefill_ahead)
                ahead = self._asked.beginnings(chunks)
                request = dataclasses.replace(request, ahead=ahead)
        self._open[number] = _OpenTurn(look, request)
        self._count(look, None)
        return request

    def _count(self, look: Look | None, seen: Seen | None) -> None:
        if look is not None:
            self._batch[self._number] = seen
            if look.step == "scan":
                self._scans[look.place] = self._number
        self._number += 1

    def receive(self, completion: Completion, number: int | None = None) -> Turn | None:
        """Takes the completion of an open request, and returns the turn.

        A failure ends the run before its answer, with no turn; it can be resumed.

        Args:
          completion: of a request that `next_request` gave.
          number: `Request.number` of it; None: of the only one that is open.

        Raises:
          RunError: no such request is open, or a constrained completion lacks its form.
        """
        if number is None and len(self._open) == 1:
            (number,) = self._open
        if number is None or number not in self._open:
            raise RunError(
                "a completion came for which there is no open request"
                if not self._open
                else f"a completion came for request {number}; open are "
                f"{', '.join(map(str, sorted(self._open)))}: give its number"
            )
        if completion.failure is not None:
            self._failure = completion.failure
            self._end_unanswered(FAILED)
            return None
        look, request = self._open[number]
        if look is None:
            turn, answer = self._asked.answer_turn(
                request, completion, self._reader.memory
            )
        else:
            turn = self._asked.memory_turn(
                request,
                completion,
                look.chunk,
                look.memory,
                pass_number=look.pass_number,
                step=look.step,
            )
        del self._open[number]
        self._turns[number] = turn
        if look is None:
            self._answer = answer
            self._finish()
        else:
            self._batch[number] = _seen(look, turn)
            self._read_on()
        return turn

    def stop(self, reason: str) -> None:
        """Stops reading: the answer turn is next, unless reason is "interrupted".

        Turns that are open are still to be received. An interrupted run ends at once
        and can be resumed from its trajectory.
        """
        if self.done:
            return
        if reason == INTERRUPTED:
            self._end_unanswered(reason)
        else:
            self._reader.stop(reason)

    def _end_unanswered(self, reason: str) -> None:
        self._reader.stop_reason, self._interrupted = reason, True
        self._open.clear()
        self._finish()

    def _finish(self) -> None:
        self._finished = self._clock()
        self._reading.close()
        self._reader.close()  # frees the context

    def _resume(self, saved: Trajectory) -> None:
        """Continues an earlier run, after checking that it is the same run."""
        check_resumable(saved, self._head)
        self._seconds_before = saved.seconds
        if saved.turns and saved.turns[-1].kind == "answer":
            self._turns = dict(enumerate(saved.turns))
            self._answer = saved.answer
            self._reader.stop_reason = saved.stop_reason
            self._finish()
        else:
            places = ((t.pass_number, t.step, t.chunk) for t in saved.turns)
            self._saved |= zip(places, saved.turns)

    def _replayed(self, look: Look) -> bool:
        """Whether a resumed run has taken this turn before; takes it from there."""
        if not self._saved:
            return False
        if (turn := self._saved.get(look.place)) is None:
            if look.step == "read":  # in order: none may be missing
                raise _another_text(next(iter(self._saved.values())))
            return False
        if digest(look.chunk) != turn.chunk_digest:
            raise _another_text(turn)
        del self._saved[look.place]
        self._turns[self._number] = turn
        seen = _seen(look, turn)
        self._count(look, seen._replace(memory=self._asked.fit(seen.memory)))
        return True


def _seen(look: Look, turn: Turn) -> Seen:
    return Seen(
        look, bool(turn.update), bool(turn.exit), turn.memory, turn.update_probability
    )


def _another_text(turn: Turn) -> InputError:
    return InputError(
        f"cannot resume: chunk {turn.chunk} of the context is not the one that was "
        "read before; give the same context, or start anew"
    )
