"""The recurrence as a state machine: requests out, completions in.

Requests may be completed by anything: an engine that interleaves thousands of these, a
server, or a script in a test.
"""

import dataclasses
import hashlib
import inspect
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from gru_mem_jax.agent.chunking import Chunk, Chunks, iter_chunks
from gru_mem_jax.agent.completion import MakeTurn, begin_turn, interpret
from gru_mem_jax.agent.config import AgentConfig, check_budgets, config_to_dict
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.inputs import Context, context_pieces, question_text
from gru_mem_jax.agent.memory import clean_memory, fit_memory, gated_memory
from gru_mem_jax.agent.parse import extract_boxed
from gru_mem_jax.agent.prompts import PromptBuilder, PromptKind
from gru_mem_jax.agent.reading import WAYS
from gru_mem_jax.agent.reading.reader import Look, Looks, Reader, Seen
from gru_mem_jax.agent.requests import Completion, Prompt, Request
from gru_mem_jax.agent.resume import check_resumable
from gru_mem_jax.agent.text import until_deadline
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.agent.turn_form import turn_constraint
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
        self._builder = builder
        self._encoder = builder.encoder
        self._config = config
        self._question_ids = question_ids(builder, config, question)
        self._trace = trace
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
        self._saved: dict[object, Turn] = {}  # of a resumed run, not gone through yet
        self._started = clock()
        chunks = self._open_chunks(context)
        self._reader = Reader(config, chunks, self._saved, clock)
        self._reading = WAYS[config.mode](self._reader)
        self._looks: Looks | None = Looks(iter(()), most=0)  # None: all are taken
        self._batch: dict[int, Seen | None] = {}  # by number; None: not received
        self._number = 0  # of the next request
        self._open: dict[int, _OpenTurn] = {}
        self._encoded: tuple[str, tuple[int, ...]] = ("", ())
        self._turns: dict[int, Turn] = {}
        self._answer: str | None = None
        self._interrupted = False
        self._failure: str | None = None
        if resume is not None:
            self._resume(resume)

    def _open_chunks(self, context: Context) -> Chunks:
        encoder, size = self._encoder, self._config.chunk_size
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
                return self._request(look)
            if self._open or self._looks is not None:
                return None
            return self._request(None)
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
        """Goes to the next turns once all of these were taken and received, else False.

        Raises:
          InputError: reading has ended, and a resumed run had read more.
        """
        if self._looks is None or len(self._batch) < self._looks.most:
            return False
        if None in self._batch.values():
            return False
        seen = [each for each in self._batch.values() if each is not None]
        self._batch = {}
        try:
            # What is sent first, to begin it, must be None.
            begun = inspect.getgeneratorstate(self._reading) != inspect.GEN_CREATED
            self._looks = self._reading.send(seen) if begun else next(self._reading)
        except StopIteration:
            self._looks = None
            if self._saved:
                raise _another_text(next(iter(self._saved.values()))) from None
            self._reader.stop(self._reader.ended or "end_of_context")
        return True

    def _request(self, look: Look | None) -> Request:
        """Opens a memory turn, or the answer turn."""
        config, builder = self._config, self._builder
        if look is None:
            kind: PromptKind = "answer"
            memory_ids = self._memory_ids(self._reader.memory)
            prompt = builder.answer(self._question_ids, memory_ids)
        else:
            kind = config.memory_kind
            prompt = self._prompt(look.chunk, look.memory)
        sampling, number = config.sampling, self._number
        request = Request(
            prompt=prompt,
            ahead=() if look is None else self._ahead(look),
            max_new_tokens=config.completion_tokens,
            stop_ids=self._encoder.stop_ids,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=request_seed(sampling.seed, self._head.trajectory_id, number),
            constraint=turn_constraint(builder, config, kind),
            number=number,
        )
        self._open[number] = _OpenTurn(look, request)
        self._count(look, None)
        return request

    def _count(self, look: Look | None, seen: Seen | None) -> None:
        if look is not None:
            self._batch[self._number] = seen
        self._number += 1

    def _prompt(self, chunk: Chunk, memory: str) -> Prompt:
        gated = self._config.memory_kind == "gated"
        make = self._builder.gated if gated else self._builder.memagent
        return make(self._question_ids, self._memory_ids(memory), chunk.ids)

    def _ahead(self, look: Look) -> tuple[Prompt, ...]:
        """What the prompts of the next chunks have before their memory."""
        config = self._config
        if not config.reads_ahead or look.step != "read" or look.pass_number > 1:
            return ()
        chunks = self._reader.ahead(config.prefill_ahead)
        prompts = (self._prompt(chunk, look.memory) for chunk in chunks)
        return tuple(map(_through_question, prompts))

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
        text, problem, make = begin_turn(
            request, completion, self._builder, trace=self._trace
        )
        del self._open[number]
        if look is None:
            return self._answered(number, text, problem, make)
        turn = self._remembered(look, text, problem, make)
        self._turns[number] = turn
        self._batch[number] = _seen(look, turn)
        self._read_on()
        return turn

    def _answered(
        self, number: int, text: str, problem: str | None, make: MakeTurn
    ) -> Turn:
        self._answer = extract_boxed(text)
        if problem is None and self._answer is None:
            problem = r"no \boxed{} in the answer"
        memory = self._reader.memory
        self._turns[number] = make(
            kind="answer",
            well_formed=problem is None,
            problem=problem,
            memory_before=memory,
            memory=memory,
            memory_tokens=len(self._memory_ids(memory)),
        )
        self._finish()
        return self._turns[number]

    def _remembered(
        self, look: Look, text: str, problem: str | None, make: MakeTurn
    ) -> Turn:
        opened, chunk = self._builder.opened, look.chunk
        output = interpret(self._config.mode, text, problem, opened)
        cleaned = clean_memory(output.memory)
        candidate = self._fit(cleaned)
        memory = gated_memory(output.update, candidate, look.memory)
        return make(
            kind="memory",
            chunk=chunk.index,
            chunk_span=(chunk.start, chunk.end),
            chunk_digest=_digest(chunk),
            pass_number=look.pass_number,
            step=look.step,
            update=output.update,
            exit=output.exit,
            well_formed=output.well_formed,
            problem=output.problem,
            memory_before=look.memory,
            memory=memory,
            memory_tokens=len(self._memory_ids(memory)),
            memory_cut=output.update and candidate != cleaned,
        )

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

    def _fit(self, candidate: str) -> str:
        lead = self._builder.lead(candidate)
        budget = self._config.memory_tokens
        return fit_memory(candidate, self._encoder, budget, lead)

    def _memory_ids(self, memory: str) -> tuple[int, ...]:
        if memory != self._encoded[0]:
            self._encoded = (memory, self._builder.encode_content(memory))
        return self._encoded[1]

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
            self._saved |= {
                _place(t.pass_number, t.step, t.chunk): t for t in saved.turns
            }

    def _replayed(self, look: Look) -> bool:
        """Whether a resumed run has taken this turn before; takes it from there."""
        if not self._saved:
            return False
        place = _place(look.pass_number, look.step, look.chunk.index)
        if (turn := self._saved.get(place)) is None:
            if look.step == "read":  # in order: none may be missing
                raise _another_text(next(iter(self._saved.values())))
            return False
        if _digest(look.chunk) != turn.chunk_digest:
            raise _another_text(turn)
        del self._saved[place]
        self._turns[self._number] = turn
        seen = _seen(look, turn)
        self._count(look, seen._replace(memory=self._fit(seen.memory)))
        return True


def _place(*place: object) -> object:
    """What no two memory turns of a run have in common."""
    return place


def _seen(look: Look, turn: Turn) -> Seen:
    return Seen(
        look, bool(turn.update), bool(turn.exit), turn.memory, turn.update_probability
    )


def _another_text(turn: Turn) -> InputError:
    return InputError(
        f"cannot resume: chunk {turn.chunk} of the context is not the one that was "
        "read before; give the same context, or start anew"
    )


def request_seed(seed: int, trajectory_id: int, turn: int) -> int:
    """A seed of 32 bits from (seed, trajectory, turn) alone.

    It does not depend on other requests, their order, or whether the run was resumed.
    """
    key = f"{seed}/{trajectory_id}/{turn}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


def _through_question(prompt: Prompt) -> Prompt:
    return prompt[: 1 + [segment.role for segment in prompt].index("question")]


def _digest(chunk: Chunk) -> str:
    return hashlib.blake2b(chunk.text.encode(), digest_size=8).hexdigest()


def question_ids(
    builder: PromptBuilder, config: AgentConfig, question: str
) -> tuple[int, ...]:
    """A question as prompts show it.

    Raises:
      InputError: it is empty, not text, of no tokens, or over its budget.
    """
    question = question_text(question)
    ids = builder.encode_content(question)
    if len(ids) > config.question_tokens:
        raise InputError(
            f"the question has {len(ids)} tokens, more than question_tokens "
            f"{config.question_tokens}; shorten it or raise the budget"
        )
    if not ids:
        raise InputError(f"no character of the question has a token: {question!r:.80}")
    return ids
