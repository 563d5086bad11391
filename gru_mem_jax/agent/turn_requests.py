"""The requests of one question's turns, and the turns that their completions make."""

import hashlib
from collections.abc import Iterable

from gru_mem_jax.agent.chunking import Chunk
from gru_mem_jax.agent.completion import answer_turn, begin_turn, interpret
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.inputs import question_text
from gru_mem_jax.agent.memory import clean_memory, fit_memory, gated_memory
from gru_mem_jax.agent.prompts import PromptBuilder, PromptKind
from gru_mem_jax.agent.requests import Completion, Prompt, Request
from gru_mem_jax.agent.trajectory import Turn, TurnStep
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.errors import InputError


class TurnRequests:
    """What a turn asks, and what its completion says.

    Args:
      builder: makes the prompts.
      config: budgets, mode, sampling.
      question: text.
      trajectory_id: seeds depend on it.
      trace: keep ids and logprobs in the turns.

    Raises:
      InputError: as `question_ids`.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        config: AgentConfig,
        question: str,
        trajectory_id: int,
        *,
        trace: bool,
    ):
        self._builder, self._config = builder, config
        self._question = question_ids(builder, config, question)
        self._trajectory_id = trajectory_id
        self._trace = trace
        self._encoded: tuple[str, tuple[int, ...]] = ("", ())

    def memory_request(self, number: int, chunk: Chunk, memory: str) -> Request:
        """Of a memory turn, the run's request of that number."""
        prompt = self._prompt(chunk, self._ids(memory))
        return self._request(number, self._config.memory_kind, prompt)

    def answer_request(self, number: int, memory: str) -> Request:
        """Of the answer turn."""
        prompt = self._builder.answer(self._question, self._ids(memory))
        return self._request(number, "answer", prompt)

    def beginnings(self, chunks: Iterable[Chunk]) -> tuple[Prompt, ...]:
        """What the prompts of chunks have before their memory, if it comes last."""
        return tuple(_through_question(self._prompt(chunk, ())) for chunk in chunks)

    def memory_turn(
        self,
        request: Request,
        completion: Completion,
        chunk: Chunk,
        memory: str,
        *,
        pass_number: int = 1,
        step: TurnStep = "read",
    ) -> Turn:
        """The turn that read a chunk against a memory.

        Raises:
          RunError: a constrained completion lacks its form.
        """
        text, problem, make = begin_turn(
            request, completion, self._builder, trace=self._trace
        )
        output = interpret(self._config.mode, text, problem, self._builder.opened)
        cleaned = clean_memory(output.memory)
        candidate = self.fit(cleaned)
        left = gated_memory(output.update, candidate, memory)
        return make(
            kind="memory",
            chunk=chunk.index,
            chunk_span=(chunk.start, chunk.end),
            chunk_digest=digest(chunk),
            pass_number=pass_number,
            step=step,
            update=output.update,
            exit=output.exit,
            well_formed=output.well_formed,
            problem=output.problem,
            memory_before=memory,
            memory=left,
            memory_tokens=len(self._ids(left)),
            memory_cut=output.update and candidate != cleaned,
        )

    def answer_turn(
        self, request: Request, completion: Completion, memory: str
    ) -> tuple[Turn, str | None]:
        """The turn that answered from a memory, and the answer if it has one.

        Raises:
          RunError: a constrained completion lacks its form.
        """
        return answer_turn(
            request,
            completion,
            self._builder,
            memory=memory,
            memory_tokens=len(self._ids(memory)),
            trace=self._trace,
        )

    def fit(self, candidate: str) -> str:
        """A memory, cut to its budget."""
        lead = self._builder.lead(candidate)
        budget = self._config.memory_tokens
        return fit_memory(candidate, self._builder.encoder, budget, lead)

    def _ids(self, memory: str) -> tuple[int, ...]:
        if memory != self._encoded[0]:
            self._encoded = (memory, self._builder.encode_content(memory))
        return self._encoded[1]

    def _prompt(self, chunk: Chunk, memory: tuple[int, ...]) -> Prompt:
        gated = self._config.memory_kind == "gated"
        make = self._builder.gated if gated else self._builder.memagent
        return make(self._question, memory, chunk.ids)

    def _request(self, number: int, kind: PromptKind, prompt: Prompt) -> Request:
        return turn_request(
            self._builder, self._config, kind, prompt, self._trajectory_id, number
        )


def turn_request(
    builder: PromptBuilder,
    config: AgentConfig,
    kind: PromptKind,
    prompt: Prompt,
    trajectory_id: int,
    number: int,
) -> Request:
    """The request of a run's turn, as the settings say.

    Args:
      builder: of the tokenizer.
      config: budgets, form, sampling.
      kind: of turn, which has a form or not.
      prompt: all of it.
      trajectory_id, number: of the run, and of the request in it.
    """
    sampling = config.sampling
    return Request(
        prompt=prompt,
        max_new_tokens=config.completion_tokens,
        stop_ids=builder.encoder.stop_ids,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=request_seed(sampling.seed, trajectory_id, number),
        constraint=turn_constraint(builder, config, kind),
        number=number,
    )


def request_seed(seed: int, trajectory_id: int, number: int) -> int:
    """A seed of 32 bits from (seed, trajectory, number of the request) alone.

    It does not depend on other requests, their order, or whether the run was resumed.
    """
    key = f"{seed}/{trajectory_id}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


def _through_question(prompt: Prompt) -> Prompt:
    return prompt[: 1 + [segment.role for segment in prompt].index("question")]


def digest(chunk: Chunk) -> str:
    """Of its text, to be compared with a chunk that was read before."""
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
