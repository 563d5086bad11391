"""A generator that follows a script: the loop without a model."""

import random
from collections.abc import Callable, Iterable, Sequence

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.requests import Completion, Request, prompt_ids
from gru_mem_jax.errors import InputError

Said = str | Sequence[int] | Completion


class ScriptedGenerator:
    """Answers requests from a script.

    Args:
      script: completions, in order of requests, or a function of the request. Text is
        encoded with the output format's control tokens, and ends with a stop id; ids
        are taken as they are; both are cut at the request's budget.
      encoder: the tokenizer.
      capacity: how many requests it states that it runs at once.
      shuffle_seed: if given, requests end in a random order drawn from it, else in
        order of submission.

    Attributes:
      requests: all that were submitted, in order.
      most_submitted: largest number of requests submitted at once.
      cancelled: whether `cancel` was called.
    """

    def __init__(
        self,
        script: Iterable[Said] | Callable[[Request], Said],
        encoder: Encoder,
        *,
        capacity: int = 1,
        shuffle_seed: int | None = None,
    ):
        if callable(script):
            self._say = script
        else:
            lines = iter(script)
            self._say = lambda _: next(lines)
        self._encoder = encoder
        self._random = None if shuffle_seed is None else random.Random(shuffle_seed)
        self._submitted: dict[int, Completion] = {}
        self.capacity = capacity
        self.requests: list[Request] = []
        self.most_submitted = 0
        self.cancelled = False

    def submit(self, request: Request) -> int:
        """Takes the next line of the script.

        Raises:
          InputError: the script is over.
        """
        handle = len(self.requests)
        try:
            said = self._say(request)
        except StopIteration:
            raise InputError(f"the script has no line for request {handle}") from None
        self.requests.append(request)
        self._submitted[handle] = self._complete(request, said)
        self.most_submitted = max(self.most_submitted, len(self._submitted))
        return handle

    def step(self) -> list[tuple[int, Completion]]:
        """Ends one request."""
        if not self._submitted:
            return []
        handles = sorted(self._submitted)
        handle = handles[0] if self._random is None else self._random.choice(handles)
        return [(handle, self._submitted.pop(handle))]

    def cancel(self) -> None:
        """Drops all submitted requests."""
        self._submitted.clear()
        self.cancelled = True

    def _complete(self, request: Request, said: Said) -> Completion:
        if isinstance(said, Completion):
            return said
        if isinstance(said, str):
            said = [*self._encoder.encode_control(said), self._encoder.stop_ids[0]]
        ids = tuple(said)[: request.max_new_tokens]
        stopped = bool(ids) and ids[-1] in request.stop_ids
        zeros = (0.0,) * len(ids)
        return Completion(
            ids=ids,
            logprobs=zeros,
            sampling_logprobs=zeros,
            finish_reason="stop" if stopped else "length",
        )


def said_in(request: Request, encoder: Encoder) -> dict[str, str]:
    """The text of a prompt by role: {"question": ..., "memory": ..., ...}."""
    texts: dict[str, str] = {}
    for segment in request.prompt:
        shown = encoder.decode(segment.ids)
        texts[segment.role] = texts.get(segment.role, "") + shown
    return texts


def prompt_text(request: Request, encoder: Encoder) -> str:
    """A request's whole prompt, decoded."""
    return encoder.decode(prompt_ids(request.prompt))
