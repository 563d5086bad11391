"""A generator whose policy is served elsewhere, by an OpenAI-compatible server."""

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion, Request
from gru_mem_jax.errors import RunError
from gru_mem_jax.sampling.remote_server import (
    TOO_LATE,
    RefusedError,
    RemoteConfig,
    Server,
)

_LOOK_SECONDS = 0.05  # how often `step_until` looks whether it is called


@dataclasses.dataclass(slots=True)
class _Flight:
    """A request under way."""

    submitted: float
    ends: float  # given up then


class RemoteGenerator:
    """Completes requests on a server; implements the agent's `Interruptible`.

    >>> builder = PromptBuilder(TextTokenizer.from_pretrained(directory), config.prompt)
    >>> generator = RemoteGenerator("http://localhost:8000", None, builder)
    >>> agent = GRUMemAgent(generator, builder.encoder, config)

    A request that the server does not complete, after the retries, ends with
    `Completion.failure`, and the others go on; but only if the server completes others:
    one that is gone is an error. A request that was cancelled is finished by the
    server, and ignored. The key is read from the environment: OPENAI_API_KEY.

    Args:
      url: of the server, such as http://localhost:8000; /v1 is added where it has no
        path.
      model: its name there; None: the only one that is served.
      builder: of the prompts, with the tokenizer of the served model.
      config: how to ask.

    Attributes:
      takes_ids: whether prompts are sent as token ids; else as text.
      window: most tokens of a prompt and its completion; None: not known.

    Raises:
      InputError, RunError: as `Server`.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        builder: PromptBuilder,
        config: RemoteConfig | None = None,
    ):
        self._config = config or RemoteConfig()
        self._server = Server(url, model, builder, self._config)
        self.takes_ids, self.window = self._server.takes_ids, self._server.window
        self._next_handle = 0
        self._waiting: deque[tuple[int, Mapping[str, Any], Request]] = deque()
        self._flights: dict[int, _Flight] = {}
        self._landed: queue.SimpleQueue[tuple[int, Completion, bool]] = (
            queue.SimpleQueue()
        )
        # Failed, and it is not known yet whether the server is gone.
        self._doubtful: list[tuple[int, Completion]] = []

    @property
    def name(self) -> str:
        """Server and model, for reports; without any key."""
        return f"{self._server.model} at {self._server.url}"

    # -- the Generator protocol -------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many requests are under way at once."""
        return self._config.concurrency

    def submit(self, request: Request) -> int:
        """Sends a request, or queues it.

        Raises:
          InputError: it is constrained, has stop strings, or token ids alone for a chat
            server.
        """
        body = self._server.body(request)
        handle = self._next_handle
        self._next_handle += 1
        self._waiting.append((handle, body, request))
        self._send_waiting()
        return handle

    def step(self) -> Sequence[tuple[int, Completion]]:
        """Waits until at least one request ends.

        Raises:
          RunError: requests failed, and the server does not complete another one.
        """
        return self.step_until(lambda: False)

    def step_until(
        self, called: Callable[[], bool]
    ) -> Sequence[tuple[int, Completion]]:
        """As `step`, but returns early once `called()` is true."""
        while self._flights or self._doubtful:
            ended = self._take()
            self._send_waiting()
            if not self._flights and not ended:
                ended = self._cleared()
            if ended:
                return ended
            if called():
                break
        return ()

    def discard(self, handles: Iterable[int]) -> None:
        """Forgets these requests; the server may go on with them."""
        gone = set(handles)
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)
        self._doubtful = [each for each in self._doubtful if each[0] not in gone]
        for handle in gone:
            self._flights.pop(handle, None)
        self._send_waiting()

    def cancel(self) -> None:
        """Forgets all requests."""
        self._waiting.clear()
        self._flights.clear()
        self._doubtful.clear()

    # -- requests under way -----------------------------------------------------------

    def _send_waiting(self) -> None:
        config = self._config
        while self._waiting and len(self._flights) < config.concurrency:
            handle, body, request = self._waiting.popleft()
            now = time.monotonic()
            most = config.seconds * (1 + config.max_retries)
            self._flights[handle] = _Flight(submitted=now, ends=now + most)
            # A daemon: an answer that nobody waits for must not keep the process.
            threading.Thread(
                target=self._fly,
                args=(handle, body, request),
                name=f"request {handle}",
                daemon=True,
            ).start()

    def _fly(self, handle: int, body: Mapping[str, Any], request: Request) -> None:
        """Waits for one answer, in a thread of its own."""
        of_the_server = False
        try:
            completion = self._server.complete(body, request)
        except RefusedError as error:
            completion = Completion.failed(str(error))
            of_the_server = error.of_the_server
        except Exception as error:  # whatever a reply may do to a parser
            completion = Completion.failed(f"{type(error).__name__}: {error!s:.160}")
        self._landed.put((handle, completion, of_the_server))

    def _take(self) -> list[tuple[int, Completion]]:
        """What has ended, after a short wait for it."""
        ended: list[tuple[int, Completion]] = []
        wait = _LOOK_SECONDS if self._flights else 0.0
        while True:
            try:
                handle, completion, of_the_server = self._landed.get(timeout=wait)
            except queue.Empty:
                break
            wait = 0.0
            if (flight := self._flights.pop(handle, None)) is None:
                continue  # cancelled
            seconds = time.monotonic() - flight.submitted
            completion = dataclasses.replace(completion, seconds=seconds)
            if of_the_server:
                self._doubtful.append((handle, completion))
            else:  # the server is there
                ended += [*self._doubtful, (handle, completion)]
                self._doubtful = []
        now = time.monotonic()
        for handle in [h for h, flight in self._flights.items() if flight.ends <= now]:
            seconds = now - self._flights.pop(handle).submitted
            self._doubtful.append((handle, Completion.failed(TOO_LATE, seconds)))
        return ended

    def _cleared(self) -> list[tuple[int, Completion]]:
        """The failures that are in doubt, if the server completes another request."""
        failed, self._doubtful = self._doubtful, []
        if failed:
            try:
                self._server.check()
            except RefusedError as error:
                last = failed[-1][1].failure
                raise RunError(
                    f"{self.name} does not answer any more ({error}); the last of "
                    f"{len(failed)} requests failed with: {last}"
                ) from None
        return failed
