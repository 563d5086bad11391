"""What passes between the agent and whatever generates: requests and completions.

The agent does not know what answers a request: the engine on a TPU, a server, or a
script in a test. Everything here is plain Python data.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

from gru_mem_jax.errors import InputError
from gru_mem_jax.grammar.automaton import Constraint
from gru_mem_jax.records import check_int, check_number, plain_numbers

Role = Literal["control", "question", "chunk", "memory"]
FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A run of prompt tokens of one role; ids are joined, texts never are.

    Attributes:
      role: what it holds.
      ids: its tokens.
      text: of a control segment, its part of the user's message, without what the chat
        template has put around that: for chat servers, which have the template. None:
        not known.
    """

    role: Role
    ids: tuple[int, ...]
    text: str | None = dataclasses.field(default=None, compare=False)


Prompt = tuple[Segment, ...]


def prompt_ids(prompt: Prompt) -> tuple[int, ...]:
    """All token ids of a prompt, in order."""
    return tuple(i for segment in prompt for i in segment.ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn.

    Attributes:
      temperature: 0 is greedy.
      top_k: keep the k most likely tokens; 0 keeps all.
      top_p: keep the smallest set of tokens whose probability reaches top_p.
      seed: base of every request's own seed.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_number("temperature", self.temperature, 0, 100)
        check_int("top_k", self.top_k, 0)
        check_number("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise InputError("top_p must be above 0, got 0 (greedy is temperature 0)")
        check_int("seed", self.seed, 0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One conversation to complete.

    Attributes:
      prompt: segments; equal leading segments may share their prefill.
      ahead: beginnings of prompts that later requests of the same run will probably
        have; a generator may read them while it works on this one.
      max_new_tokens: the completion's budget, the stop token included.
      stop_ids: a sampled id of these ends the completion and belongs to it.
      stop_strings: the completion ends with the token that completes one of these.
      temperature, top_k, top_p: as in SamplingConfig.
      seed: this request's own; equal requests give equal tokens, whatever else runs.
      constraint: the form that the completion is held to; None: any tokens.
      pin: requests of one pin share prefixes; a generator of several parts, each with
        prefixes of its own, runs them in one part. None: any.
      number: of the requests of one recurrence, which wants it back with the completion
        (`Recurrence.receive`); it means nothing to a generator.
    """

    prompt: Prompt
    ahead: tuple[Prompt, ...] = ()
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    constraint: Constraint | None = None
    pin: int | None = None
    number: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The tokens that were sampled for a request.

    Attributes:
      ids: sampled token ids, the stop id included if one was sampled.
      logprobs: of each id under the policy at temperature 1, no filter; of a
        constrained completion among the ids that might have been drawn, and 0 where
        the id was forced.
      sampling_logprobs: of each id under the distribution that it was drawn from
        (temperature and filters applied; 0.0 under greedy, where the id was forced,
        and for a gate that a threshold has decided).
      finish_reason: "stop" (stop id or stop string) or "length".
      seconds: from submission to the end, waiting included.
      shared_prompt_tokens: prompt tokens whose prefill was reused.
      failure: why the request was given up; the other fields then say nothing.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    sampling_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    seconds: float = 0.0
    shared_prompt_tokens: int = 0
    failure: str | None = None

    @classmethod
    def failed(cls, reason: str, seconds: float = 0.0) -> "Completion":
        """What a generator answers to a request that it gives up."""
        return cls(
            ids=(),
            logprobs=(),
            sampling_logprobs=(),
            finish_reason="stop",
            seconds=seconds,
            failure=reason,
        )


class Generator(Protocol):
    """Anything that completes requests, many at a time, in any order."""

    @property
    def capacity(self) -> int:
        """How many requests it works on at once; callers keep as many submitted."""

    def submit(self, request: Request) -> int:
        """Queues a request and returns its handle.

        Raises:
          InputError: the request can never run (prompt over the window, ...).
        """

    def step(self) -> Sequence[tuple[int, Completion]]:
        """Works until at least one submitted request ends; returns those that did.

        A request that it gives up ends too, with `Completion.failure`; what is raised
        concerns all requests.

        Returns an empty sequence only if nothing is submitted.
        """

    def cancel(self) -> None:
        """Drops everything that is submitted or running.

        After a step that failed or was interrupted it can be used again.
        """


@runtime_checkable
class Interruptible(Generator, Protocol):
    """A generator whose steps can end early. Optional.

    Callers that share it then begin and leave at once, not when a request ends.
    """

    def step_until(
        self, called: Callable[[], bool]
    ) -> Sequence[tuple[int, Completion]]:
        """As `step`, but returns early, perhaps with nothing, once `called()` is true.

        `called` is called now and then, in the thread of the step.
        """

    def discard(self, handles: Iterable[int]) -> None:
        """Drops these requests, submitted or running, and no others."""
