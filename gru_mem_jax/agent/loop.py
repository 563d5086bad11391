"""The recurrence as a state machine: requests out, completions in.

    M_t = M^_t if U_t else M_{t-1};  stop after chunk t if E_t (mode with_exit_gate)

(arXiv 2602.10560, Eq. 7 and Algorithm 1). Requests may be completed by anything: an
engine that interleaves thousands of these, a server, or a script in a test.
"""

import collections
import dataclasses
import functools
import hashlib
import math
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
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion, Prompt, Request
from gru_mem_jax.agent.resume import check_resumable
from gru_mem_jax.agent.text import DeadlineReached, until_deadline
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.errors import InputError, RunError

INTERRUPTED = "interrupted"
FAILED = "failed"


class _OpenTurn(NamedTuple):
    chunk: Chunk | None  # None: the answer turn
    request: Request


class Recurrence:
    """One question on one context, from the first chunk to the answer.

    Call `next_request` and `receive` in turn until `next_request` gives None.

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
        self._started = clock()
        self._finished: float | None = None
        self._seconds_before = 0.0
        self._chunks = self._open_chunks(context)
        self._open: _OpenTurn | None = None
        self._memory = ""
        self._memory_ids: tuple[int, ...] = ()
        self._turns: list[Turn] = []
        self._unchecked: collections.deque[Turn] = collections.deque()
        self._head = Trajectory(
            mode=config.mode,
            question=str(question),
            trajectory_id=trajectory_id,
            settings=config_to_dict(config),
            metadata=metadata or {},
        )
        self._answer: str | None = None
        self._stop_reason: str | None = None
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
            context = until_deadline(context_pieces(context), self._seconds_left)
        return iter_chunks(context, encoder, size)

    @property
    def done(self) -> bool:
        """Whether the run has ended: answered, or interrupted."""
        return self._finished is not None

    @property
    def trajectory(self) -> Trajectory:
        """All that has happened so far."""
        end = self._clock() if self._finished is None else self._finished
        return dataclasses.replace(
            self._head,
            answer=self._answer,
            turns=tuple(self._turns),
            stop_reason=self._stop_reason,
            interrupted=self._interrupted,
            failure=self._failure,
            seconds=self._seconds_before + end - self._started,
        )

    def next_request(self) -> Request | None:
        """The next turn's request; the open one until its completion is received.

        Reads on in the context where it needs to, and so may wait for it.

        Returns:
          None when the run is done.
        """
        if self.done or self._open is not None:
            return self._open and self._open.request
        try:
            chunk = self._next_chunk()
        except BaseException:
            # An error or Ctrl-C has ended the stream: no answer from a part of it.
            self.stop(INTERRUPTED)
            raise
        config, kind = self._config, self._config.memory_kind
        if chunk is None:
            kind = "answer"
            prompt = self._builder.answer(self._question_ids, self._memory_ids)
        else:
            prompt = self._prompt(chunk)
        sampling = config.sampling
        request = Request(
            prompt=prompt,
            ahead=() if chunk is None else self._ahead(),
            max_new_tokens=config.completion_tokens,
            stop_ids=self._encoder.stop_ids,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=request_seed(
                sampling.seed, self._head.trajectory_id, len(self._turns)
            ),
            constraint=turn_constraint(self._builder, config, kind),
        )
        self._open = _OpenTurn(chunk, request)
        return request

    def _prompt(self, chunk: Chunk) -> Prompt:
        gated = self._config.memory_kind == "gated"
        make = self._builder.gated if gated else self._builder.memagent
        return make(self._question_ids, self._memory_ids, chunk.ids)

    def _ahead(self) -> tuple[Prompt, ...]:
        """What the prompts of the next chunks have before their memory."""
        config = self._config
        number = config.prefill_ahead if config.reads_ahead else 0
        if config.max_chunks is not None:
            number = min(number, config.max_chunks - len(self._turns) - 1)
        prompts = map(self._prompt, self._chunks.ahead(number))
        return tuple(map(_through_question, prompts))

    def receive(self, completion: Completion) -> Turn | None:
        """Takes the completion of the open request, and returns the turn.

        A failure ends the run before its answer, with no turn; it can be resumed.

        Raises:
          RunError: no request is open, or a constrained completion lacks its form.
        """
        if self._open is None:
            raise RunError("a completion came for which there is no open request")
        if completion.failure is not None:
            self._failure = completion.failure
            self._end_unanswered(FAILED)
            return None
        chunk, request = self._open
        text, problem, make = begin_turn(
            request, completion, self._builder, trace=self._trace
        )
        self._open = None
        make = functools.partial(make, memory_before=self._memory)
        if chunk is None:
            return self._answered(text, problem, make)
        return self._remembered(chunk, text, problem, make)

    def _answered(self, text: str, problem: str | None, make: MakeTurn) -> Turn:
        self._answer = extract_boxed(text)
        if problem is None and self._answer is None:
            problem = r"no \boxed{} in the answer"
        self._turns.append(
            make(
                kind="answer",
                well_formed=problem is None,
                problem=problem,
                memory=self._memory,
                memory_tokens=len(self._memory_ids),
            )
        )
        self._finish()
        return self._turns[-1]

    def _remembered(
        self, chunk: Chunk, text: str, problem: str | None, make: MakeTurn
    ) -> Turn:
        opened = self._builder.opened
        output = interpret(self._config.mode, text, problem, opened)
        cleaned = clean_memory(output.memory)
        candidate = self._fit(cleaned)
        memory = gated_memory(output.update, candidate, self._memory)
        self._set_memory(memory)
        self._turns.append(
            make(
                kind="memory",
                chunk=chunk.index,
                chunk_span=(chunk.start, chunk.end),
                chunk_digest=_digest(chunk),
                update=output.update,
                exit=output.exit,
                well_formed=output.well_formed,
                problem=output.problem,
                memory=memory,
                memory_tokens=len(self._memory_ids),
                memory_cut=output.update and candidate != cleaned,
            )
        )
        if output.exit and self._config.mode == "with_exit_gate":
            self.stop("exit_gate")
        return self._turns[-1]

    def stop(self, reason: str) -> None:
        """Stops reading: the answer turn is next, unless reason is "interrupted".

        An interrupted run ends at once and can be resumed from its trajectory.
        """
        if self.done:
            return
        if reason == INTERRUPTED:
            self._end_unanswered(reason)
        else:
            self._stop_reason = self._stop_reason or reason

    def _end_unanswered(self, reason: str) -> None:
        self._stop_reason, self._interrupted, self._open = reason, True, None
        self._finish()

    def _finish(self) -> None:
        self._finished = self._clock()
        self._chunks = Chunks(iter(()), waits=False)  # frees the context

    def _next_chunk(self) -> Chunk | None:
        """The chunk to read next; None, after `stop`, if there is none."""
        limit = self._config.max_chunks
        try:
            while self._unchecked:
                self._check_read_before(next(self._chunks, None))
            if self._stop_reason is not None:
                return None
            if limit is not None and len(self._turns) >= limit:
                self.stop("max_chunks")
            elif self._seconds_left() <= 0:
                self.stop("deadline")
            else:
                chunk = next(self._chunks, None)
                if chunk is None:
                    self.stop("end_of_context" if self._turns else "empty_context")
                return chunk
        except DeadlineReached:
            self.stop("deadline")
        return None

    def _seconds_left(self) -> float:
        limit = self._config.deadline_seconds
        return math.inf if limit is None else limit + self._started - self._clock()

    def _fit(self, candidate: str) -> str:
        lead = self._builder.lead(candidate)
        budget = self._config.memory_tokens
        return fit_memory(candidate, self._encoder, budget, lead)

    def _set_memory(self, memory: str) -> None:
        if memory != self._memory:
            self._memory_ids = self._builder.encode_content(memory)
            self._memory = memory

    def _resume(self, saved: Trajectory) -> None:
        """Continues an earlier run, after checking that it is the same run."""
        check_resumable(saved, self._head)
        read = saved.memory_turns
        self._turns = list(saved.turns)
        self._unchecked = collections.deque(read)
        self._seconds_before = saved.seconds
        if read:
            self._set_memory(self._fit(read[-1].memory))
            if read[-1].exit and self._config.mode == "with_exit_gate":
                self.stop("exit_gate")
        if len(saved.turns) > len(read):
            self._answer, self._stop_reason = saved.answer, saved.stop_reason
            self._unchecked.clear()
            self._finish()

    def _check_read_before(self, chunk: Chunk | None) -> None:
        turn = self._unchecked.popleft()
        if chunk is None or _digest(chunk) != turn.chunk_digest:
            raise InputError(
                f"cannot resume: chunk {turn.chunk} of the context is not the one that "
                f"was read before; give the same context, or start anew"
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
